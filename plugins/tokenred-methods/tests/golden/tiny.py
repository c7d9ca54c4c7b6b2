"""Whole forward passes: the case's weights in transformers' own classes, reduced by the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from golden.in_llm import TABLES, _replay, make
from torch import Tensor

from tokenred.kernels.clustering import cluster_means, density_peaks
from tokenred.models.inside.llm import PromptTokens, inside_llm
from tokenred.pipeline.inside import InsideLlm

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def _decoder(inputs: Tensors, params: Params, arch: str) -> Any:
    from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

    config_class, model_class = {
        "llama": (LlamaConfig, LlamaModel),
        "qwen2": (Qwen2Config, Qwen2Model),
    }[arch]
    config = config_class(
        vocab_size=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        hidden_size=params["hidden"],
        intermediate_size=params["inter"],
        num_hidden_layers=params["layers"],
        num_attention_heads=params["heads"],
        num_key_value_heads=params["kv_heads"],
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        model = model_class(config).eval()
    weights = {name[2:]: value for name, value in inputs.items() if name.startswith("w.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["embed_tokens.weight"], [])
    return model


@dataclass
class _Pass:
    """One reduced forward pass: what entered each layer, and what came out."""

    last: Tensor
    short: Tensor
    kept: Tensor
    lengths: list[int]
    reducer: Any
    entered: dict[int, Tensor] = field(default_factory=dict)
    positions: dict[int, Tensor] = field(default_factory=dict)


def _prompt(n: int, params: Params) -> PromptTokens:
    """Return a prompt with one clip; FrameFusion's have frames and a column of newlines."""
    start, length = params["image_start"], params["image_len"]
    block = torch.zeros(1, n, dtype=torch.bool)
    block[:, start : start + length] = True
    per_frame = params.get("patch_num", length)
    side = int(per_frame**0.5)
    place, frame = torch.full((1, n), -1), torch.full((1, n), -1)
    place[block] = torch.arange(length) % per_frame
    frame[block] = torch.arange(length) // per_frame
    with_newlines = side * (side + 1) == per_frame
    newline = block & (place % (side + 1) == side) & torch.tensor(with_newlines)
    return PromptTokens(
        attention_mask=torch.ones(1, n, dtype=torch.bool),
        visual=block & ~newline,
        newline=newline,
        clip=block.long() - 1,
        frame_index=frame,
        token_index=place - newline.long(),
        group=frame,
    )


def _run(inputs: Tensors, params: Params, arch: str, reducer: Any) -> _Pass:
    model = _decoder(inputs, params, arch)
    embeddings = inputs["inputs_embeds"]
    entered: dict[int, Tensor] = {}
    positions: dict[int, Tensor] = {}
    ends: list[Tensor] = []
    # Hooks run in the order in which they were registered: this one before those of the engine.
    end = model.layers[-1].register_forward_hook(lambda layer, args, out: ends.append(out))
    with inside_llm(model, InsideLlm(reducers=(("llm", reducer),))) as run:

        def look(index: int) -> Any:
            def hook(layer: Any, args: Any, kwargs: Any) -> None:
                entered[index], positions[index] = args[0], kwargs["position_ids"]

            return hook

        for index, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(look(index), with_kwargs=True)
        run.begin(_prompt(embeddings.shape[1], params))
        with torch.no_grad():
            full = model(inputs_embeds=embeddings).last_hidden_state
            short = model.norm(ends[0])
        kept, lengths = run.kept[0], list(run.sequence_tokens[0])
    end.remove()
    return _Pass(full[:, kept], short, kept, lengths, reducer, entered, positions)


