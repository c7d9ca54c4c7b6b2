"""What a strategy's answer has to be, whoever wrote it: type, shape, device, numbers.

Strategies are guests. Every call of a method that a role has is ``guarded``: an exception that is
none of tokenred's becomes a ``StrategyError`` that names the strategy, and so does an answer that
breaks what the role promises, or a tensor of the caller that was written into. Types and shapes are
checked at once. Numbers are compared on their device and read together when the stage is done
(``claims``): next to nothing beside the work itself, and no wait for a GPU.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenred.errors import StrategyError, TokenredError, told
from tokenred.types import (
    CacheState,
    Coupling,
    Grouping,
    LayerReduction,
    LayerState,
    LayerStep,
    MergeWeights,
    Segments,
    TokenGroup,
    VisualTokens,
)

SLACK = 1e-2
"""By how much sums may miss what they should be: half precision, and solvers that stop early."""

PASSED_ON = (TokenredError, torch.OutOfMemoryError, MemoryError)
"""Errors that say themselves what is wrong."""

Facts = Iterable[tuple[Tensor, str]]
"""Bools on some device, and what a strategy did if one is false."""
Claim = tuple[Any, Tensor, str]
"""The same, and whose it is."""

_CLAIMS: ContextVar[list[Claim] | None] = ContextVar("claims", default=None)


class Broken(Exception):
    """A promise that is not kept; the text goes behind the strategy's name."""


@contextmanager
def claims() -> Iterator[None]:
    """Collect what has to hold of numbers, and read it at the end, once for each device.

    What fails because of a broken promise is not to blame: the promise is named instead.

    Raises
    ------
    StrategyError
        If one of the strategies that were called broke a promise.
    """
    pending: list[Claim] = []
    token = _CLAIMS.set(pending)
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:
        _settle(pending)
        raise
    finally:
        _CLAIMS.reset(token)
    _settle(pending)


def _settle(pending: Sequence[Claim]) -> None:
    """Raise the first claim that does not hold."""
    by_device: dict[torch.device, list[Tensor]] = defaultdict(list)
    for _, holds, _ in pending:
        by_device[holds.device].append(holds)
    if all(bool(torch.stack(each).all()) for each in by_device.values()):
        return
    for strategy, holds, text in pending:
        if not bool(holds):
            raise StrategyError(f"{_named(strategy)} {text}")


def guarded(method: Callable[..., Any], role: str, name: str) -> Callable[..., Any]:
    """Return a strategy's method with its promises checked at every call."""
    check = PROMISES[role][name]

    @wraps(method)
    def call(strategy: Any, *args: Any, **kwargs: Any) -> Any:
        given = [(each, each._version) for each in _tensors(args) if not each.is_inference()]
        try:
            answer = method(strategy, *args, **kwargs)
        except PASSED_ON:
            raise
        except (Exception, SystemExit) as error:
            raise StrategyError(f"{_named(strategy)} raised {told(error)}") from error
        if any(each._version != version for each, version in given):
            raise StrategyError(f"{_named(strategy)} wrote into a tensor that it was given")
        try:
            facts = list(check(strategy, answer, *args, **kwargs))
        except Broken as fault:
            raise StrategyError(f"{_named(strategy)} {fault}") from None
        found = [(strategy, holds.detach(), text) for holds, text in facts]
        pending = _CLAIMS.get()
        if pending is None:
            _settle(found)
        else:
            pending.extend(found)
        return answer

    return call


def _named(strategy: Any) -> str:
    """Return role, name and, of what is not tokenred's own, whose it is."""
    name = getattr(strategy.config, "name", "") or type(strategy).__name__
    package, _, inner = type(strategy).__module__.partition(".")
    file = getattr(sys.modules.get(package), "__file__", None)
    if file and not inner and Path(file).name != "__init__.py":
        package = Path(file).name
    return f"{strategy.role} '{name}'" + ("" if package == "tokenred" else f" of {package}")


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the tensors among arguments, and those in dataclasses among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value):
            for field in fields(value):
                held = getattr(value, field.name)
                if isinstance(held, Tensor):
                    yield held
                elif field.name in ("cues", "terms"):
                    yield from (each for each in held.values() if isinstance(each, Tensor))


