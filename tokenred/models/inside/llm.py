"""Run layer reducers and cache pruners inside the LLM of a transformers model, without a fork.

Hooks on the decoder layers shorten the hidden states, an attention function records queries and
keys of the layers that a strategy reads, and the KV cache still counts in tokens of the prompt.
Layers before any reduction get their inputs unchanged.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tokenred.errors import CapabilityError, ConfigError, InputError
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.models.attention import AttentionInputs, intercepted
from tokenred.models.inside.call import Call, Prompt, Recorded, gather
from tokenred.models.inside.sequences import PromptTokens, Sequence
from tokenred.models.inside.short_cache import LIVE, check_cache, readings, shorten
from tokenred.models.inside.steps import Prober, choose, run_step, source_layer
from tokenred.pipeline.inside import InsideLlm
from tokenred.types import LayerStep, Point

_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")

__all__ = ["InsideLlmRun", "PromptTokens", "inside_llm"]


@contextmanager
def inside_llm(text_model: Any, inside: InsideLlm) -> Iterator["InsideLlmRun"]:
    """Run reducers and pruners inside an LLM while the context lasts; restore the LLM afterwards.

    Parameters
    ----------
    text_model : the decoder stack of a transformers model, with ``layers`` and ``rotary_emb``
    inside : the reducers and pruners of a pipeline

    Yields
    ------
    InsideLlmRun
        Nothing happens until its ``begin`` says what the next prompts hold.

    Raises
    ------
    CapabilityError
        If the LLM is built in a way in which this cannot be done.
    ConfigError
        If something wants to act at a layer that the LLM lacks.
    """
    run = InsideLlmRun(text_model, inside)
    with run.installed():
        try:
            yield run
        finally:
            run.end()


class InsideLlmRun:
    """The state of reducers and pruners inside one LLM; created by ``inside_llm``.

    A call of the LLM with an empty cache, or none, reads the prompts that ``begin`` announced; a
    call with a cache goes on behind them. Without a cache, tokens behind the prompts are text that
    was generated: reducers do not see them, and they are kept.

    Attributes
    ----------
    layer_tokens : for every prompt, the visual tokens that entered each layer in the latest reading
    sequence_tokens : the same of all its tokens
    kept : for every prompt, the columns that went through the last layer; tokens made inside the
        LLM have none
    """

    def __init__(self, text_model: Any, inside: InsideLlm) -> None:
        self.layer_tokens: list[tuple[int, ...]] = []
        self.sequence_tokens: list[tuple[int, ...]] = []
        self.kept: list[Int[Tensor, "tokens"]] = []
        self._model = text_model
        self._layers = list(getattr(text_model, "layers", ()))
        self._prober = Prober(self._layers)
        self._announced: PromptTokens | None = None
        self._call: Call | None = None
        self._read_through: tuple[Prompt, list[Sequence]] | None = None
        self._cached: tuple[Prompt, list[Sequence], set[int]] | None = None
        self._plain_middle: set[int] = set()
        self._steps: dict[tuple[int, Point], list[tuple[int, LayerReducer, LayerStep]]]
        self._steps = defaultdict(list)
        self._acts = bool(inside)
        self._pruners: dict[int, CachePruner] = {}
        if inside:
            self._plan(inside)

    def begin(self, prompt: PromptTokens) -> None:
        """Set the prompts of the next call, and of calls that repeat them."""
        self.end()
        self._announced = prompt
        self.layer_tokens, self.sequence_tokens, self.kept = [], [], []
        self._read_through = None

    def end(self) -> None:
        """Stop reducing: later calls pass through unchanged."""
        self._forget_cache()
        self._announced = self._call = None

    def layers_entered(self, clip: int) -> Int[Tensor, "tokens"] | None:
        """Return how many layers each visual token of a clip entered in the latest reading.

        Tokens are in the order of the sequence, newline tokens not among them. A token that was
        merged into another one entered no more layers. None if the clip was not read.
        """
        if self._read_through is None:
            return None
        prompt, entering = self._read_through
        mine = prompt.facts["visual"] & (prompt.facts["clip"] == clip)
        mine = mine[:, : prompt.width]
        rows = mine.any(1).nonzero()[:, 0].tolist()
        if not rows:
            return None
        columns = mine[rows[0]].nonzero()[:, 0]
        alive = [torch.isin(columns, sequence.row(rows[0])[1]) for sequence in entering]
        return torch.stack(alive).sum(0)

    # What is to be done where

    def _plan(self, inside: InsideLlm) -> None:
        n_layers = len(self._layers)
        if not n_layers:
            raise CapabilityError(f"{type(self._model).__name__} has no decoder layers to work in")
        _check_attention(self._model.config)
        devices = {each.device for layer in self._layers for each in layer.parameters()}
        if len(devices) > 1:
            raise CapabilityError(
                "reduction inside the LLM needs all its layers on one device, not on "
                f"{', '.join(sorted(map(str, devices)))}"
            )
        for number, (_, reducer) in enumerate(inside.reducers):
            for step in reducer.steps(n_layers):
                self._check_step(step)
                self._steps[step.layer, step.point].append((number, reducer, step))
        for _, pruner in inside.pruners:
            layer = pruner.layer(n_layers)
            if not 1 <= layer < n_layers or layer in self._pruners:
                raise ConfigError(
                    f"a cache pruner cannot act at layer {layer}: there are {n_layers} layers, and "
                    "each from the second on has room for one"
                )
            self._pruners[layer] = pruner
        steps = [step for at in self._steps.values() for _, _, step in at]
        self._read = {source_layer(step) for step in steps if "attention" in step.reads}
        self._kept_inputs = {source_layer(s) for s in steps if "previous-input" in s.reads}
        self._two_way = {step.layer - 1 for step in steps if step.unmasked_before}

    def _check_step(self, step: LayerStep) -> None:
        n_layers = len(self._layers)
        if not 0 <= step.layer < n_layers:
            raise ConfigError(f"there is no layer {step.layer} in an LLM of {n_layers} layers")
        if step.layer == 0 and (step.unmasked_before or (step.point == "before" and step.reads)):
            raise ConfigError("there is no layer before layer 0")
        layer = self._layers[step.layer]
        if step.point == "middle" and not all(hasattr(layer, part) for part in _PARTS):
            raise CapabilityError(
                f"{type(layer).__name__} has no known place between its attention and its MLP"
            )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the hooks while the context lasts."""
        with ExitStack() as stack:
            if self._acts:
                self._install(stack)
            yield

    def _install(self, stack: ExitStack) -> None:
        watch = {
            layer.self_attn: partial(self._on_attention, index)
            for index, layer in enumerate(self._layers)
        }
        stack.enter_context(intercepted(watch))
        if hasattr(self._model, "_deepstack_process"):
            original = self._model._deepstack_process
            self._model._deepstack_process = partial(self._on_deepstack, original)
            stack.callback(vars(self._model).pop, "_deepstack_process")
        for index, layer in enumerate(self._layers):
            before, after = partial(self._before_layer, index), partial(self._after_layer, index)
            hooks = [
                layer.register_forward_pre_hook(before, with_kwargs=True),
                layer.register_forward_hook(after),
            ]
            if (index, "middle") in self._steps:
                norm, reduce = layer.post_attention_layernorm, partial(self._before_mlp, index)
                hooks += [
                    norm.register_forward_pre_hook(reduce),
                    layer.mlp.register_forward_hook(self._after_mlp),
                ]
            for hook in hooks:
                stack.callback(hook.remove)

    # Hooks

    def _before_layer(self, index: int, layer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if index == 0:
            self._call = None if self._announced is None else self._start(hidden, kwargs)
        call = self._call
        if call is None:
            return None
        if call.reads_prompt:
            hidden = self._reduce(call, index, "before", hidden)
            call.entering.append(call.now)
        sequence = self._sequence(call, index)
        if index in self._pruners and call.n_new:
            memories: list[Any] = [{} for _ in hidden]
            if not call.reads_prompt:
                memories = call.cache.layers[index].memories
            choose(call, self._pruners[index], call.recorded[index - 1], sequence, memories)
        call.forget(before=index)
        if call.reads_prompt and index in self._kept_inputs:
            call.inputs[index] = (hidden, call.now)
        two_way = call.reads_prompt and index in self._two_way
        if sequence.untouched and call.chosen is None and not two_way:
            return None
        kwargs = {**kwargs, **call.arguments(index, sequence, hidden, two_way)}
        if args:
            return (hidden, *args[1:]), kwargs
        return (), {**kwargs, "hidden_states": hidden}

    def _after_layer(self, index: int, layer: Any, args: Any, output: Any) -> Any:
        call = self._call
        if call is None:
            return None
        hidden = output if isinstance(output, Tensor) else output[0]
        changed = call.result is not None
        if call.result is not None and call.middle is not None:
            self._check_middle(index, hidden, call.middle[0])
            hidden = call.result
        call.middle = call.result = None
        if index == len(self._layers) - 1:
            changed = changed or not call.now.untouched
            hidden = self._finish(call, hidden)
        if not changed or not call.reads_prompt:
            return None
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    def _before_mlp(self, index: int, norm: Any, args: Any) -> Any:
        call = self._call
        if call is None or not call.reads_prompt:
            return None
        before = call.now
        hidden = self._reduce(call, index, "middle", args[0])
        if call.now is before:
            return None
        call.middle = (args[0], hidden)
        return (hidden, *args[1:])

    def _after_mlp(self, mlp: Any, args: Any, output: Any) -> Any:
        call = self._call
        if call is None or call.middle is None:
            return None
        if not isinstance(output, Tensor):
            raise CapabilityError(f"{type(mlp).__name__} returns more than hidden states")
        full, short = call.middle
        call.result = short + output
        # The layer adds this to the full sequence; the sum only shows that it does just that.
        return output.new_ones(()).expand_as(full)

    def _check_middle(self, index: int, output: Tensor, full: Tensor) -> None:
        if index in self._plain_middle:
            return
        if not torch.equal(output.nan_to_num(), (full + 1).nan_to_num()):
            raise CapabilityError(
                f"{type(self._layers[index]).__name__} does more than add its MLP to what went in, "
                "so tokens cannot be reduced in the middle of it"
            )
        self._plain_middle.add(index)

    def _on_attention(
        self, index: int, query: Tensor, inputs: AttentionInputs, scaling: float | None
    ) -> AttentionInputs | Tensor:
        key, value, mask = inputs
        if self._prober.caught is not None:
            self._prober.caught.append((query.detach(), key.detach(), scaling))
            return torch.zeros_like(query.transpose(1, 2))
        call = self._call
        if call is None:
            return inputs
        wanted = call.reads_prompt and index in self._read
        if wanted or (call.n_new and index + 1 in self._pruners):
            two_way = call.reads_prompt and index in self._two_way
            call.recorded[index] = Recorded(
                self._sequence(call, index), query.detach(), key.detach(), scaling, two_way
            )
        if (view := call.views.get(index)) is not None:
            return gather(key, view[:, None]), gather(value, view[:, None]), mask
        return inputs

    def _on_deepstack(
        self, original: Callable[..., Tensor], hidden: Tensor, mask: Tensor, features: Tensor
    ) -> Tensor:
        """Add DeepStack features to the tokens that remain."""
        call = self._call
        if call is None or not call.reads_prompt or call.now.untouched:
            return original(hidden, mask, features)
        full = hidden.new_zeros(*mask.shape, hidden.shape[-1])
        full[mask.to(hidden.device)] = features.to(hidden)
        width = call.now.width
        return torch.cat((hidden[:, :width] + call.inherited(full), hidden[:, width:]), 1)

    # Calls

    def _start(self, hidden: Tensor, kwargs: Mapping[str, Any]) -> Call:
        assert self._announced is not None
        cache = kwargs.get("past_key_values")
        n_past = 0 if cache is None else cache.get_seq_length()
        if n_past == 0:
            self._check_fresh(cache)
            self._forget_cache()
            prompt = Prompt.of(self._announced, hidden.device)
        elif self._cached is None or readings(cache) != self._cached[2]:
            raise CapabilityError(
                "reduction inside the LLM needs the whole prompt in one call, with an empty cache"
            )
        else:
            prompt = self._cached[0]
        rows, n_tokens, _ = hidden.shape
        n_later = n_past + n_tokens - prompt.width
        if rows % prompt.n_rows or n_later < 0 or (n_later and not n_past and cache is not None):
            raise InputError(
                f"{prompt.n_rows} prompts of {prompt.width} tokens were expected, but the LLM got "
                f"{rows} rows of {n_tokens}"
            )
        return Call(
            model=self._model,
            prompt=prompt,
            copies=rows // prompt.n_rows,
            n_later=n_later,
            n_new=n_tokens if n_past else n_later,
            later=_later_tokens(kwargs.get("attention_mask"), prompt.width, n_later),
            tables=kwargs["position_embeddings"],
            position_ids=kwargs.get("position_ids"),
            cache=cache,
            reads_prompt=not n_past,
            embeddings=hidden,
            now=prompt.entered,
        )

    def _forget_cache(self) -> None:
        if self._cached is not None:
            LIVE.discard(self._cached[0].number)
        self._cached = None

    def _check_fresh(self, cache: Any) -> None:
        first = self._layers[0]
        if getattr(first, "gradient_checkpointing", False) and first.training:
            raise CapabilityError(
                "gradient checkpointing reads every layer twice, which reduction inside the LLM "
                "does not support"
            )
        if cache is not None:
            check_cache(cache)

    def _sequence(self, call: Call, index: int) -> Sequence:
        """Return the prompt's tokens of a layer, in this call or in its cache."""
        if call.reads_prompt:
            return call.entering[index]
        assert self._cached is not None
        return self._cached[1][index]

    def _reduce(self, call: Call, index: int, point: Point, hidden: Tensor) -> Tensor:
        for number, reducer, step in self._steps.get((index, point), ()):
            hidden = run_step(call, number, reducer, step, hidden, self._prober)
        return hidden

    def _finish(self, call: Call, hidden: Tensor) -> Tensor:
        """Record counts, make the cache count in prompt tokens, and restore the prompt's length."""
        self._call = None
        if not call.reads_prompt:
            return hidden
        self.layer_tokens, self.sequence_tokens = call.counts()
        self._read_through = (call.prompt, call.entering)
        names = [call.now.row(row)[1] for row in range(call.prompt.n_rows)]
        self.kept = [row[row < call.prompt.width] for row in names]
        if call.cache is not None:
            self._cached = (call.prompt, self._shorten(call), readings(call.cache))
            LIVE.add(call.prompt.number)
        return hidden if call.now.untouched else call.full_length(hidden)

    def _shorten(self, call: Call) -> list[Sequence]:
        """Prune the cache; return the prompt tokens that each layer's cache holds."""
        cached = []
        for index, sequence in enumerate(call.entering):
            cut = next((to for before, to in reversed(call.cuts) if before > index), None)
            columns = None
            if cut is not None:
                columns, sequence = sequence.restricted(cut)
                columns = call.spread(columns)
            cached.append(sequence)
            pruned = index in self._pruners
            if pruned or not sequence.untouched:
                memories: list[Any] = [{} for _ in call.embeddings] if pruned else []
                shorten(
                    call.cache.layers[index],
                    columns,
                    call.prompt.width,
                    memories,
                    call.prompt.number,
                )
        return cached


def _check_attention(config: Any) -> None:
    """Raise for LLMs with layers that do not attend to the whole sequence."""
    kinds = getattr(config, "layer_types", None)
    window = kinds is None and getattr(config, "sliding_window", None) is not None
    if window or set(kinds or ()) - {"full_attention"}:
        raise CapabilityError(
            "reduction inside the LLM needs full attention in every layer; this LLM has sliding "
            "windows"
        )


def _later_tokens(mask: Tensor | None, width: int, n_later: int) -> Tensor | None:
    """Return which tokens after the prompt are real, from the model's own mask; None: all."""
    if mask is None or not n_later:
        return None
    last = mask if mask.ndim == 2 else mask[:, 0, -1]
    last = last[:, width : width + n_later]
    real = last == 0 if last.is_floating_point() else last.bool()
    return None if bool(real.all()) else real
