"""Heat map of the sources of one token over the frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import InputError
from tokenred.report.viz.fates import NOTHING
from tokenred.report.viz.overlay import COLUMNS, HEAD, LABEL, LINE
from tokenred.report.viz.style import (
    GAP,
    INK,
    MARGIN,
    cell_box,
    draw_frame,
    line_width,
    new_figure,
    panel,
    panel_height,
    panel_width,
    write,
)
from tokenred.report.viz.view import View

STRONGEST = "strongest"
WEAKEST_SHOWN = 1e-3
"""Smallest weight on the scale, as a share of the largest."""
SCALE = 0.95
"""Inches on the right for the scale."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """One kept token, with the weights of its sources.

    Attributes
    ----------
    token : its number in the sequence
    frame, row, column : its place on the LLM's grid
    weights : (frames, rows, columns) of the encoder, what every patch gives
    """

    token: int
    frame: int
    row: int
    column: int
    weights: Float[Tensor, "frames rows columns"]

    @property
    def per_frame(self) -> tuple[float, ...]:
        """Sum of the weights of each frame."""
        return tuple(self.weights.flatten(1).sum(1).tolist())


def find_anchor(view: View, wanted: str | tuple[int, int, int] = STRONGEST) -> Anchor:
    """Return a kept token with its weights.

    Parameters
    ----------
    wanted : frame, row and column on the LLM's grid, or ``strongest``: the token that stands for
        most others; among equal ones that with the most patches, then the first

    Raises
    ------
    InputError
        If there is no such place, or no token was kept there.
    """
    reduced = view.reduced
    frame, cell = reduced.frame_index.cpu(), reduced.token_index.cpu()
    columns = reduced.grid[1]
    view.fates  # noqa: B018 - refuses what has no trace that fits
    assert reduced.trace is not None
    trace = reduced.trace.detach().cpu().coalesce()
    if wanted == STRONGEST:
        real = trace.values().abs() > NOTHING
        patches = trace.indices()[0][real].bincount(minlength=len(frame)).double()
        rank = reduced.mass.cpu().double().round(decimals=6) + patches / (patches.max() + 1) * 1e-6
        token = int(rank.argmax())
    else:
        token = _token_at(view, wanted)  # type: ignore[arg-type]
    row, column = divmod(int(cell[token]), columns)
    weights = torch.index_select(trace, 0, torch.tensor([token])).to_dense()[0].float()
    shape = (len(view.pixels), *view.grid)
    return Anchor(token, int(frame[token]), row, column, weights.view(shape))


def _token_at(view: View, place: tuple[int, int, int]) -> int:
    """Return the token at a place; of two the one with more mass."""
    reduced, (rows, columns) = view.reduced, view.reduced.grid
    size = (len(view.pixels), rows, columns)
    if len(place) != 3 or not all(0 <= at < n for at, n in zip(place, size)):
        raise InputError(
            f"there is no anchor {','.join(map(str, place))}: there are {size[0]} frames of "
            f"{rows}x{columns} cells, counted from 0"
        )
    frame, cell = reduced.frame_index.cpu(), reduced.token_index.cpu()
    there = (frame == place[0]) & (cell == place[1] * columns + place[2])
    if not bool(there.any()):
        kept = sorted(set(cell[frame == place[0]].tolist()))
        near = sorted(
            kept, key=lambda c: (abs(c // columns - place[1]) + abs(c % columns - place[2]), c)
        )
        some = " ".join(f"{place[0]},{c // columns},{c % columns}" for c in near[:3])
        raise InputError(
            f"{view.name} kept no token at {','.join(map(str, place))}; "
            + (f"near it: {some}" if some else f"frame {place[0]} has none")
        )
    return int(torch.where(there, reduced.mass.cpu(), -1.0).argmax())


def anchor_map(
    pairs: Sequence[tuple[View, Anchor]], *, title: str = "", columns: int = COLUMNS
) -> Any:
    """Draw the sources of a token of every view: brighter patches have more weight.

    Shows at most ``columns`` frames, those with most weight. The token's own place is framed.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if not pairs:
        raise InputError("there is nothing to draw")
    shown = [_frames(anchor, columns) for _, anchor in pairs]
    wide = panel_width([view for view, _ in pairs])
    width = max(6.4, 2 * MARGIN + max(map(len, shown)) * (wide + GAP) + SCALE)
    heights = [panel_height(view, wide) for view, _ in pairs]
    top = MARGIN + (HEAD if title else 0.0)
    rest = len(pairs) * (2 * LINE + 2 * LABEL) + sum(heights)
    figure = new_figure(width, top + rest + MARGIN, title)
    for (view, anchor), frames, high in zip(pairs, shown, heights):
        write(figure, MARGIN, top + 0.03, view.title, weight="bold", fontsize=9.5)
        write(figure, MARGIN, top + LINE, _sentence(view, anchor, frames))
        _draw_row(figure, view, anchor, frames, top + 2 * LINE, (wide, high))
        top += 2 * LINE + 2 * LABEL + high
    return figure


