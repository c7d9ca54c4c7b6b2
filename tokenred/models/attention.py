"""Attention and keys of chosen attention modules, without attention maps.

The modules run on the backend that the model was set to. A thin attention function stands in front
of it for as long as the context lasts, looks at the queries and keys of the chosen modules, and
hands the call on unchanged: the features stay equal to the last bit.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from tokenred.errors import CapabilityError

FRAME_CHUNK = 8
CPU_BLOCK = 1 << 18
"""Attention weights at a time on a CPU: 1 MiB in float32, the second-level cache of one core."""
DEVICE_BLOCK = 1 << 28
"""Attention weights at a time on an accelerator: 1 GiB in float32, twice for the softmax."""
_PREFIX = "tokenred_"

Recorder = Callable[[Tensor, Tensor, float | None], None]

AttentionInputs = tuple[Tensor, Tensor, Tensor | None]
"""Keys, values and mask of one attention call."""

Intercept = Callable[[Tensor, AttentionInputs, float | None], AttentionInputs | Tensor]
"""Sees queries, ``AttentionInputs`` and scaling; returns other inputs, or the output itself."""


@dataclass
class Captured:
    """Recordings of one module, one entry a call (towers with windows call a module many times).

    Attributes
    ----------
    calls : by kind: ``attention``, (batch, tokens) float32, received, mean over heads and queries;
        ``other-attention``, the same of what it does not give itself, ``patch-attention`` besides
        without what the first token gives; ``class-attention``, the same shape, what the first
        token gives, mean over heads; ``keys``, (batch, tokens, head_dim), mean over heads, in the
        model's dtype. With ``joint-`` in front, all heads count as one, as wide as they are
        together
    """

    calls: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, kinds: Collection[str], query: Tensor, key: Tensor, scaling: Any) -> None:
        """Record one call, queries and keys as (batch, heads, tokens, head_dim)."""
        query, key = query.detach(), key.detach()
        for kind in kinds:
            plain = kind.removeprefix("joint-")
            seen = (query, key, scaling)
            if plain != kind:
                seen = (_one_head(query), _one_head(key), None)
            self.calls.setdefault(kind, []).append(_RECORDS[plain](*seen))

    def of(self, kind: str) -> list[Tensor]:
        """Return the recordings of one kind."""
        return self.calls.get(kind, [])


def _one_head(values: Float[Tensor, "batch heads tokens width"]) -> Tensor:
    return values.transpose(1, 2).flatten(2)[:, None]


# A context variable, so that two threads may capture on two models at the same time.
_recorders: ContextVar[Mapping[nn.Module, Recorder]] = ContextVar(
    "tokenred_recorders", default=MappingProxyType({})
)

# One model has one owner at a time, whichever threads it runs in.
_intercepts: dict[nn.Module, Intercept] = {}


@torch.no_grad()
def received_attention(
    query: Float[Tensor, "batch heads tokens head_dim"],
    key: Float[Tensor, "batch heads tokens head_dim"],
    scaling: float | None = None,
    *,
    first: int = 0,
    own: bool = True,
) -> Float[Tensor, "batch tokens"]:
    """Return the attention that every token receives, mean over heads and queries, in float32.

    Works in float32 on one block of weights at a time, never on a whole map: at most
    ``CPU_BLOCK`` weights, so that a block is read again from the cache that it was written to, or
    ``DEVICE_BLOCK`` on an accelerator, where few large steps are faster. Every row of the answer
    sums to one. There is no mask: this is for towers in which every token sees every other one.

    Parameters
    ----------
    scaling : factor on the scores, default ``head_dim ** -0.5``
    first : index of the first query that counts
    own : whether what a token gives itself counts; if not, rows sum to less than one
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query = query[:, :, first:] if first else query
    heads, n_queries = query.shape[1:3]
    n_keys = key.shape[2]
    block = CPU_BLOCK if key.device.type == "cpu" else DEVICE_BLOCK
    n_rows = max(1, min(n_queries, block // n_keys))
    n_heads = max(1, min(heads, block // (n_rows * n_keys)))
    n_frames = max(1, block // (n_heads * n_rows * n_keys))
    received = []
    for queries, keys in zip(query.split(n_frames), key.split(n_frames), strict=True):
        total = torch.zeros(keys.shape[0], n_keys, device=key.device)
        for some, seen in zip(queries.split(n_heads, 1), keys.split(n_heads, 1), strict=True):
            transposed = seen.float().transpose(-1, -2)
            for index, chunk in enumerate(some.split(n_rows, dim=2)):
                left_out = None if own else first + index * n_rows
                total += _received(chunk.float() * scaling, transposed, left_out)
        received.append(total / (heads * n_queries))
    return torch.cat(received)


def _received(
    queries: Float[Tensor, "batch heads queries head_dim"],
    keys: Float[Tensor, "batch heads head_dim tokens"],
    left_out: int | None,
) -> Float[Tensor, "batch tokens"]:
    """Return the weights that a block of queries gives, summed, but those on one diagonal."""
    weights = torch.matmul(queries, keys).softmax(dim=-1)
    if left_out is not None:
        weights.diagonal(left_out, -2, -1).zero_()
    return weights.sum(dim=(1, 2))


@torch.no_grad()
def given_attention(
    query: Float[Tensor, "batch heads head_dim"],
    key: Float[Tensor, "batch heads tokens head_dim"],
    scaling: float | None = None,
) -> Float[Tensor, "batch tokens"]:
    """Return the attention that one query gives to every token, mean over heads, in float32.

    Parameters
    ----------
    scaling : factor on the scores, default ``head_dim ** -0.5``
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    given = [
        (torch.matmul(keys.float(), queries.float()[..., None])[..., 0] * scaling).softmax(-1)
        for queries, keys in zip(query.split(FRAME_CHUNK), key.split(FRAME_CHUNK), strict=True)
    ]
    return torch.cat([weights.mean(dim=1) for weights in given])


_RECORDS: Mapping[str, Callable[[Tensor, Tensor, float | None], Tensor]] = {
    "attention": lambda query, key, scaling: received_attention(query, key, scaling),
    "other-attention": lambda *seen: received_attention(*seen, own=False),
    "patch-attention": lambda *seen: received_attention(*seen, first=1, own=False),
    "class-attention": lambda query, key, scaling: given_attention(query[:, :, 0], key, scaling),
    "keys": lambda query, key, scaling: key.mean(dim=1),
}


def pooling_head(tower: nn.Module) -> Any:
    """Return the head that sums up a frame by attention from a learnt probe, or None."""
    for module in tower.modules():
        probe, attention = getattr(module, "probe", None), getattr(module, "attention", None)
        if isinstance(probe, Tensor) and isinstance(attention, nn.MultiheadAttention):
            return module
    return None


@torch.no_grad()
def pooling_attention(
    head: Any, hidden: Float[Tensor, "batch tokens channels"]
) -> Float[Tensor, "batch tokens"]:
    """Return the attention that the probe of a pooling head gives, mean over heads, in float32.

    Parameters
    ----------
    head : with ``probe`` (1, 1, channels) and ``attention``, as SigLIP's
    hidden : what the head reads: the tower's output behind its last norm
    """
    attention = head.attention
    weights = attention.in_proj_weight.chunk(3)
    biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
    query, key = (
        linear(values, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for values, weight, bias in zip((head.probe, hidden), weights, biases)
    )
    return given_attention(query[:, :, 0].expand(len(key), -1, -1), key)


def attention_layers(tower: nn.Module) -> list[nn.Module]:
    """Return the attention module of every layer, found by walking: paths differ by version.

    Raises
    ------
    CapabilityError
        If the tower has no stack of layers with attention in each.
    """
    for stack in tower.modules():
        if not isinstance(stack, nn.ModuleList) or len(stack) == 0:
            continue
        found = [_attention_of(layer) for layer in stack]
        if all(isinstance(module, nn.Module) for module in found):
            return [module for module in found if module is not None]
    raise CapabilityError(f"no attention layers were found in {type(tower).__name__}")


def _attention_of(layer: nn.Module) -> nn.Module | None:
    for name in ("self_attn", "attn", "attention"):
        found = getattr(layer, name, None)
        if found is not None:
            # Some models of older versions keep queries and keys one level deeper.
            return getattr(found, "attention", found)
    return None


@contextmanager
def capture(modules: Mapping[nn.Module, Collection[str]]) -> Iterator[dict[nn.Module, Captured]]:
    """Record what the chosen attention modules see while the context lasts.

    Parameters
    ----------
    modules : for every attention module of a transformers model, which kinds of ``Captured`` to
        record, also with ``joint-`` in front

    Yields
    ------
    One ``Captured`` a module, filled while the model runs. Cues carry no gradient.

    Raises
    ------
    CapabilityError
        If the backend that the model is set to is not known to transformers' registry.
    """
    captured = {module: Captured() for module in modules}
    recorders = {module: _recorder(captured[module], modules[module]) for module in modules}
    with ExitStack() as stack:
        for config in {id(module.config): module.config for module in modules}.values():
            stack.enter_context(_routed(config))
        token = _recorders.set({**_recorders.get(), **recorders})
        stack.callback(_recorders.reset, token)
        yield captured


@contextmanager
def intercepted(intercepts: Mapping[nn.Module, Intercept]) -> Iterator[None]:
    """Let functions read and change the inputs of chosen attention modules.

    Raises
    ------
    CapabilityError
        If one of the modules is intercepted already, or its backend is not known to transformers.
    """
    if any(module in _intercepts for module in intercepts):
        raise CapabilityError("another reduction runs inside this LLM already")
    with ExitStack() as stack:
        for config in {id(module.config): module.config for module in intercepts}.values():
            stack.enter_context(_routed(config))
        _intercepts.update(intercepts)
        try:
            yield
        finally:
            for module in intercepts:
                del _intercepts[module]


def backend_of(config: Any) -> str:
    """Return the attention backend that a model is set to, looking through our routing."""
    return (config._attn_implementation or "eager").removeprefix(_PREFIX)


def _recorder(into: Captured, kinds: Collection[str]) -> Recorder:
    def record(query: Tensor, key: Tensor, scaling: float | None) -> None:
        into.add(kinds, query, key, scaling)

    return record


@contextmanager
def _routed(config: Any) -> Iterator[None]:
    """Send the attention calls of a config's modules through our function."""
    backend = config._attn_implementation or "eager"
    if backend.startswith(_PREFIX):  # an outer capture on the same tower already does
        yield
        return
    _register(backend)
    original = config._attn_implementation
    config._attn_implementation = _PREFIX + backend
    try:
        yield
    finally:
        config._attn_implementation = original


def _register(backend: str) -> None:
    """Register our function in front of a backend, under a name of its own.

    The mask function is registered too: a name that is missing from that registry makes
    transformers build no mask at all, silently.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if backend != "eager" and backend not in ALL_ATTENTION_FUNCTIONS:
        raise CapabilityError(
            f"cues cannot be captured from attention backend {backend!r}, which transformers does "
            "not know"
        )
    AttentionInterface.register(_PREFIX + backend, _passing_on(backend))
    if backend in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(_PREFIX + backend, ALL_MASK_ATTENTION_FUNCTIONS[backend])


def _passing_on(backend: str) -> Callable[..., Any]:
    def attention(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        record = _recorders.get().get(module)
        if record is not None:
            for queries, keys in _packed(query, key, kwargs.get("cu_seq_lens_q")):
                record(queries, keys, kwargs.get("scaling"))
        intercept = _intercepts.get(module)
        if intercept is not None:
            value, mask, *args = args  # type: ignore[assignment]
            answer = intercept(query, (key, value, mask), kwargs.get("scaling"))
            if isinstance(answer, Tensor):
                return answer, None
            key, *others = answer
            args = (*others, *args)
        config: Any = module.config
        routed = config._attn_implementation
        # Flash attention reads its own name from the config to find its kernel.
        config._attn_implementation = backend
        try:
            return _backend(backend, module)(module, query, key, *args, **kwargs)
        finally:
            config._attn_implementation = routed

    return attention


def _packed(query: Tensor, key: Tensor, bounds: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield queries and keys of sequences that flash attention gets packed into one."""
    if bounds is None:
        return iter([(query, key)])
    sizes = bounds.diff().tolist()
    return zip(query.split(sizes, dim=2), key.split(sizes, dim=2), strict=True)


def _backend(name: str, module: nn.Module) -> Callable[..., Any]:
    """Return the function that the model itself would have called."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    # Eager attention is not registered: every model file defines its own.
    home = sys.modules[type(module).__module__]
    return ALL_ATTENTION_FUNCTIONS.get(name) or home.eager_attention_forward
