"""A public name means one thing: no two modules define it differently."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAME_MEANING = {
    "cosine_cost": "the device function of a Triton kernel has the name of its launcher",
    "solve": "the Sinkhorn solver of each backend",
    "tile": "the block sizes of each Triton kernel",
}
EXEMPT = "tokenred.testing._"
"""The contracts: what holds for several roles has one name there."""
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def defined(tree: ast.Module) -> set[str]:
    """Return the public classes and functions of a module; hooks are named by their spec."""
    found = [node for node in tree.body if isinstance(node, DEFINITIONS)]
    return {
        node.name
        for node in found
        if not node.name.startswith("_") and "hookimpl" not in map(ast.unparse, node.decorator_list)
    }


def homes(root: Path) -> dict[str, list[str]]:
    """Return the modules that define each public name, apart from the contracts."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / "tokenred").rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        if not module.startswith(EXEMPT):
            for name in defined(ast.parse(path.read_text(encoding="utf-8"))):
                found[name].append(module)
    return found


def test_a_public_name_is_defined_in_one_module() -> None:
    several = {name: modules for name, modules in homes(ROOT).items() if len(modules) > 1}
    assert {name: several[name] for name in several if name not in SAME_MEANING} == {}
    assert set(SAME_MEANING) <= set(several)


def test_a_name_with_two_homes_is_found(tmp_path: Path) -> None:
    package = tmp_path / "tokenred"
    package.mkdir()
    for name in ("one", "other"):
        (package / f"{name}.py").write_text("def total(): ...\ndef _own(): ...\n")
    (package / "third.py").write_text("from tokenred.one import total\n")
    assert homes(tmp_path) == {"total": ["tokenred.one", "tokenred.other"]}
