"""Build the layer state, apply the reduction, keep the cache consistent."""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.errors import CapabilityError, ConfigError, InputError
from tokenred.interfaces import CachePruner, LayerReducer
from tokenred.kernels.attention import attention_rows
from tokenred.models.inside.call import Call, Chosen, Recorded
from tokenred.models.inside.sequences import Sequence, pad_left, positions_of, visible
from tokenred.types import CacheState, LayerReduction, LayerState, LayerStep, Projections

QueryAndKey = tuple[Tensor, Tensor, float | None]


class Prober:
    """Runs a decoder layer up to its queries and keys."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self.caught: list[QueryAndKey] | None = None

    @torch.no_grad()
    def run(self, layer: int, hidden: Tensor, tables: tuple[Tensor, Tensor]) -> QueryAndKey:
        """Return queries, keys and scaling for the hidden states of one row."""
        if layer >= len(self.layers):
            raise CapabilityError("there is no layer after the last one")
        module = self.layers[layer]
        self.caught = []
        try:
            module.self_attn(
                module.input_layernorm(hidden[None]),
                position_embeddings=tables,
                attention_mask=None,
                past_key_values=None,
            )
            query, key, scaling = self.caught[0]
        finally:
            self.caught = None
        return query[0], key[0], scaling


def source_layer(step: LayerStep) -> int:
    """Return the layer whose attention and input a step can read."""
    return step.layer - (step.point == "before")


def run_step(
    call: Call, number: int, reducer: LayerReducer, step: LayerStep, hidden: Tensor, prober: Prober
) -> Tensor:
    """Reduce every prompt; return the hidden states for the next layer."""
    reductions: list[LayerReduction | None] = []
    for row in range(call.prompt.n_rows):
        _, names = call.now.row(row)
        if not bool(call.prompt.facts["visual"][row, names].any()):
            reductions.append(None)
            continue
        state = _layer_state(call, number, row, step, hidden, prober)
        reductions.append(_checked(reducer.reduce(state), state))
    if all(each is None for each in reductions):
        return hidden
    return _apply(call, reductions, hidden, step.layer + (step.point == "middle"))


def _layer_state(
    call: Call, number: int, row: int, step: LayerStep, hidden: Tensor, prober: Prober
) -> LayerState:
    prompt, first = call.prompt, row * call.copies
    columns, names = call.now.row(row)
    entered, _ = prompt.entered.row(row)
    cos = sin = None
    if not call.multimodal:
        cos, sin = (table[0] for table in call.row_tables(call.now, row, columns, hidden))
    return LayerState(
        layer=step.layer,
        n_layers=len(prober.layers),
        hidden=hidden[first, columns],
        origin=positions_of(entered, names),
        last=int((names == prompt.last[row]).nonzero()[0, 0]),
        embeddings=call.embeddings[first, entered],
        n_visual=int(prompt.facts["visual"][row, entered].sum()),
        cos=cos,
        sin=sin,
        attention=partial(_attention, call, row, step),
        probe=partial(_probe, call, row, step, hidden, prober),
        projections=partial(_projections, call, row, step, hidden, prober),
        previous_input=partial(_previous_input, call, row, step),
        final_norm=partial(_final_norm, call.model),
        log_weight=_weights_of(call.now, row),
        memory=call.memories.setdefault((number, row), {}),
        **{name: fact[row, names] for name, fact in prompt.facts.items()},
    )


def _attention(
    call: Call, row: int, step: LayerStep, queries: Int[Tensor, "queries"]
) -> Float[Tensor, "heads queries tokens"]:
    if "attention" not in step.reads:
        raise ConfigError("a step that asks for attention has to say so in its reads")
    found, first = call.recorded[source_layer(step)], row * call.copies
    columns, _ = found.sequence.row(row)
    seen = found.query[first][:, columns], found.key[first][:, columns], found.scaling
    return _rows_among(call, row, found.sequence, queries, seen, causal=not found.two_way)


def _probe(
    call: Call,
    row: int,
    step: LayerStep,
    hidden: Tensor,
    prober: Prober,
    queries: Int[Tensor, "queries"],
    layer: str = "next",
    rotary: bool = True,
    causal: bool = True,
) -> Float[Tensor, "heads queries tokens"]:
    sequence, seen = _computed(call, row, step, hidden, prober, layer, rotary)
    return _rows_among(call, row, sequence, queries, seen, causal)


def _projections(
    call: Call,
    row: int,
    step: LayerStep,
    hidden: Tensor,
    prober: Prober,
    layer: str = "next",
    rotary: bool = True,
) -> Projections:
    sequence, seen = _computed(call, row, step, hidden, prober, layer, rotary)
    where = _places(call, row, sequence)
    query, key, scaling = seen
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return Projections(query[:, where], key[:, where], scaling)


def _previous_input(call: Call, row: int, step: LayerStep) -> Float[Tensor, "tokens dim"]:
    batch, sequence = _entered_before(call, step)
    columns, _ = sequence.row(row)
    return batch[row * call.copies, columns][_places(call, row, sequence)]


def _final_norm(model: Any, hidden: Tensor) -> Tensor:
    norm = getattr(model, "norm", None)
    if norm is None:
        raise CapabilityError(f"{type(model).__name__} has no known norm behind its last layer")
    with torch.no_grad():
        return norm(hidden)


def _entered_before(call: Call, step: LayerStep) -> tuple[Tensor, Sequence]:
    """Return what entered the layer whose input a step can read."""
    if "previous-input" not in step.reads:
        raise ConfigError("a step that asks for previous inputs has to say so in its reads")
    return call.inputs[source_layer(step)]


def _computed(
    call: Call,
    row: int,
    step: LayerStep,
    hidden: Tensor,
    prober: Prober,
    layer: str,
    rotary: bool,
) -> tuple[Sequence, QueryAndKey]:
    """Return queries and keys of one prompt in a layer, and the sequence they belong to."""
    index, batch, sequence = source_layer(step) + 1, hidden, call.now
    if layer == "previous":
        index -= 1
        batch, sequence = _entered_before(call, step)
    elif layer != "next":
        raise ConfigError(f"a probe knows the layers next and previous, not {layer!r}")
    columns, _ = sequence.row(row)
    tables = call.row_tables(sequence, row, columns, hidden)
    if not rotary:
        tables = torch.ones_like(tables[0]), torch.zeros_like(tables[1])
    return sequence, prober.run(index, batch[row * call.copies, columns], tables)


def _places(call: Call, row: int, sequence: Sequence) -> Int[Tensor, "tokens"]:
    """Return where the tokens of the state stand among those of an earlier sequence."""
    where = positions_of(sequence.row(row)[1], call.now.row(row)[1])
    if bool((where < 0).any()):
        raise InputError("a token that was made just now has no earlier hidden state")
    return where


def _weights_of(sequence: Sequence, row: int) -> Float[Tensor, "tokens"] | None:
    """Return the log-weights of one prompt's tokens."""
    if sequence.log_weights is None:
        return None
    return sequence.log_weights[row, sequence.row(row)[0]]