# Parts of checks


def _is(answer: Any, wanted: type, what: str) -> None:
    if not isinstance(answer, wanted):
        raise Broken(f"gave {_of(answer)} instead of {what}")


def _of(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of {answer.dtype} and shape {tuple(answer.shape)}"
    return "None" if answer is None else f"a {type(answer).__name__}"


def _kind(values: Tensor) -> str:
    if values.dtype == torch.bool:
        return "bool"
    return "real" if values.is_floating_point() else "complex" if values.is_complex() else "whole"


def _tensor(answer: Any, shape: tuple[int, ...], like: Tensor, what: str, kind: str) -> None:
    """Hold a tensor against its shape, kind of numbers and device."""
    _is(answer, Tensor, what)
    if tuple(answer.shape) != shape:
        raise Broken(f"gave {what} of shape {tuple(answer.shape)}, expected {shape}")
    if _kind(answer) != kind:
        raise Broken(f"gave {what} of {answer.dtype}, expected {kind} numbers")
    if answer.device != like.device:
        raise Broken(f"gave {what} on {answer.device}, the tokens are on {like.device}")


def _finite(values: Tensor, what: str) -> Facts:
    if values.numel():
        # One pass at the speed of memory; only sums beyond the range of the numbers would mislead.
        total = values.detach().sum(dtype=torch.promote_types(values.dtype, torch.float32))
        yield torch.isfinite(total), f"gave {what} with NaN or infinity"


def _positive(values: Tensor, what: str) -> Facts:
    if values.numel():
        yield values.detach().amin() >= -1e-6, f"gave negative {what}"


def _within(values: Tensor, least: int, below: int, what: str) -> Facts:
    if values.numel():
        low, high = values.detach().aminmax()
        text = f"gave {what} out of range, valid are {least} to {below - 1}"
        yield (low >= least) & (high < below), text


# Checks, a method each


def _select(strategy: Any, answer: Any, tokens: VisualTokens, n_anchors: int, **_: Any) -> Facts:
    keep = tokens.keep
    _is(answer, Tensor, "anchors")
    if answer.dtype == torch.bool:
        _tensor(answer, tuple(keep.shape), answer, "a mask of anchors", "bool")
        return
    shape = (len(keep), answer.shape[-1] if answer.ndim else 0)
    _tensor(answer, shape, answer, "anchors", "whole")
    if answer.shape[1] != n_anchors and not strategy.adaptive:
        raise Broken(f"gave {answer.shape[1]} anchors a frame, asked for {n_anchors}")
    yield from _within(answer, -1, keep.shape[1], "an anchor")


def _couple(
    strategy: Any, answer: Any, cost: Tensor, source_mass: Tensor, *_: Any, **__: Any
) -> Facts:
    _is(answer, Coupling, "a Coupling")
    plan = answer.plan
    _tensor(plan, tuple(cost.shape), cost, "a plan", "real")
    sent = plan.detach().sum(-1, dtype=torch.promote_types(plan.dtype, torch.float32))
    yield from _finite(sent, "masses in a plan")
    yield from _positive(plan, "masses in a plan")
    if strategy.marginals in ("both", "source") and not strategy.copies and plan.numel():
        most = source_mass.detach() * (1 + SLACK) + answer.residual.detach()[..., None] + 1e-6
        yield (sent <= most).all(), "gave a plan that sends more than its sources have"


def _weights(strategy: Any, answer: Any, coupling: Coupling) -> Facts:
    _is(answer, MergeWeights, "MergeWeights")
    plan = coupling.plan
    shape = (*plan.shape[:-2], plan.shape[-1])
    _tensor(answer.anchor, shape, plan, "weights of anchors", "real")
    _tensor(answer.source, tuple(plan.shape), plan, "weights of sources", "real")
    total = answer.anchor.detach().float() + answer.source.detach().sum(-2, dtype=torch.float32)
    yield from _finite(total, "weights")
    if strategy.averages and total.numel():
        text = "gave weights of an anchor that do not sum to one, and says that it averages"
        yield ((total - 1).abs() <= SLACK).all(), text


def _segment(strategy: Any, answer: Any, descriptors: Tensor, **_: Any) -> Facts:
    _is(answer, Segments, "Segments")
    last = answer.boundaries[-1]
    if last != len(descriptors):
        raise Broken(f"ends at frame {last}, the video has {len(descriptors)}")
    return ()


def _pairs(sources: TokenGroup, anchors: TokenGroup) -> tuple[int, ...]:
    left, right = sources.features.shape, anchors.features.shape
    return (*torch.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-2])


