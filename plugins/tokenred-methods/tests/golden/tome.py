"""ToMe's algorithms as the golden cases name them.

Sequences without special tokens also go through the preset, one round of it: those outputs are the
pipeline's tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.tome.matching import match, match_every
from tokenred_methods.tome.merging import merge, merge_by_size, merge_source, unmerge
from torch import Tensor

from tokenred.pipeline import Pipeline, load_config
from tokenred.pipeline.flow import Flow
from tokenred.types import VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def tome(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    special = {name: params[name] for name in ("class_token", "distill_token")}
    x, size = inputs["x"], inputs.get("size")
    matching = match(inputs["metric"], params["r"], **special)
    merged, total = merge_by_size(x, matching, size)
    outputs = {
        "merged_mean": merge(x, matching, "mean"),
        "merged_sum": merge(x, matching, "sum"),
        "merged_wavg": merged,
        "size_after": total,
        "source": merge_source(None, matching),
        "unmerged": unmerge(merged, matching, released=True),
    }
    if not any(special.values()):
        outputs.update(_one_round(inputs["metric"], x, size, params["r"]))
    return outputs


def _one_round(metric: Tensor, x: Tensor, size: Tensor | None, r: int) -> dict[str, Tensor]:
    """Run the frame stage of the preset on sequences as frames; the order is the released one."""
    batch, n, _ = x.shape
    n_anchors = n - min(r, n // 2)
    config = load_config(
        "tome",
        {
            "budget": {"mode": "as-released", "retention_ratio": 1.0},
            "frame.n_anchors": n_anchors,
            "frame.order": "selection",
        },
    )
    pipeline = Pipeline(config)
    tokens = VisualTokens.of(x, (1, n), cues={"keys@features": metric})
    if size is None:
        reduced = pipeline.run(tokens, trace=True)
        assert reduced.trace is not None
        return {
            "merged_wavg": reduced.features.view(batch, n_anchors, -1),
            "size_after": reduced.mass.view(batch, n_anchors, 1),
            "source": _blocks(reduced.trace, batch),
        }
    flow = Flow.start(tokens, config.budget, torch.Generator(), False)
    flow.mass = size[..., 0].clone()
    stage = pipeline.stages["frame"]
    stage.run(flow)
    assert flow.order is not None
    behind = flow.order.masked_fill(~flow.tokens.keep, int(flow.order.max()) + 1)
    order = behind.argsort(dim=1, stable=True)[:, :n_anchors]
    features = flow.tokens.features.take_along_dim(order[..., None], 1)
    return {"merged_wavg": features, "size_after": flow.mass.gather(1, order)[..., None]}


def _blocks(trace: Tensor, batch: int) -> Tensor:
    """Return which tokens of its own frame every output is made of, as zeros and ones."""
    dense = (trace.to_dense() > 0).float()
    rows, columns = dense.shape[0] // batch, dense.shape[1] // batch
    split = dense.view(batch, rows, batch, columns)
    return split[torch.arange(batch), :, torch.arange(batch)]


def tome_sequence(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    x, size, source = inputs["x"], None, None
    outputs = {}
    for step, r in enumerate(params["r_list"]):
        matching = match(x @ inputs["metric_proj"], r, class_token=params["class_token"])
        source = merge_source(source, matching)
        x, size = merge_by_size(x, matching, size)
        outputs |= {f"x_after_{step}": x, f"size_after_{step}": size}
    assert source is not None
    return {**outputs, "source_final": source}


def tome_kth(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    matching = match_every(inputs["metric"], params["k"])
    merged, total = merge_by_size(inputs["x"], matching)
    mean = merge(inputs["x"], matching, "mean")
    return {"merged_mean": mean, "merged_wavg": merged, "size_after": total}


ALGORITHMS = {"tome": tome, "tome_kth": tome_kth, "tome_sequence": tome_sequence}
