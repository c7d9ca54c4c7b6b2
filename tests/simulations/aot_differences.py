"""How large is each difference between the AOT paper and its released code?

Synthetic frames in the manner of encoder features: a smooth 27x27 field that drifts from frame to
frame, a shared offset and white noise, with peaked attention. No pretrained model is involved, so
the figures are orders of magnitude. Prints a Markdown table: median over seeds (min - max).

    PYTHONPATH=tests python -m simulations.aot_differences [--seeds 8] [--dim 256]
"""

import argparse
import platform
import statistics
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

import tokenred
from tokenred.pipeline.flow import Flow

GRID, FRAMES = (27, 27), 32
CUES = ("attention@0.2", "attention@-2")


def structured_video(seed: int, dim: int) -> tokenred.VisualTokens:
    """Return 32 frames of smooth, slowly drifting features with a mean cosine of about 0.43."""
    generator = torch.Generator().manual_seed(seed)

    def field(channels: int) -> torch.Tensor:
        coarse = torch.randn(FRAMES // 4 + 1, channels, 7, 7, generator=generator)
        fine = F.interpolate(coarse, size=GRID, mode="bicubic", align_corners=True)
        steps = torch.linspace(0, FRAMES // 4, FRAMES)
        low = steps.floor().long().clamp_max(FRAMES // 4 - 1)
        part = (steps - low)[:, None, None, None]
        moved = (1 - part) * fine[low] + part * fine[low + 1]
        return moved.flatten(2).mT

    offset = 0.8 * torch.randn(1, 1, dim, generator=generator)
    noise = 0.3 * torch.randn(FRAMES, GRID[0] * GRID[1], dim, generator=generator)
    features = field(dim) + offset + noise
    cues = {name: (4 * field(1)[..., 0]).softmax(-1) for name in CUES}
    return tokenred.VisualTokens.of(features, GRID, cues=cues, native_pool="bilinear")


def anchor_move(tokens: tokenred.VisualTokens, overrides: Mapping[str, Any]) -> float:
    """Return by how much the frame stage moves its anchors, in per cent of their norm."""
    pipeline = tokenred.load_pipeline("aot-paper", {"stages.inter_frame": None, **overrides})
    flow = Flow.start(tokens, pipeline.config.budget, torch.Generator(), False)
    pipeline.stages["intra_frame"].run(flow)
    keep = flow.tokens.keep
    before, after = tokens.features[keep], flow.tokens.features[keep]
    return 100 * float(((after - before).norm(dim=-1) / before.norm(dim=-1)).mean())


def measure(tokens: tokenred.VisualTokens) -> dict[str, float]:
    """Return every figure for one video."""
    frame_only = {"stages.pool.keep": "count"}
    coupler = "stages.intra_frame.coupler"
    released = tokenred.load_pipeline("aot-released")
    blend = released.config.to_dict()["stages"]["intra_frame"]["aggregator"]
    spatial = ["cosine", {"name": "spatial", "weight": 0.5}]
    out = {
        "anchor move, plan mass as in the paper (%)": anchor_move(tokens, frame_only),
        "anchor move, unit mass per source (%)": anchor_move(
            tokens, {**frame_only, "stages.intra_frame.aggregator.mass": "unit"}
        ),
        "anchor move, plan mass with the released blend (%)": anchor_move(
            tokens, {**frame_only, "stages.intra_frame.aggregator": blend}
        ),
        "anchor move, plan mass with the released spatial cost (%)": anchor_move(
            tokens, {**frame_only, "stages.intra_frame.cost": spatial}
        ),
    }
    paper = tokenred.load_pipeline("aot-paper").run(tokens).realised
    out["sweeps inside frames, Algorithm 1"] = paper.stages[0].n_iter
    tight = {f"{coupler}.stop": "residual", f"{coupler}.tolerance": 1e-3}
    full = tokenred.load_pipeline("aot-paper", tight).run(tokens).realised
    out["sweeps inside frames, to a residual of 1e-3"] = full.stages[0].n_iter
    reduced = released.run(tokens)
    out["sweeps inside frames, released rule"] = reduced.realised.stages[0].n_iter
    out["released retention, nominal 10 (%)"] = 100 * reduced.realised.retention_ratio
    anchors_only = tokenred.load_pipeline("aot-released", {"stages.inter_frame": None}).run(tokens)
    per_frame = anchors_only.realised.tokens_per_frame
    out["released cells a frame after pooling, fewest"] = min(per_frame)
    out["released cells a frame after pooling, most"] = max(per_frame)
    place = reduced.frame_index * reduced.grid[0] * reduced.grid[1] + reduced.token_index
    twins = len(place) - len(place.unique())
    out["released tokens that are second copies (%)"] = 100 * twins / len(place)
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--dim", type=int, default=256)
    args = parser.parse_args()
    runs = [measure(structured_video(seed, args.dim)) for seed in range(args.seeds)]
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"tokenred {tokenred.__version__}, {versions}; {args.seeds} seeds,")
    print(f"{FRAMES} frames x 729 tokens x {args.dim}, float32\n")
    print("| measured | median (min - max) |\n|---|---|")
    for name in runs[0]:
        values = [run[name] for run in runs]
        median = statistics.median(values)
        print(f"| {name} | {median:.3g} ({min(values):.3g} - {max(values):.3g}) |")


if __name__ == "__main__":
    main()