def _cost(strategy: Any, answer: Any, sources: TokenGroup, anchors: TokenGroup) -> Facts:
    _tensor(answer, _pairs(sources, anchors), sources.features, "costs", "real")
    return _finite(answer, "costs")


def _forbids(strategy: Any, answer: Any, sources: TokenGroup, anchors: TokenGroup) -> Facts:
    if answer is not None:
        _is(answer, Tensor, "a mask of pairs")
        expanded = answer.expand(_pairs(sources, anchors))
        _tensor(expanded, tuple(expanded.shape), sources.features, "forbidden pairs", "bool")
    return ()


def _score(strategy: Any, answer: Any, coupling: Coupling) -> Facts:
    _tensor(answer, tuple(coupling.plan.shape[:-1]), coupling.plan, "scores", "real")
    return _finite(answer, "scores")


def _decide(strategy: Any, answer: Any, score: Tensor, *, keep: str, n_keep: int | None) -> Facts:
    _tensor(answer, tuple(score.shape), score, "a decision", "bool")
    if strategy.exact and n_keep is not None and answer.numel():
        wanted = min(n_keep, score.shape[-1])
        text = f"did not keep exactly {wanted} of {score.shape[-1]} sources"
        yield (answer.sum(-1) == wanted).all(), text


def _references(strategy: Any, answer: Any, n_frames: int) -> Facts:
    _is(answer, Sequence, "a list of frames")
    if len(answer) != n_frames:
        raise Broken(f"gave {len(answer)} references for {n_frames} frames")
    for each in answer:
        if each is not None and not (isinstance(each, int) and 0 <= each < n_frames):
            raise Broken(f"gave the reference {each!r}, there are frames 0 to {n_frames - 1}")
    return ()


def _static(strategy: Any, answer: Any, features: Tensor) -> Facts:
    _tensor(answer, (features.shape[1],), features, "a mask of places", "bool")
    return ()


def _allocate(strategy: Any, answer: Any, tokens: VisualTokens, n_anchors: float) -> Facts:
    _tensor(answer, (len(tokens.keep),), answer, "numbers of anchors", "real")
    yield from _finite(answer, "numbers of anchors")
    yield from _positive(answer, "numbers of anchors")


def _group(strategy: Any, answer: Any, tokens: VisualTokens, **_: Any) -> Facts:
    _is(answer, Grouping, "a Grouping")
    n_groups, n_tokens = len(answer.head), tokens.keep.numel()
    _tensor(answer.head, (n_groups,), tokens.features, "heads", "whole")
    yield from _within(answer.head, 0, n_tokens, "a head")
    if not answer.map.is_sparse or tuple(answer.map.shape) != (n_groups, n_tokens):
        raise Broken(f"gave {_of(answer.map)} as a map, expected sparse {(n_groups, n_tokens)}")
    yield from _finite(answer.map.coalesce().values(), "a map")


def _rank(strategy: Any, answer: Any, state: LayerState, candidates: Tensor) -> Facts:
    _tensor(answer, (len(candidates),), state.hidden, "scores", "real")
    return _unless_the_model(state, answer, "scores")


