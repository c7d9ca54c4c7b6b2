"""Read damaged settings: each is accepted and works, or refused by a sentence, in five seconds.

``PYTHONPATH=tests python -m fuzz.configs --n 10000 --seed 0`` (``make fuzz``). Pipelines,
ablations, tasks, questions, model configs and values of ``--set`` are what tokenred ships,
with values that nobody means, keys that stand twice, and damaged bytes. A pipeline that is accepted
also runs. Exits with 4 if there was a finding.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz.damage import damaged
from fuzz.runner import Kind, main
from tokenred.errors import TokenredError

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**26, 0.0, -0.5, 1e-300, 1e11, 1e300),
    *("", " ", "x", "no", "²", "a.b.c", "é\N{SNOWMAN}", "x" * 20_000, "1/0", "1e999999999"),
    *("budget", "budget - 9", "budget * 2", "126/729", "count", "pooler", "auto", "../x.yaml"),
    *([], [1], [[1]], ["random"], {}, {"1": 2}, {"name": "random"}, {"name": ["x"]}),
    *({"kind": "frame"}, {"name": "sinkhorn", "epsilon": 0}, {"0.1": 0.5}),
)
NUMBERS = (
    *(0, 1, 2, 3, 5, 7, 16, 100, 1000, 1024, 10**5, 2**20, 2**24, 2**31, 2**63 - 1, -1, -2, -100),
    *(1e-300, 1e-6, 1e-3, 0.01, 0.1, 0.25, 0.5, 0.9, 0.999, 1.0, 1.5, 10.0, 1e6, -0.1, -1.0, -1e6),
)
TEXTS = (
    *("&a [*a]", "*a", "!!python/name:os.system", "!x 1", "<<: 1", "? [a]\n: b", "---\n", "...\n"),
    *("[" * 500, "{a: " * 500, "{}" * 500, "- " * 300, "\t", "\0", "\x1b", "\ufeff", "%YAML 9\n"),
    *(".nan", "-.inf", "NaN", "9" * 5000, "1e999", "0x", "2024-01-01", "1:30", "on", "010", "="),
    *("null: 1\n", "1: 2\n", "'", '"', "\\u0000", "\\ud800", "|\n", ">-\n", "#", "\r", "\u2028"),
    *("extends: damaged.yaml\n", "extends: ''\n", "set: {1: 2}\n", "by_retention: {x: {}}\n"),
    "a: &a [x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e]\n",
)
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp037")
QUESTIONS = [
    {"video": "a.mp4", "question": "which ?", "options": ["red", "blue"], "answer": "red"},
    {"video": "b.mp4", "question": "how many ?", "answer": ["3", "three"], "kind": "count"},
    {"video": "a.mp4", "question": "what ?", "options": ["x", "y", "z"], "answer": 2},
]
TASK = {
    "name": "local",
    "path": "questions.jsonl",
    "frames": 8,
    "limits": {"max_frames": 9, "max_damage": 0.5},
    "scorer": {"name": "contains"},
    "calibration": 1,
}
MODEL = {
    "model_type": "qwen2_vl",
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 16,
        "num_experts": 0,
        "layer_types": ["full_attention"] * 4,
    },
}


@cache
def sources() -> dict[str, list[Any]]:
    """Return what is damaged: by what reads it, plain data."""
    from tokenred.files import read_yaml
    from tokenred.pipeline import load_config
    from tokenred.plugins import registry

    presets, ablations = registry().presets(), registry().ablations()
    written = [read_yaml(path) for path, _ in presets.values()]
    return {
        "pipeline": [*written, *(load_config(name).to_dict() for name in presets)],
        "ablation": [read_yaml(path) for path, _ in ablations.values()],
        "task": [TASK, {"name": "embedded", "seed": 3}],
        "jsonl": [QUESTIONS],
        "model": [MODEL],
        "set": list(presets),
    }


WEIGHTS = {"pipeline": 40, "set": 30, "ablation": 10, "jsonl": 10, "task": 5, "model": 5}


def cases(n: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield name, content and arguments of damaged settings; the same for the same seed."""
    for number in range(n):
        random = Random(f"{seed} {number}")
        (what,) = random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        source = random.choice(sources()[what])
        if what == "set":
            yield "set.txt", _pairs(source, random), {"what": what, "preset": source}
            continue
        data = source
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            data = changed(data, random)
        lines = data if what == "jsonl" and isinstance(data, list) else [data]
        text = "\n".join(_written(each, what, random) for each in lines)
        suffix = {"jsonl": "jsonl", "model": "json"}.get(what, "yaml")
        yield f"{what}.{suffix}", _bytes(text, random), {"what": what}


def changed(data: Any, random: Random) -> Any:
    """Return data with one value, somewhere in it, changed, added, lost or wrapped."""
    if isinstance(data, dict) and data and random.random() < 0.9:
        key = random.choice([key for key in data if key != "about"] or list(data))
        return {**data, key: changed(data[key], random)}
    if isinstance(data, list) and data and random.random() < 0.9:
        place = random.randrange(len(data))
        return [*data[:place], changed(data[place], random), *data[place + 1 :]]
    if isinstance(data, dict) and data and random.random() < 0.6:
        key = random.choice(list(data))
        rest = {name: value for name, value in data.items() if name != key}
        return random.choice((rest, {**rest, f"{key}x": data[key]}, {**data, "more": 1}))
    if random.random() < 0.1:
        for _ in range(random.choice((1, 3, 40))):
            data = random.choice(([data], {"a": data}))
        return data
    return other(data, random)


