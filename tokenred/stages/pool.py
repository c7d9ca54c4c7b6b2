"""The pool stage: the model's own spatial pooling, for features, keep-mask and cues."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field, WithJsonSchema
from torch import Tensor

from tokenred.config import is_of_frames
from tokenred.errors import CapabilityError, ConfigError, quoted
from tokenred.kernels.pooling import PoolMode, pool_tokens, pooled_grid, pooling_matrix
from tokenred.kernels.sparse import sparse_map
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.flow import Flow
from tokenred.pipeline.stage import Decides, Stage, StageConfig

ATTENTION_CUES = tuple(
    f"{joint}{kind}@"
    for joint in ("", "joint-")
    for kind in ("attention", "class-attention", "patch-attention", "salience")
)


def _keep(value: object) -> object:
    if value == "count":
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return value
    raise ConfigError(f"expected 'count' or a threshold in (0, 1], got {quoted(value)}")


_KEEP_SCHEMA = {
    "anyOf": [{"const": "count"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]
}


class PoolStageConfig(StageConfig):
    """Settings of the pool stage."""

    mode: Literal["model", "bilinear", "average", "none"] = Field(
        "model", description="'model' pools as the model at hand does"
    )
    stride: int = Field(2, ge=1, le=1024, description="tokens per cell and side")
    keep: Annotated[
        Literal["count"] | float, BeforeValidator(_keep), WithJsonSchema(_KEEP_SCHEMA)
    ] = Field(
        0.5, description="keep a cell whose pooled mask reaches this, or the budget's best cells"
    )


class PoolStage(Stage):
    """Pool as the model does, features, mask and cues; at most once in a pipeline.

    A kept cell mixes anchors with their unmerged neighbours, as in AOT's release. With ``keep:
    count`` the cells with the largest pooled mask are kept, as many as the budget allows; equal
    ones by attention, then in raster order. Under an exact budget a later stage must have enough to
    choose from, so a frame whose mask is too thin is topped up in the same order.
    """

    config: PoolStageConfig
    pools = True

    @property
    def decides(self) -> Decides:
        """It counts cells if it is told to."""
        return "exact" if self.config.keep == "count" else "nothing"

    def check(self, before: Sequence[Stage], after: Sequence[Stage], budget: BudgetConfig) -> None:
        """What comes before leaves whole grids, or a mask of anchors."""
        self._check_only(before)
        if self.config.keep == "count" and not before:
            raise ConfigError("keep: count needs a frame stage before it", ["keep"])
        for earlier in before:
            if not earlier.leaves_grid:
                kind = earlier.config.kind
                leaves = " that leaves tokens" if kind == "frame" else ""
                raise ConfigError(f"a pool stage cannot follow a {kind} stage{leaves}")

    def _mode(self, flow: Flow) -> PoolMode:
        """Return the pooling that applies to the tokens at hand."""
        mode = self.config.mode
        return flow.unflushed.native_pool if mode == "model" else mode  # type: ignore[return-value]

    def run(self, flow: Flow) -> None:
        """Pool everything that lives on the grid."""
        tokens, mode, stride = flow.unflushed, self._mode(flow), self.config.stride
        grid = pooled_grid(tokens.grid, mode, stride)
        if 0 in grid:
            raise ConfigError(f"stride {stride} pools a {tokens.grid} grid away", ["stride"])
        if mode == "max" and flow.tracing:
            raise CapabilityError("the model pools by the maximum, which has no trace")

        def pool(values: Tensor) -> Tensor:
            return pool_tokens(values, tokens.grid, mode, stride)

        cues = {
            name: cue if is_of_frames(name) else _pool_cue(cue, pool)
            for name, cue in flow.cues.items()
        }
        value = pool(tokens.keep.float()[..., None])[..., 0]
        mass = pool(flow.mass[..., None])[..., 0]
        if flow.tracing:
            matrix = pooling_matrix(tokens.grid, mode, stride).to(flow.mass.device)
            flow.extend_trace(_blocks(matrix, flow.frames))
        features = None if mode == "none" else flow.by_frames(pool)
        flow.mass, flow.keep_value, flow.pooled = mass, value, True
        narrowed = not bool(tokens.keep.all())
        keep = torch.ones_like(value, dtype=torch.bool)
        changes = {"grid": grid, "keep": keep, "cues": cues}
        if features is None:
            flow.update(**changes)
        else:
            flow.replace_features(features, **changes)
        if narrowed or self.config.keep == "count":
            flow.update(keep=self._kept(flow, value))

    def _kept(self, flow: Flow, value: Tensor) -> Tensor:
        if self.config.keep == "count":
            return _best(flow, value, value.new_zeros(value.shape, dtype=torch.bool), flow.quota)
        keep = value >= self.config.keep
        if flow.exact and bool((keep.sum(-1) < flow.quota).any()):
            flow.remark("frames with a thin mask were topped up to the budget")
            return keep | _best(flow, value, keep, flow.quota)
        return keep


def _best(flow: Flow, value: Tensor, keep: Tensor, count: int) -> Tensor:
    """Mark the ``count`` first cells of each frame by keep, pooled mask, attention, raster."""
    attention = [
        cue for name, cue in flow.unflushed.cues.items() if name.startswith(ATTENTION_CUES)
    ]
    keys = [keep.float(), value, *([torch.stack(attention).sum(0)] if attention else [])]
    order = torch.arange(value.shape[1], device=value.device).expand(value.shape)
    for key in reversed(keys):
        order = order.gather(
            -1, key.gather(-1, order).argsort(dim=-1, descending=True, stable=True)
        )
    return torch.zeros_like(keep).scatter(-1, order[:, :count], True)


def _pool_cue(cue: Tensor, pool) -> Tensor:  # type: ignore[no-untyped-def]
    return pool(cue[..., None])[..., 0] if cue.ndim == 2 else pool(cue)


def _blocks(matrix: Tensor, frames: int) -> Tensor:
    """Return the sparse block-diagonal map that applies ``matrix`` to every frame."""
    row, column = matrix.nonzero(as_tuple=True)
    step = torch.arange(frames, device=matrix.device)[:, None]
    index = torch.stack(
        [
            (row + step * matrix.shape[0]).reshape(-1),
            (column + step * matrix.shape[1]).reshape(-1),
        ]
    )
    size = (frames * matrix.shape[0], frames * matrix.shape[1])
    return sparse_map(index, matrix[row, column].repeat(frames), size)