def _unless_the_model(state: LayerState, values: Tensor, what: str) -> Facts:
    """Hold values finite, unless the model's own numbers are not."""
    for holds, text in _finite(values, what):
        yield holds | ~torch.isfinite(state.hidden.detach().sum(dtype=torch.float32)), text


def _n_kept(strategy: Any, answer: Any, state: LayerState, candidates: Tensor) -> Facts:
    if isinstance(answer, bool) or not isinstance(answer, int) or answer < 0:
        raise Broken(f"wants to keep {answer!r} tokens, expected a number from 0 on")
    return ()


def _merge(
    strategy: Any, answer: Any, state: LayerState, kept: Tensor, *_: Any, **__: Any
) -> Facts:
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise Broken(f"gave {_of(answer)} instead of kept and new hidden states")
    _is(answer[1], Tensor, "new hidden states")
    width = state.hidden.shape[-1]
    for each, n, what in zip(answer, (len(kept), len(answer[1])), ("kept", "new")):
        _tensor(each, (n, width), state.hidden, f"{what} hidden states", "real")
        yield from _unless_the_model(state, each, f"{what} hidden states")


def _steps(strategy: Any, answer: Any, n_layers: int) -> Facts:
    _is(answer, Sequence, "a list of steps")
    for each in answer:
        _is(each, LayerStep, "a LayerStep")
    return ()


def _reduce(strategy: Any, answer: Any, state: LayerState) -> Facts:
    if answer is None:
        return
    _is(answer, LayerReduction, "a LayerReduction")
    n_tokens, width = state.hidden.shape
    _tensor(answer.source, (len(answer.source),), state.hidden, "sources", "whole")
    yield from _within(answer.source, -1, n_tokens, "a source")
    kept = torch.zeros_like(state.visual)
    kept[answer.source.clamp(0, n_tokens - 1)] = True
    yield (kept | state.visual | state.newline).all(), "dropped text of the prompt"
    if answer.hidden is not None:
        shape = (len(answer.source), width)
        _tensor(answer.hidden, shape, state.hidden, "hidden states", "real")
        yield from _unless_the_model(state, answer.hidden, "hidden states")
    if answer.log_weight is not None:
        _tensor(answer.log_weight, (len(answer.source),), state.hidden, "log-weights", "real")
        yield from _unless_the_model(state, answer.log_weight, "log-weights")


def _layer(strategy: Any, answer: Any, n_layers: int) -> Facts:
    _is(answer, int, "the number of a layer")
    return ()


def _prune(strategy: Any, answer: Any, state: CacheState) -> Facts:
    if answer is None:
        return ()
    _is(answer, Tensor, "cached tokens")
    _tensor(answer, (answer.numel(),), state.visual, "cached tokens", "whole")
    return _within(answer, 0, len(state.visual), "a cached token")


def _run(strategy: Any, answer: Any, flow: Any) -> Facts:
    """A stage answers through the flow."""
    return ()


PROMISES: Mapping[str, Mapping[str, Callable[..., Facts]]] = {
    "stage": {"run": _run},
    "selector": {"select": _select},
    "coupler": {"couple": _couple},
    "aggregator": {"weights": _weights},
    "segmenter": {"segment": _segment},
    "cost term": {"cost": _cost, "forbids": _forbids},
    "keep score": {"score": _score},
    "keep decision": {"decide": _decide},
    "frame reference": {"references": _references},
    "static rule": {"static": _static},
    "budget allocator": {"allocate": _allocate},
    "token grouper": {"group": _group},
    "token ranker": {"rank": _rank, "n_kept": _n_kept},
    "layer merger": {"merge": _merge},
    "layer reducer": {"steps": _steps, "reduce": _reduce},
    "cache pruner": {"layer": _layer, "prune": _prune},
}
"""Role -> the methods that are guarded, and what holds of their answers."""