def tiny_vanilla(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    model = _decoder(inputs, params, params["arch"])
    with torch.no_grad():
        return {"last_hidden_state": model(inputs_embeds=inputs["inputs_embeds"]).last_hidden_state}


def tiny_fastv(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = make("layer reducer", "ranked", schedule={params["k"]: 1 - params["r"]})
    found = _run(inputs, params, "llama", reducer)
    return {
        "kept_index": found.kept,
        "tokens_per_layer": torch.tensor(found.lengths),
        "last_hidden_state": found.last,
    }


def tiny_pyramiddrop(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    schedule = dict(zip(params["layer_list"], params["ratio_list"], strict=True))
    reducer = make(
        "layer reducer",
        "ranked",
        schedule=schedule,
        ranker="next-layer",
        rounding="floor",
        positions="renumber",
    )
    kept: list[Tensor] = []
    reduce = reducer.reduce

    def listen(state: Any) -> Any:
        reduction = reduce(state)
        kept.append(state.origin[reduction.source])
        return reduction

    reducer.reduce = listen
    found = _run(inputs, params, "llama", reducer)
    outputs = {"last_hidden_state": found.last}
    for stage, layer in enumerate(params["layer_list"]):
        outputs[f"kept_original_index_stage{stage}"] = kept[stage]
        outputs[f"position_ids_stage{stage}"] = found.positions[layer]
        outputs[f"hidden_after_stage{stage}"] = found.entered[layer]
    return outputs


def tiny_holitom_inner(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = make(
        "layer reducer",
        "ranked",
        schedule={params["k"]: 1 - params["r"]},
        merger="fold",
        newlines="rank",
        unmasked_before=True,
    )
    found = _run(inputs, params, "qwen2", reducer)
    return {
        "kept_index": found.kept,
        "tokens_per_layer": torch.tensor(found.lengths),
        "hidden_into_layer_k_after_merge": found.entered[params["k"]],
        "hidden_into_layer_k_minus_1": found.entered[params["k"] - 1],
        "last_hidden_state": found.last,
    }


def tiny_framefusion(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = make(
        "layer reducer",
        "framefusion",
        cost=params["cost"],
        similarity=params["similarity_lower_bound"],
        merge_at_least=params["ratio_lower_bound"],
        newlines="merge",
        assumed_layers=28,
    )
    memories: list[Any] = []
    reduce = reducer.reduce

    def listen(state: Any) -> Any:
        memories.append(state.memory)
        return reduce(state)

    reducer.reduce = listen
    found = _run(inputs, params, "qwen2", reducer)
    return {
        "kept_index": found.kept,
        "tokens_after_layer": torch.tensor([*found.lengths[1:], len(found.kept)]),
        "sparsity_list": torch.tensor(memories[0]["sparsity"], dtype=torch.float64),
        "last_hidden_state": found.last,
    }


def _cluster_as_released(noise: Callable[[int], Tensor]) -> Callable[[Tensor], Tensor]:
    """Replay the release's noise, and take centres of equal scores in the order of torch.topk."""

    def cluster(points: Tensor) -> Tensor:
        n = int(len(points) / 10) + 1
        found = density_peaks(points, n, n, noise=noise(len(points)), distances="difference")
        means = cluster_means(points, found.label, n)
        order = found.score.topk(n).indices
        return means[torch.stack([(found.centres == centre).nonzero()[0, 0] for centre in order])]

    return cluster


def tiny_sparsevlm(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    first = params["version"] == "1_0"
    table = TABLES[params["version"], params["retain_tokens"]]
    reducer = make(
        "layer reducer",
        "ranked",
        schedule={3: table[0], 7: table[1]},
        ranker={"name": "text-raters"}
        if first
        else {"name": "text-raters", "heads": 14, "divide_rotary": True},
        merger="recycle" if first else "drop",
        positions="renumber" if first else "keep",
        drop_at_least=1,
    )
    if first:
        reducer.merger._cluster = _cluster_as_released(_replay(inputs))
    found = _run(inputs, params, "llama", reducer)
    d, m = params["hidden"], params["inter"]
    flops = [4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m for n in found.lengths]
    return {
        "tokens_entering_layer": torch.tensor(found.lengths),
        "flops_counter": torch.tensor(float(sum(flops)), dtype=torch.float64),
        "last_hidden_state": found.short,
    }


ALGORITHMS = {
    "tiny_fastv": tiny_fastv,
    "tiny_framefusion": tiny_framefusion,
    "tiny_holitom_inner": tiny_holitom_inner,
    "tiny_pyramiddrop": tiny_pyramiddrop,
    "tiny_sparsevlm": tiny_sparsevlm,
    "tiny_vanilla": tiny_vanilla,
}