def other(value: Any, random: Random) -> Any:
    """Return another value, of the same kind more often than not, so that many are accepted."""
    chance = random.random()
    if isinstance(value, bool) and chance < 0.8:
        return not value
    if isinstance(value, int | float) and chance < 0.8:
        return random.choice(NUMBERS)
    if isinstance(value, str) and chance < 0.5:
        return random.choice(names())
    return random.choice(VALUES)


@cache
def names() -> list[str]:
    """Return what strategies and their choices are called."""
    from tokenred.plugins import registry

    found = {entry.name for entry in registry().entries()}
    for entry in registry().entries():
        for schema in entry.config_class.model_json_schema()["properties"].values():
            found |= {each for each in schema.get("enum", ()) if isinstance(each, str)}
    return sorted(found)


def _written(data: Any, what: str, random: Random) -> str:
    """Write data as JSON, which YAML reads as well, or as YAML in blocks."""
    import yaml

    if what in ("jsonl", "model") or random.random() < 0.3:
        text = json.dumps(data, ensure_ascii=random.random() < 0.5)
    else:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    for _ in range(random.choice((0, 0, 0, 0, 0, 0, 1, 2))):
        lines = text.split("\n")
        place = random.randrange(len(lines))
        if random.random() < 0.4:  # stands twice
            lines.insert(place, random.choice(lines))
            text = "\n".join(lines)
        else:
            at = random.randrange(len(text) + 1)
            text = text[:at] + random.choice(TEXTS) + text[at:]
    return text


def _bytes(text: str, random: Random) -> bytes:
    chance = random.random()
    if chance < 0.03:
        return text.encode(random.choice(ENCODINGS), "replace")
    data = text.encode("utf-8", "surrogatepass")
    return damaged(data, random) if chance < 0.1 else data


def _pairs(preset: str, random: Random) -> bytes:
    """Return values of ``--set``, one a line."""
    from tokenred.pipeline import load_config

    values = _values(load_config(preset).to_dict())
    values = {path: value for path, value in values.items() if not path.startswith("about")}
    numbers = [path for path, value in values.items() if isinstance(value, int | float)]
    pairs = []
    for _ in range(random.choice((1, 1, 2, 3))):
        path = random.choice(numbers if random.random() < 0.7 else list(values))
        text = json.dumps(other(values[path], random))
        chance = random.random()
        if chance < 0.1:
            path += random.choice((".", ".x", ".0", ".²", ".a" * 50, "..", " ", ".name", "\0"))
        elif chance < 0.2:
            text = random.choice(TEXTS)
        pairs.append(f"{path}={text}".replace("\n", " "))
    return "\n".join(pairs).encode("utf-8", "surrogatepass")


def _values(data: Any, path: str = "") -> dict[str, Any]:
    """Return dotted path -> value of everything inside."""
    inner: dict[Any, Any] = dict(enumerate(data)) if isinstance(data, list) else {}
    inner = data if isinstance(data, dict) else inner
    found = {path: data} if path else {}
    for key, value in inner.items():
        found |= _values(value, f"{path}.{key}".lstrip("."))
    return found


def attempt(path: Path, given: dict[str, Any]) -> str:
    """Read a file of settings as the verbs do; return what became of it."""
    return READERS[given["what"]](path, given)


def _pipeline(path: Path, given: dict[str, Any]) -> str:
    from tokenred.pipeline import load_config

    return _works(load_config(str(path)))


def _set(path: Path, given: dict[str, Any]) -> str:
    from tokenred.cli._common import parse_overrides
    from tokenred.pipeline import load_config

    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return _works(load_config(given["preset"], parse_overrides(text.split("\n"))))


def _works(config: Any) -> str:
    """Use a pipeline as a run does; return how."""
    from tokenred.pipeline import Pipeline, load_config
    from tokenred.testing.videos import cue_width, video_tokens

    again = load_config(json.loads(json.dumps(config.to_dict())))
    if again.config_id != config.config_id:
        return "written and read again, it is another pipeline"
    pipeline = Pipeline(config)
    try:
        for name in pipeline.needs - {"pooler"}:
            cue_width(name)
    except ValueError:
        return "accepted"  # reads a cue of somebody's own
    kept = pipeline.run(video_tokens(4, (6, 6), needs=pipeline.needs))
    return "ran" if kept.features.isfinite().all() else "what is kept is not finite"


def _ablation(path: Path, given: dict[str, Any]) -> str:
    from tokenred.evaluation.ablation import load_ablation

    load_ablation(str(path)).expand()
    return "accepted"


def _task(path: Path, given: dict[str, Any]) -> str:
    from tokenred.evaluation.task import load_task

    (path.parent / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    load_task(str(path))
    return "accepted"


def _model(path: Path, given: dict[str, Any]) -> str:
    from tokenred.accounting.shape import find_shape

    find_shape(str(path))
    return "accepted"


READERS: dict[str, Callable[[Path, dict[str, Any]], str]] = {
    "pipeline": _pipeline,
    "set": _set,
    "ablation": _ablation,
    "task": _task,
    "jsonl": _task,
    "model": _model,
}


def prepare() -> None:
    """Keep torch on one thread and quiet about what it is given; import what readers need."""
    import warnings

    import torch

    from tokenred.accounting.shape import LlmShape
    from tokenred.evaluation.ablation import load_ablation
    from tokenred.pipeline import load_config

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    LlmShape.of(MODEL)
    load_ablation("components").expand()
    for name in sources()["set"]:
        with suppress(TokenredError):
            _works(load_config(name))


CONFIGS_KIND = Kind("configs", ("ran", "accepted"), cases, attempt, prepare, 10_000)

if __name__ == "__main__":
    raise SystemExit(main(CONFIGS_KIND))
