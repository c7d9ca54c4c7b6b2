"""Whole forward passes: the case's weights in transformers' own classes, reduced by the engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from golden.in_llm import TABLES, drawn_again, framefusion_of, inside_of, sparsevlm_of
from torch import Tensor

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
    """One reduced forward pass: what entered each layer, what came out, and what followed it."""

    last: Tensor
    short: Tensor
    kept: Tensor
    lengths: list[int]
    reducer: Any
    entered: dict[int, Tensor] = field(default_factory=dict)
    positions: dict[int, Tensor] = field(default_factory=dict)
    cached: list[int] = field(default_factory=list)
    decoded: list[Tensor] = field(default_factory=list)


def _prompt(n: int, params: Params) -> PromptTokens:
    """Return a prompt with one clip; FrameFusion's have frames and a column of newlines."""
    start, length = params["image_start"], params["image_len"]
    block = torch.zeros(1, n, dtype=torch.bool)
    block[:, start : start + length] = True
    per_frame = params.get("patch_num", length)
    inside = torch.zeros_like(block)
    inside[:, params.get("text_inside", [])] = True
    side = int(per_frame**0.5)
    place, frame = torch.full((1, n), -1), torch.full((1, n), -1)
    place[block] = torch.arange(length) % per_frame
    frame[block] = torch.arange(length) // per_frame
    with_newlines = "patch_num" in params and side * (side + 1) == per_frame
    newline = block & (place % (side + 1) == side) & torch.tensor(with_newlines)
    return PromptTokens(
        attention_mask=torch.ones(1, n, dtype=torch.bool),
        visual=block & ~newline & ~inside,
        newline=newline,
        clip=block.long() - 1,
        frame_index=frame,
        token_index=place - newline.long(),
        group=frame,
    )


def _run(inputs: Tensors, params: Params, arch: str, reducer: Any) -> _Pass:
    model = _decoder(inputs, params, arch)
    from transformers import DynamicCache

    embeddings, cache = inputs["inputs_embeds"], DynamicCache()
    decoded: list[Tensor] = []
    entered: dict[int, Tensor] = {}
    positions: dict[int, Tensor] = {}
    n_layers = len(model.layers)
    ends: list[Tensor] = []
    # Hooks run in the order in which they were registered: this one before those of the engine.
    end = model.layers[-1].register_forward_hook(lambda layer, args, out: ends.append(out))
    with inside_llm(model, InsideLlm(reducers=(("llm", reducer),))) as run:

        def look(index: int) -> Any:
            def hook(layer: Any, args: Any, kwargs: Any) -> None:
                entered[index], positions[index] = args[0], kwargs["position_ids"]

            return hook

        looks = [
            layer.register_forward_pre_hook(look(index), with_kwargs=True)
            for index, layer in enumerate(model.layers)
        ]
        run.begin(_prompt(embeddings.shape[1], params))
        with torch.no_grad():
            full = model(inputs_embeds=embeddings, past_key_values=cache).last_hidden_state
            short = model.norm(ends[0])
            entered[n_layers], positions[n_layers] = ends[0], positions[n_layers - 1]
            for each in looks:
                each.remove()
            cached = [layer.keys.shape[-2] for layer in cache.layers]
            for token in inputs.get("decode_embeds", embeddings[:, :0]).split(1, 1):
                if token.shape[1]:
                    after = model(inputs_embeds=token, past_key_values=cache)
                    decoded.append(after.last_hidden_state)
        kept, lengths = run.kept[0], list(run.sequence_tokens[0])
    end.remove()
    last = full[:, kept]
    return _Pass(last, short, kept, lengths, reducer, entered, positions, cached, decoded)


@dataclass
class Decoded:
    """A reduced prompt, and tokens after it that were fed one by one with the cache.

    Attributes
    ----------
    last, decoded : final states of the prompt's remaining tokens, and of the later ones
    lengths, cached : tokens that entered each layer, and that its cache holds of the prompt
    entering_last : columns that entered the last layer
    kept : columns that each reduction left
    """

    last: Tensor
    decoded: Tensor
    lengths: list[int]
    cached: list[int]
    entering_last: Tensor
    kept: list[Tensor]


def decoded(inputs: Tensors, params: Params, arch: str, reducer: Any, **cues: Tensor) -> Decoded:
    """Run the case's prompt and its later tokens through the engine."""
    from transformers import DynamicCache

    model, embeddings = _decoder(inputs, params, arch), inputs["inputs_embeds"]
    kept: list[Tensor] = [torch.arange(embeddings.shape[1])]
    places: list[int] = [-1]
    reduce = reducer.reduce

    def listen(state: Any) -> Any:
        reduction = reduce(state)
        if reduction is not None:
            kept.append(state.origin[reduction.source])
            places.append(state.layer)
        return reduction

    reducer.reduce = listen
    cache = DynamicCache(config=model.config)
    with inside_llm(model, InsideLlm(reducers=(("llm", reducer),))) as run, torch.no_grad():
        run.begin(replace(_prompt(embeddings.shape[1], params), **cues))
        full = model(inputs_embeds=embeddings, past_key_values=cache).last_hidden_state
        last, lengths = full[:, run.kept[0]], list(run.sequence_tokens[0])
        cached = [layer.keys.shape[-2] for layer in cache.layers]
        later = [
            model(inputs_embeds=each[:, None], past_key_values=cache).last_hidden_state
            for each in inputs["decode_embeds"].unbind(1)
        ]
    entering = max(number for number, place in enumerate(places) if place < len(lengths) - 1)
    return Decoded(last, torch.cat(later, 1), lengths, cached, kept[entering], kept)


def tiny_vanilla(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    model = _decoder(inputs, params, params["arch"])
    with torch.no_grad():
        return {"last_hidden_state": model(inputs_embeds=inputs["inputs_embeds"]).last_hidden_state}


def tiny_fastv(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = inside_of("fastv", {"prune.reducer.schedule": {params["k"]: 1 - params["r"]}})
    found = _run(inputs, params, "llama", reducer)
    return {
        "kept_index": found.kept,
        "tokens_per_layer": torch.tensor(found.lengths),
        "last_hidden_state": found.last,
    }


def tiny_pyramiddrop(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    schedule = dict(zip(params["layer_list"], params["ratio_list"], strict=True))
    reducer = inside_of("pyramiddrop", {"prune.reducer.schedule": schedule})
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
    schedule = {params["k"]: 1 - params["r"]}
    reducer = inside_of("holitom-released", {"merge.reducer.schedule": schedule})
    found = _run(inputs, params, "qwen2", reducer)
    return {
        "kept_index": found.kept,
        "tokens_per_layer": torch.tensor(found.lengths),
        "hidden_into_layer_k_after_merge": found.entered[params["k"]],
        "hidden_into_layer_k_minus_1": found.entered[params["k"] - 1],
        "last_hidden_state": found.last,
    }


def tiny_framefusion(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = framefusion_of(params)
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


def tiny_sparsevlm(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    table = TABLES[params["version"], params["retain_tokens"]]
    reducer = sparsevlm_of(params["version"], {3: table[0], 7: table[1]})
    with drawn_again(inputs):
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
