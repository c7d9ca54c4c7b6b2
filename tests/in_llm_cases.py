"""For tests of work inside the LLM: tiny models, prompts, reducers, and plain torch to compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tokenred.models.inside.llm import PromptTokens
from tokenred.pipeline.inside import InsideLlm
from tokenred.types import CacheState, LayerReduction, LayerState, LayerStep

VOCABULARY = 40
ATTENTION = frozenset({"attention"})


def tiny_causal(
    arch: str = "qwen2",
    *,
    layers: int = 4,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    **settings: Any,
) -> Any:
    """Return a random causal language model; the caller's random state is left alone."""
    import transformers

    names = {"qwen2": "Qwen2", "llama": "Llama", "qwen3": "Qwen3"}
    config = getattr(transformers, f"{names[arch]}Config")(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation=attention,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = getattr(transformers, f"{names[arch]}ForCausalLM")(config)
    model.generation_config.pad_token_id = 0
    return model.eval().to(dtype)


@dataclass(frozen=True)
class Prompts:
    """A batch that is ready for the LLM, and what its tokens are."""

    ids: Tensor
    embeds: Tensor
    mask: Tensor
    tokens: PromptTokens

    def inputs(self) -> dict[str, Tensor]:
        return {"inputs_embeds": self.embeds, "attention_mask": self.mask}

    def row(self, row: int) -> "Prompts":
        """Return one row without its padding."""
        real = self.mask[row].bool()
        pick = {name: value[row : row + 1, real] for name, value in vars(self.tokens).items()}
        return Prompts(
            self.ids[row : row + 1, real],
            self.embeds[row : row + 1, real],
            self.mask[row : row + 1, real],
            PromptTokens(**pick),
        )


def prompts(
    model: Any,
    rows: Sequence[tuple[int, int, int]] = ((3, 12, 4), (2, 8, 3)),
    side: str = "left",
) -> Prompts:
    """Return prompts of (text, visual tokens in frames of four, text), padded."""
    generator = torch.Generator().manual_seed(7)
    width = max(map(sum, rows))
    shape = len(rows), width
    ids = torch.randint(1, VOCABULARY, shape, generator=generator)
    place = torch.full(shape, -1)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (before, n_visual, after) in enumerate(rows):
        first = width - before - n_visual - after if side == "left" else 0
        mask[row, first : first + before + n_visual + after] = 1
        place[row, first + before : first + before + n_visual] = torch.arange(n_visual)
    visual = place >= 0
    embeds = model.get_input_embeddings()(ids).detach().clone()
    noise = torch.randn(embeds.shape, generator=generator).to(embeds)
    embeds[visual] += noise[visual]
    tokens = PromptTokens(
        attention_mask=mask,
        visual=visual,
        newline=torch.zeros_like(visual),
        clip=visual.long() - 1,
        frame_index=torch.where(visual, place // 4, -1),
        token_index=torch.where(visual, place % 4, -1),
        group=torch.where(visual, place // 4, -1),
    )
    return Prompts(ids, embeds, mask, tokens)


def inside(*reducers: Any, pruner: Any = None) -> InsideLlm:
    named = tuple((f"r{n}", reducer) for n, reducer in enumerate(reducers))
    return InsideLlm(named, (("p", pruner),) if pruner else ())


@dataclass
class KeepBest:
    """Keeps a share of the visual tokens that entered, by the last query's attention."""

    shares: dict[int, float]
    positions: Any = "keep"
    cut_cache: bool = False
    unmasked: bool = False
    seen: list[LayerState] = field(default_factory=list)

    def steps(self, n_layers: int) -> list[LayerStep]:
        return [LayerStep(k, "before", ATTENTION, self.unmasked) for k in sorted(self.shares)]

    def reduce(self, state: LayerState) -> LayerReduction | None:
        self.seen.append(state)
        score = state.attention(torch.tensor([state.last])).mean(0)[0]
        n_kept = round(self.shares[state.layer] * state.n_visual)
        best = score.masked_fill(~state.visual, -1).topk(n_kept).indices
        stays = ~state.visual
        stays[best] = True
        source = stays.nonzero()[:, 0]
        return LayerReduction(source, None, self.positions, self.cut_cache)


@dataclass
class Act:
    """Does at given places what a function says."""

    at: Sequence[LayerStep]
    act: Callable[[LayerState], LayerReduction | None]

    def steps(self, n_layers: int) -> Sequence[LayerStep]:
        return self.at

    def reduce(self, state: LayerState) -> LayerReduction | None:
        return self.act(state)


@dataclass
class LookAtBest:
    """Looks at a share of the cached visual tokens, by all attention they got while writing."""

    at: int = 2
    share: float = 0.5
    seen: list[CacheState] = field(default_factory=list)

    def layer(self, n_layers: int) -> int:
        return self.at

    def prune(self, state: CacheState) -> Tensor | None:
        self.seen.append(state)
        state.memory["steps"] = state.memory.get("steps", 0) + 1
        assert state.memory["steps"] == state.step + 1
        places = state.visual.nonzero()[:, 0]
        score = state.memory.get("score", 0) + state.attention.mean(0)[places]
        state.memory["score"] = score
        if state.step % 3 == 2:  # now and then everything comes back
            return None
        order = score.argsort(descending=True)
        gone = places[order[round(self.share * len(places)) :]]
        stays = torch.ones_like(state.visual)
        stays[gone] = False
        return stays.nonzero()[:, 0]


class Reference:
    """The same model in plain torch, at full length: tokens that are gone are merely not seen."""

    def __init__(self, model: Any) -> None:
        self.model, self.text = model, getattr(model, "model", model)

    def positions(self, mask: Tensor) -> Tensor:
        return (mask.cumsum(-1) - 1).clamp_min(0)

    def causal(self, mask: Tensor) -> Tensor:
        """Return who sees whom: (rows, queries, keys); padding sees itself."""
        n = mask.shape[1]
        seen = torch.ones(n, n, dtype=torch.bool).tril() & mask.bool()[:, None]
        return seen | torch.eye(n, dtype=torch.bool)

    def attend(
        self,
        index: int,
        hidden: Tensor,
        positions: Tensor,
        seen: Tensor,
        log_weight: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states after a layer's attention, and its weights."""
        layer = self.text.layers[index]
        module, normed = layer.self_attn, layer.input_layernorm(hidden)
        heads = [*hidden.shape[:2], -1, module.head_dim]
        query = module.q_proj(normed).view(heads)
        key = module.k_proj(normed).view(heads)
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        cos, sin = self.text.rotary_emb(hidden, positions)
        query, key = (_turn(each.transpose(1, 2), cos, sin) for each in (query, key))
        value = module.v_proj(normed).view(heads).transpose(1, 2)
        groups = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(groups, 1) for each in (key, value))
        scores = query @ key.mT * module.head_dim**-0.5 + log_weight
        weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
        out = (weights @ value).transpose(1, 2).flatten(2)
        return hidden + module.o_proj(out), weights

    def finish(self, index: int, hidden: Tensor) -> Tensor:
        layer = self.text.layers[index]
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self.text.norm(hidden))


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]


def keep_best_reference(
    model: Any, case: Prompts, later: Tensor | None, rule: KeepBest
) -> tuple[Tensor, Tensor]:
    """Return logits and kept columns of ``KeepBest``, for the prompt and later tokens (ids)."""
    reference = Reference(model)
    embeds, mask, visual = case.embeds, case.mask, case.tokens.visual
    if later is not None and later.shape[1]:
        embeds = torch.cat((embeds, model.get_input_embeddings()(later)), 1)
        mask = torch.cat((mask, torch.ones_like(later)), 1)
    n_prompt, n = case.mask.shape[1], mask.shape[1]
    rows = torch.arange(len(mask))
    last = torch.where(case.mask > 0, torch.arange(n_prompt), -1).amax(1)
    positions = reference.positions(mask)
    alive, hidden, weights = mask.bool(), embeds, None
    final = mask.bool()
    ask = sorted(rule.shares)
    if rule.cut_cache:  # a rehearsal, to know what later tokens will not see
        final = keep_best_reference(model, case, later, _uncut(rule))[1]
    for index in range(len(reference.text.layers)):
        if index in ask:
            assert weights is not None
            score = weights.mean(1)[rows, last][:, :n_prompt]
            for row in rows:
                ranked = score[row].masked_fill(~(visual[row] & alive[row, :n_prompt]), -1)
                n_kept = round(rule.shares[index] * int(visual[row].sum()))
                best = ranked.topk(n_kept).indices
                stays = ~visual[row]
                stays[best] = True
                alive = alive.clone()
                alive[row, :n_prompt] &= stays
            if rule.positions == "renumber":
                positions = (alive.long().cumsum(-1) - 1).clamp_min(0)
        seen = reference.causal(alive.long())
        if rule.cut_cache:
            seen[:, n_prompt:] &= final[:, None] | torch.eye(n, dtype=torch.bool)[n_prompt:]
        if rule.unmasked and index + 1 in ask:
            real = alive[:, :n_prompt]
            seen[:, :n_prompt, :n_prompt] |= real[:, None]
        hidden, weights = reference.attend(index, hidden, positions, seen)
        hidden = reference.finish(index, hidden)
    return reference.logits(hidden), alive


def _uncut(rule: KeepBest) -> KeepBest:
    return KeepBest(rule.shares, rule.positions, False, rule.unmasked)
