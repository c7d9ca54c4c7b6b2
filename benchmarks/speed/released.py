"""AOT as it was released, in the form in which it was released: what users run today.

Our own implementation from a description of TyroneLi/AOT@88455ee (``llava_arch.py``), nothing
copied. It computes what preset ``aot-released`` computes, which a test checks, and it does so the
way the release does, because that way is what is measured: a Python loop over windows with a read
of every index, all pairs of features broadcast against each other for the cosine, transposed copies
of the kernel in every sweep, a stop test that reads a number back in every sweep, and one call
after the other in time. The nearest-neighbour part is in its cheap form, as a matrix product.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

EPSILON, MAX_ITER, TOLERANCE = 0.1, 100, 0.01
WINDOW = 9
GLOBAL_RATIO = 0.5
SPATIAL_WEIGHT = 0.5
NEAREST_SHARE = 0.1
SIGMA_FRAMES = 1.5
CLIPPED = 1e-6


def sinkhorn(
    kernel: Float[Tensor, "batch sources anchors"],
    source: Float[Tensor, "batch sources"],
    anchor: Float[Tensor, "batch anchors"],
    max_iter: int = MAX_ITER,
    tolerance: float | None = TOLERANCE,
) -> tuple[Float[Tensor, "batch sources anchors"], int]:
    """Return plan and sweeps; sources first, anchors last.

    Parameters
    ----------
    kernel : exp(-cost / epsilon)
    tolerance : of the mean change of the source scaling over the whole batch; None: no stop test
    """
    r, c = torch.ones_like(source), torch.ones_like(anchor)
    n_iter = 0
    for n_iter in range(1, max_iter + 1):  # noqa: B007 - the count is returned
        before = r
        r = source / torch.matmul(kernel, c[..., None])[..., 0]
        c = anchor / torch.matmul(kernel.transpose(1, 2).contiguous(), r[..., None])[..., 0]
        if tolerance is not None and (r - before).abs().mean().item() < tolerance:
            break
    return r[..., :, None] * kernel * c[..., None, :], n_iter


def window_picks(attention: Float[Tensor, "frames tokens"], side: int, budget: int) -> list[Tensor]:
    """Return for each frame the indices of the most attended tokens of every window."""
    per_side = side // WINDOW
    quota = budget // per_side**2
    picks = []
    for frame in attention:
        grid, found = frame.view(side, side), []
        for top in range(0, per_side * WINDOW, WINDOW):
            for left in range(0, per_side * WINDOW, WINDOW):
                window = grid[top : top + WINDOW, left : left + WINDOW].reshape(-1)
                for place in window.topk(quota).indices:
                    row, column = divmod(place.item(), WINDOW)
                    found.append((top + row) * side + left + column)
        picks.append(torch.tensor(found, device=attention.device))
    return picks


def anchors(
    shallow: Float[Tensor, "frames tokens"], deep: Float[Tensor, "frames tokens"], n_anchors: int
) -> Bool[Tensor, "frames tokens"]:
    """Return the mask of local and global anchors."""
    side = int(shallow.shape[1] ** 0.5)
    local_budget = int(n_anchors * (1 - GLOBAL_RATIO))
    local = window_picks(shallow, side, local_budget)
    mask = torch.zeros_like(shallow, dtype=torch.bool)
    for frame, picks in enumerate(local):
        rest = deep[frame].clone()
        rest[picks] = 0.0
        mask[frame, picks] = True
        mask[frame, rest.topk(n_anchors - local_budget).indices] = True
    return mask


def merge(
    features: Float[Tensor, "frames tokens dim"],
    mask: Bool[Tensor, "frames tokens"],
    tolerance: float | None = TOLERANCE,
) -> tuple[Float[Tensor, "frames anchors dim"], int]:
    """Return the merged anchors in raster order, and the sweeps that were made."""
    frames, tokens, _ = features.shape
    side = int(tokens**0.5)
    chosen = torch.stack([frame[own] for frame, own in zip(features, mask)])
    others = torch.stack([frame[~own] for frame, own in zip(features, mask)])
    line = torch.linspace(0, 1, side, device=features.device, dtype=features.dtype)
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y], -1).view(-1, 2)
    cosines, distances = [], []
    for one, two, own in zip(others, chosen, mask):
        cosines.append(F.cosine_similarity(one[:, None, :], two[None, :, :], dim=-1))
        distances.append(torch.cdist(places[~own], places[own]))
    cosine, distance = torch.stack(cosines), torch.stack(distances)
    kernel = torch.exp(-(1 - cosine + SPATIAL_WEIGHT * distance) / EPSILON)
    n, m = kernel.shape[1:]
    plan, n_iter = sinkhorn(
        kernel,
        kernel.new_full((frames, n), 1 / n),
        kernel.new_full((frames, m), 1 / m),
        tolerance=tolerance,
    )
    load = plan.sum(1).clamp_min(1e-9)[..., None]
    moved = (chosen + torch.matmul(plan.transpose(1, 2), others)) / (1 + load)
    return (1 - NEAREST_SHARE) * moved + NEAREST_SHARE * _nearest(others, chosen), n_iter


def _nearest(
    others: Float[Tensor, "frames sources dim"], chosen: Float[Tensor, "frames anchors dim"]
) -> Float[Tensor, "frames anchors dim"]:
    unit = F.normalize(others, dim=-1), F.normalize(chosen, dim=-1)
    best = torch.matmul(unit[0], unit[1].transpose(1, 2)).argmax(-1)
    total, count = chosen.clone(), torch.ones_like(chosen[..., :1])
    total.scatter_add_(1, best[..., None].expand_as(others), others)
    count.scatter_add_(1, best[..., None], torch.ones_like(others[..., :1]))
    return total / count


def frame_stage(
    features: Float[Tensor, "frames tokens dim"],
    shallow: Float[Tensor, "frames tokens"],
    deep: Float[Tensor, "frames tokens"],
    n_anchors: int,
    tolerance: float | None = TOLERANCE,
) -> tuple[Float[Tensor, "frames anchors dim"], Bool[Tensor, "frames tokens"], int]:
    """Return the merged anchors, where they stand, and the sweeps that were made."""
    mask = anchors(shallow, deep, n_anchors)
    merged, n_iter = merge(features, mask, tolerance)
    return merged, mask, n_iter


def merge_in_time(
    clip: list[Float[Tensor, "tokens dim"]],
    keep_ratio: float = 0.3,
    tolerance: float | None = TOLERANCE,
) -> Float[Tensor, "kept dim"]:
    """Return original anchors, what stays of the later frames, merged anchors: one clip."""
    anchor = clip[0]
    out = [anchor]
    for gap, frame in enumerate(clip[1:], start=1):
        cosine = F.normalize(frame, dim=-1) @ F.normalize(anchor, dim=-1).transpose(0, 1)
        cost = 1 - cosine.clamp(CLIPPED - 1, 1 - CLIPPED)
        near = 1 - torch.exp(-torch.tensor(gap**2 / (2 * SIGMA_FRAMES**2 + 1e-9)))
        kernel = torch.exp(-(cost - cost.min()) * near / EPSILON)[None]
        n, m = kernel.shape[1:]
        uniform = kernel.new_full((1, n), 1 / n), kernel.new_full((1, m), 1 / m)
        plan, _ = sinkhorn(kernel, *uniform, tolerance=tolerance)
        share = plan[0] / plan[0].sum(-1, keepdim=True).clamp_min(1e-9)
        score = share.amax(-1)
        stays = score < torch.quantile(score.double(), keep_ratio).item()
        gone = share[~stays]
        anchor = (anchor + gone.transpose(0, 1) @ frame[~stays]) / (1 + gone.sum(0)[:, None])
        out.append(frame[stays])
    return torch.cat([*out, anchor])


def segment_stage(
    frames: list[Float[Tensor, "tokens dim"]],
    segment_frames: int,
    keep_ratio: float = 0.3,
    tolerance: float | None = TOLERANCE,
) -> Float[Tensor, "kept dim"]:
    """Merge in time, one clip of ``segment_frames`` after the other."""
    starts = range(0, len(frames), segment_frames)
    clips = [frames[start : start + segment_frames] for start in starts]
    return torch.cat([merge_in_time(clip, keep_ratio, tolerance) for clip in clips])