def _rows_among(
    call: Call,
    row: int,
    sequence: Sequence,
    queries: Int[Tensor, "queries"],
    seen: QueryAndKey,
    causal: bool,
) -> Float[Tensor, "heads queries tokens"]:
    """Return attention rows for the tokens of the state, computed among those of ``sequence``."""
    _, held = sequence.row(row)
    where = positions_of(held, call.now.row(row)[1])
    asked = where[queries]
    if bool((asked < 0).any()):
        raise InputError("a token that was made just now has no attention yet")
    query, key, scaling = seen
    allowed = None
    if causal:
        allowed = torch.arange(len(held), device=held.device) <= asked[:, None]
    # Wide before the product: logits of some models lie beyond the largest half-precision number.
    rows = attention_rows(
        query[:, asked].float(),
        key.float(),
        scaling=scaling,
        visible=allowed,
        log_weight=_weights_of(sequence, row),
    )
    return rows[..., where.clamp_min(0)] * (where >= 0)


def _checked(reduction: LayerReduction | None, state: LayerState) -> LayerReduction | None:
    """Return a reduction, or None where it changes nothing.

    Raises
    ------
    InputError
        If it breaks what ``LayerReduction`` promises.
    """
    if reduction is None:
        return None
    source, hidden, n_tokens = reduction.source, reduction.hidden, len(state.hidden)
    real = source[source >= 0]
    if len(real) < len(source) and hidden is None:
        raise InputError("tokens that are made inside the LLM need hidden states")
    if hidden is not None and len(hidden) != len(source):
        raise InputError(f"{len(source)} tokens remain, but {len(hidden)} hidden states are given")
    weights = reduction.log_weight
    if weights is not None and len(weights) != len(source):
        raise InputError(f"{len(source)} tokens remain, but {len(weights)} log-weights are given")
    if not bool((source == state.last).any()):
        raise InputError("the last token of a prompt cannot be dropped: the answer follows it")
    if len(real.unique()) < len(real) or int(real.max()) >= n_tokens:
        raise InputError("every token of the state can remain at most once")
    same = len(real) == len(source) == n_tokens and bool((source.diff() == 1).all())
    if same and hidden is None and weights is None and reduction.positions == "keep":
        return None
    return reduction