def _colours() -> Any:
    """Return a colour map that brightens with the weight, without its darkest colours."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["inferno"](torch.linspace(0.25, 1, 192).numpy()))


def _frames(anchor: Anchor, most: int) -> list[int]:
    """Return the frames to show, in order: those with most weight, and the token's own."""
    given = anchor.weights.abs().flatten(1).sum(1)
    order = given.argsort(descending=True, stable=True).tolist()
    gave = [frame for frame in order if float(given[frame]) > NOTHING and frame != anchor.frame]
    return sorted([anchor.frame, *gave[: most - 1]])


def _sentence(view: View, anchor: Anchor, frames: Sequence[int]) -> str:
    gave = (anchor.weights.abs() > NOTHING).flatten(1).any(1)
    n_patches = int((anchor.weights.abs() > NOTHING).sum())
    total, hidden = int(gave.sum()), int(gave.sum()) - int(gave[list(frames)].sum())
    text = (
        f"token at {anchor.frame},{anchor.row},{anchor.column} holds {n_patches} "
        f"{'patch' if n_patches == 1 else 'patches'} of {total} "
        f"{'frame' if total == 1 else 'frames'}"
    )
    return f"{text}; {hidden} frames that gave least are not shown" if hidden else text


def _draw_row(
    figure: Any,
    view: View,
    anchor: Anchor,
    frames: Sequence[int],
    top: float,
    size: tuple[float, float],
) -> None:
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    wide, high = size
    largest = max(float(anchor.weights.abs().max()), NOTHING)
    norm = LogNorm(largest * WEAKEST_SHOWN, largest, clip=True)
    total = sum(map(abs, anchor.per_frame)) or 1.0
    rows, columns = view.grid
    image = None
    for column, frame in enumerate(frames):
        left = MARGIN + column * (wide + GAP)
        axes = panel(figure, left, top, wide, high)
        draw_frame(axes, view, frame, grey=True)
        weights = anchor.weights[frame].abs().numpy()
        image = axes.imshow(
            weights,
            extent=(0, columns, rows, 0),
            aspect="auto",
            interpolation="nearest",
            cmap=_colours(),
            norm=norm,
            alpha=(0.3 + 0.65 * norm(weights)) * (weights > NOTHING),
        )
        if frame == anchor.frame:
            x, y, w, h = cell_box(view, anchor.row * view.reduced.grid[1] + anchor.column, -0.15)
            for points, colour in ((3.6, "black"), (1.8, "white")):
                line = line_width(axes, view, points)
                style: dict[str, Any] = {
                    "facecolor": "none",
                    "edgecolor": colour,
                    "linewidth": line,
                }
                axes.add_patch(Rectangle((x, y), w, h, clip_on=False, **style))
        share = abs(anchor.per_frame[frame]) / total
        write(figure, left, top + high + 0.03, view.labels[frame])
        write(figure, left + wide, top + high + 0.03, f"{share:.1%}", ha="right")
    left = MARGIN + len(frames) * (wide + GAP)
    scale = figure.colorbar(image, cax=panel(figure, left, top, 0.12, high))
    scale.solids.set_alpha(1)
    scale.outline.set_linewidth(0.5)
    scale.ax.minorticks_off()
    scale.ax.tick_params(labelsize=7.5, colors=INK, length=2)
    scale.set_label("weight", fontsize=8, color=INK)
