"""One encoded clip as a safetensors file: read back bit for bit, or not at all."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenred.models.splice import Clip, ClipLayout
from tokenred.types import Segments, VisualTokens

FILE_VERSION = 1
_CUE = "cue "


def digest(data: bytes | memoryview | Any) -> str:
    """Return 32 hex digits over bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def tensor_bytes(tensor: Tensor) -> Any:
    """Return the bytes of a tensor as a flat array, whatever its dtype and device."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def n_bytes(clip: Clip) -> int:
    """Return the bytes that the tensors of a clip take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(clip).values())


def write_clip(path: Path, key: str, needs: Collection[str], clip: Clip) -> None:
    """Write a clip.

    Parameters
    ----------
    key : what the clip is; ``read_clip`` wants the same
    needs : cues that were asked for

    Raises
    ------
    OSError, SafetensorError
        If it cannot be written.
    """
    from safetensors.torch import save_file

    tensors = _tensors(clip)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    segments = clip.tokens.segments
    about = {
        "version": FILE_VERSION,
        "key": key,
        "needs": sorted(needs),
        "layout": asdict(clip.layout),
        "grid": clip.tokens.grid,
        "native_pool": clip.tokens.native_pool,
        "segments": None if segments is None else segments.boundaries,
        "tensors": {
            name: {
                "digest": digest(tensor_bytes(plain[name])),
                "stride": tensor.stride(),
                "on_cpu": tensor.device.type == "cpu",
            }
            for name, tensor in tensors.items()
        },
    }
    text = json.dumps(about)
    save_file(plain, path, {"clip": text, "digest": digest(text.encode())})


def read_clip(
    path: Path, key: str, needs: Collection[str], device: torch.device
) -> tuple[Clip | None, frozenset[str]]:
    """Return the clip with just the cues that are needed, and the names of all that are there.

    The clip is None if there is no file, it is damaged, belongs to another key, or lacks a cue.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = _about(file.metadata(), key)
            stored = frozenset(about["needs"])
            if not frozenset(needs) <= stored:
                return None, stored
            left_out = {_CUE + name for name in stored - frozenset(needs)}
            tensors = {
                name: _restored(file.get_tensor(name), facts, device)
                for name, facts in about["tensors"].items()
                if name not in left_out
            }
            return _clip(about, tensors), stored
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError):
        return None, frozenset()  # whatever it is, it is not what was written


def _about(metadata: Mapping[str, str] | None, key: str) -> dict[str, Any]:
    text = (metadata or {})["clip"]
    about = json.loads(text)
    if digest(text.encode()) != (metadata or {})["digest"]:
        raise ValueError("damaged")
    if about["version"] != FILE_VERSION or about["key"] != key:
        raise ValueError("foreign")
    return dict(about)


def _restored(tensor: Tensor, facts: Mapping[str, Any], device: torch.device) -> Tensor:
    """Check a tensor and give it the strides that it had, on which the last bits may depend."""
    if digest(tensor_bytes(tensor)) != facts["digest"]:
        raise ValueError("damaged")
    where = torch.device("cpu") if facts["on_cpu"] else device
    if 0 in facts["stride"]:  # expanded: one place in memory stands for many
        return tensor.to(where, copy=True)
    empty = torch.empty_strided(tensor.shape, facts["stride"], dtype=tensor.dtype, device=where)
    return empty.copy_(tensor)


def _tensors(clip: Clip) -> dict[str, Tensor]:
    tokens = clip.tokens
    found = {
        "features": tokens.features,
        "keep": tokens.keep,
        "frame_times": tokens.frame_times,
        **{_CUE + name: value for name, value in tokens.cues.items()},
    }
    return found if clip.deepstack_features is None else {**found, "deep": clip.deepstack_features}


def _clip(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Clip:
    layout = {**about["layout"], "grid": tuple(about["layout"]["grid"])}
    segments = about["segments"]
    return Clip(
        tokens=VisualTokens(
            features=tensors["features"],
            grid=tuple(about["grid"]),
            keep=tensors["keep"],
            frame_times=tensors["frame_times"],
            cues={
                name.removeprefix(_CUE): tensor
                for name, tensor in tensors.items()
                if name.startswith(_CUE)
            },
            native_pool=about["native_pool"],
            segments=None if segments is None else Segments(tuple(segments)),
        ),
        layout=ClipLayout(**layout),
        deepstack_features=tensors.get("deep"),
    )