def _apply(
    call: Call, reductions: list[LayerReduction | None], hidden: Tensor, before: int
) -> Tensor:
    """Apply the reductions to the call's sequence; return its hidden states."""
    old = call.now
    positions = old.positions
    if any(each is not None and each.positions != "keep" for each in reductions):
        came = call.prompt_positions()
        if positions is None:
            positions = came.gather(1, call.columns_of(old))
    names, numbers, ends, states = [], [], [], []
    sources = _sources(call, reductions)
    for row, (each, (source, stands, named)) in enumerate(zip(reductions, sources, strict=True)):
        columns, _ = old.row(row)
        names.append(named)
        if positions is not None:
            numbers.append(positions[row, columns][stands])
            if each is not None and each.positions == "renumber":
                numbers[-1] = torch.arange(len(source), device=source.device)
            if each is not None and each.positions == "recount":
                ends.append(source.new_tensor([len(source) - 1]))
            elif (each is not None and each.positions == "renumber") or old.shift is None:
                ends.append(numbers[-1][named == call.prompt.last[row]])
            else:
                ends.append(_last_position(call, row) - old.shift[row, None])
        for copy in range(row * call.copies, (row + 1) * call.copies):
            given = None if each is None else each.hidden
            states.append(hidden[copy, columns][source] if given is None else given.to(hidden))
    shift = None
    if positions is not None:
        lasts = [_last_position(call, row) for row in range(call.prompt.n_rows)]
        shift = torch.cat(lasts) - torch.cat(ends)
    moved = None if positions is None else pad_left(numbers, 0)
    weights = _log_weights(call, reductions, sources)
    call.now = Sequence(pad_left(names, -1), moved, shift, weights)
    if any(each is not None and each.cut_cache for each in reductions):
        if call.n_later:
            raise CapabilityError(
                "without a cache, generation cannot hide dropped tokens from the layers before "
                "(cut_cache)"
            )
        call.cuts.append((before, call.now))
    return torch.cat((pad_left(states, 0), hidden[:, old.width :]), 1)


def _last_position(call: Call, row: int) -> Int[Tensor, "1"]:
    """Return the position id that a prompt's last token came with."""
    return call.prompt_positions()[row, call.prompt.last[row, None]]


def _log_weights(
    call: Call,
    reductions: list[LayerReduction | None],
    sources: list[tuple[Tensor, Tensor, Tensor]],
) -> Float[Tensor, "rows width"] | None:
    """Return the log-weights of what remains; None if all are zero."""
    old = call.now
    given = [None if each is None else each.log_weight for each in reductions]
    if old.log_weights is None and all(each is None for each in given):
        return None
    rows = []
    for row, (weights, (source, stands, _)) in enumerate(zip(given, sources, strict=True)):
        if weights is None and old.log_weights is not None:
            weights = old.log_weights[row, old.row(row)[0]][stands]
        none = torch.zeros(len(source), device=source.device)
        rows.append(none if weights is None else weights.to(none))
    return pad_left(rows, 0)


def _sources(
    call: Call, reductions: list[LayerReduction | None]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return source, position and name of every remaining token of every row."""
    found, parents = [], []
    for row, each in enumerate(reductions):
        _, names = call.now.row(row)
        source = torch.arange(len(names), device=names.device)
        if each is not None:
            source = each.source.to(names.device)
        stands = source.clone()
        stands[source < 0] = _parents(source, call.prompt.facts["visual"][row, names])
        found.append((source, stands, names[stands]))
        parents.append(names[stands[source < 0]])
    if any(len(row) for row in parents):
        for (source, _, named), new in zip(found, call.prompt.add(parents), strict=True):
            named[source < 0] = new
    return found


def _parents(source: Int[Tensor, "kept"], visual: Tensor) -> Int[Tensor, "made"]:
    """Return the parent of each made token: the last visual token before it.

    Made tokens stand after the visual tokens of their clip, some or all of which may be gone.
    """
    found: list[int] = []
    made = (source < 0).nonzero()[:, 0].tolist()
    order = source.tolist() if made else []
    for place in made:
        before = next((each for each in reversed(order[:place]) if each >= 0), -1)
        after = next((each for each in order[place:] if each >= 0), len(visual))
        gone = visual[before + 1 : after].nonzero()[:, 0]
        found.append(before + 1 + int(gone[-1]) if len(gone) else max(before, 0))
    return source.new_tensor(found)


@torch.no_grad()
def choose(
    call: Call, pruner: CachePruner, found: Recorded, sequence: Sequence, memories: list[Any]
) -> None:
    """Let a pruner choose, for every row and new token, the keys of the layers from here on.

    Parameters
    ----------
    found : queries and keys of the layer before
    sequence : the prompt's tokens in the first layer that looks at the choice
    memories : one a row of the batch
    """
    seen = visible(
        call.keys(found.sequence), call.n_new, call.chosen_keys(found.sequence, call.n_new)
    )
    chosen = call.chosen
    if chosen is None:
        entered = seen.new_ones(*seen.shape[:2], call.prompt.width)
        chosen = Chosen(entered, seen.new_ones(*seen.shape[:2], call.n_later))
    pruned = call.chosen is not None
    for row, memory in enumerate(memories):
        for number in range(call.n_new):
            state, names, later = _cache_state(
                call, row, number, found, seen[row, number], sequence, memory
            )
            kept = pruner.prune(state)
            if kept is None:
                continue
            pruned = True
            looked = torch.zeros(len(names) + len(later), dtype=torch.bool, device=names.device)
            looked[kept] = True
            looked[-1] = True  # a token always sees itself
            gone, entered = ~looked[: len(names)], names < call.prompt.width
            chosen.prompt[row, number, names[gone & entered]] = False
            chosen.later[row, number, later[~looked[len(names) :]]] = False
    call.chosen = chosen if pruned else None


def _cache_state(
    call: Call,
    row: int,
    number: int,
    found: Recorded,
    seen: Tensor,
    sequence: Sequence,
    memory: dict[str, Any],
) -> tuple[CacheState, Tensor, Tensor]:
    """Return the cache state for a pruner, the names of its prompt tokens, and the later tokens."""
    prompt_row = row // call.copies
    step = call.n_later - call.n_new + number
    query = found.query[row, :, found.query.shape[2] - call.n_new + number][:, None]
    key, given_weights = found.key[row].float(), call.log_weights(found.sequence)
    weights = attention_rows(
        query.float(),
        key,
        scaling=found.scaling,
        visible=seen[None],
        log_weight=None if given_weights is None else given_weights[row],
    )[:, 0]
    columns, held = found.sequence.row(prompt_row)
    _, names = sequence.row(prompt_row)
    where = positions_of(held, names)
    given = weights[:, columns][:, where.clamp_min(0)] * (where >= 0)
    later = torch.arange(step + 1, device=names.device)
    if call.later is not None:
        later = later[call.later[row, : step + 1]]
    facts = {}
    for name in ("visual", "newline"):
        fact = call.prompt.facts[name][prompt_row, names]
        facts[name] = torch.cat((fact, fact.new_zeros(len(later))))
    given = torch.cat((given, weights[:, found.sequence.width + later]), 1)
    return CacheState(step=step, attention=given, memory=memory, **facts), names, later
