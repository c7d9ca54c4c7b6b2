"""The data that flows: plain frozen dataclasses with checks and no behaviour.

Rows of a coupling are **sources**, columns are **anchors**, everywhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.errors import CapabilityError, InputError

_EMPTY: Mapping[str, Tensor] = MappingProxyType({})


Newlines = Literal["none", "end", "frame", "row"]
"""Where a model puts its newline token: nowhere, after the clip, each frame, or each grid row."""


@dataclass(frozen=True)
class NewlineToken:
    """The token with which a model closes a clip, its frames or their rows.

    Attributes
    ----------
    closes : what stands before each
    embedding : (dim,)
    """

    closes: Newlines
    embedding: Float[Tensor, "dim"]


@dataclass(frozen=True)
class VisualTokens:
    """Visual tokens of one video on their way through the stages, dense, one grid a frame.

    Attributes
    ----------
    features : (frames, tokens, dim), any float dtype, raster order inside a frame
    grid : (rows, columns) with ``rows * columns == tokens``
    keep : (frames, tokens) bool, tokens that are still alive; a stage only narrows it
    frame_times : (frames,) seconds
    cues : named tensors that strategies asked for in ``needs``. ``pooler`` has one vector a frame,
        ``(frames, width)``, and so have, or one number, cues that the caller brings under a name
        that begins with ``frame-``; every other cue is per token, ``(frames, tokens)`` or
        ``(frames, tokens, width)``: ``attention@LAYER`` (attention a token receives, mean over
        heads and queries, itself and a class token among them), ``patch-attention@LAYER`` (what
        the other patches alone give it), ``class-attention@LAYER`` (what the class token gives it),
        ``salience@LAYER`` (the latter where a tower has a class token, else the former),
        ``attention@pooler`` (what the pooling head gives it), ``keys@LAYER`` (mean over heads),
        ``tower`` (what the projector reads), or a cue that the caller brings. ``LAYER`` is an index
        (negative from the end), a share of the depth, or ``features``: the block whose output the
        model reads.
    native_pool : the pooling that the model itself applies before its LLM
    segments : runs of frames that belong together; None: the whole video is one
    newline : the token that the model will put between these, which a stage may put in by itself;
        None: it has none
    """

    features: Float[Tensor, "frames tokens dim"]
    grid: tuple[int, int]
    keep: Bool[Tensor, "frames tokens"]
    frame_times: Float[Tensor, "frames"]
    cues: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    native_pool: str = "none"
    segments: "Segments | None" = None
    newline: NewlineToken | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 3:
            raise InputError(
                f"features must be (frames, tokens, dim), got shape {tuple(self.features.shape)}"
            )
        frames, tokens, _ = self.features.shape
        if frames == 0 or tokens == 0:
            raise InputError("a video needs at least one frame with at least one token")
        if self.grid[0] * self.grid[1] != tokens:
            raise InputError(
                f"grid {self.grid[0]}x{self.grid[1]} does not hold {tokens} tokens a frame"
            )
        if tuple(self.keep.shape) != (frames, tokens) or self.keep.dtype != torch.bool:
            raise InputError(f"keep must be a ({frames}, {tokens}) bool tensor")
        if tuple(self.frame_times.shape) != (frames,):
            raise InputError(f"frame_times must have one entry for each of the {frames} frames")

    @classmethod
    def of(
        cls,
        features: Float[Tensor, "frames tokens dim"],
        grid: tuple[int, int],
        *,
        frame_times: Float[Tensor, "frames"] | None = None,
        cues: Mapping[str, Tensor] | None = None,
        native_pool: str = "none",
    ) -> "VisualTokens":
        """Build tokens with nothing dropped yet; frame times default to 0, 1, 2, ... seconds."""
        if features.ndim != 3:
            raise InputError(
                f"features must be (frames, tokens, dim), got shape {tuple(features.shape)}"
            )
        if frame_times is None:
            frame_times = torch.arange(
                features.shape[0], dtype=torch.float32, device=features.device
            )
        keep = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        return cls(features, grid, keep, frame_times, cues or _EMPTY, native_pool)

    def cue(self, name: str) -> Tensor:
        """Return a cue.

        Raises
        ------
        CapabilityError
            If it is not among them.
        """
        if name not in self.cues:
            raise CapabilityError(f"the pipeline needs the cue '{name}', which these tokens lack")
        return self.cues[name]


@dataclass(frozen=True)
class TokenGroup:
    """One side of a coupling: what cost terms may look at.

    Attributes
    ----------
    features : (*batch, n, dim)
    positions : (*batch, n, 2) row and column on the grid, each scaled to [0, 1]
    times : (*batch, n) frame offset inside the segment, in frames
    rank : (*batch, n) place among the tokens of its frame that a stage works on, in raster order;
        None where a stage does not say
    cues : per-token cues of these tokens, ``(*batch, n)`` or ``(*batch, n, width)``
    """

    features: Float[Tensor, "*batch n dim"]
    positions: Float[Tensor, "*batch n 2"]
    times: Float[Tensor, "*batch n"]
    rank: Int[Tensor, "*batch n"] | None = None
    cues: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)


@dataclass(frozen=True)
class Coupling:
    """How much of each source goes to each anchor.

    Attributes
    ----------
    plan : (*batch, sources, anchors), non-negative mass
    cost : (*batch, sources, anchors), what the coupler saw
    source_mass, anchor_mass : (*batch, sources) and (*batch, anchors); zero marks padding
    n_iter : iterations made by the slowest problem of the batch
    residual : (*batch,) worst absolute error of the declared marginals
    converged : (*batch,) bool, whether the coupler's own stop rule was met
    terms : the unweighted cost terms by name, for strategies that blend couplings
    forbidden : (*batch, sources, anchors) bool, pairs that stay apart; their plan is zero
    """

    plan: Float[Tensor, "*batch sources anchors"]
    cost: Float[Tensor, "*batch sources anchors"]
    source_mass: Float[Tensor, "*batch sources"]
    anchor_mass: Float[Tensor, "*batch anchors"]
    n_iter: int
    residual: Float[Tensor, "*batch"]
    converged: Bool[Tensor, "*batch"]
    terms: Mapping[str, Tensor] = field(default_factory=lambda: _EMPTY)
    forbidden: Bool[Tensor, "*batch sources anchors"] | None = None

    @classmethod
    def direct(
        cls,
        plan: Float[Tensor, "*batch sources anchors"],
        cost: Float[Tensor, "*batch sources anchors"],
        source_mass: Float[Tensor, "*batch sources"],
        anchor_mass: Float[Tensor, "*batch anchors"],
    ) -> "Coupling":
        """Wrap a plan that needed no iteration and meets its declared marginals."""
        batch = plan.shape[:-2]
        return cls(
            plan,
            cost,
            source_mass,
            anchor_mass,
            0,
            plan.new_zeros(batch),
            torch.ones(batch, dtype=torch.bool, device=plan.device),
        )


@dataclass(frozen=True)
class MergeWeights:
    """The linear map of one merge: ``new = anchor * old + source^T @ sources``.

    Attributes
    ----------
    anchor : (*batch, anchors), weight an anchor keeps of itself
    source : (*batch, sources, anchors), weight of every source in every anchor
    """

    anchor: Float[Tensor, "*batch anchors"]
    source: Float[Tensor, "*batch sources anchors"]


@dataclass(frozen=True)
class Segments:
    """A partition of the frames: ``boundaries`` runs 0 ... frames, strictly increasing."""

    boundaries: tuple[int, ...]

    def __post_init__(self) -> None:
        b = self.boundaries
        if len(b) < 2 or b[0] != 0 or any(left >= right for left, right in zip(b, b[1:])):
            raise InputError(f"segment boundaries must rise strictly from 0, got {b}")

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([range(a, z) for a, z in zip(self.boundaries, self.boundaries[1:])])

    def __len__(self) -> int:
        return len(self.boundaries) - 1


@dataclass(frozen=True)
class Grouping:
    """A reduction written down at once: which tokens go on, and what each is made of.

    Attributes
    ----------
    head : (groups,) flat place, ``frame * tokens + token``, of the token that stands for each
        group; all different
    map : sparse (groups, frames * tokens) weights of the tokens in each group
    """

    head: Int[Tensor, "groups"]
    map: Tensor


@dataclass(frozen=True)
class StageReport:
    """What one stage did: tokens left, solver state, milliseconds, remarks."""

    name: str
    kind: str
    n_tokens: int
    ms: float
    n_iter: int = 0
    residual: float = 0.0
    converged: bool = True
    n_segments: int = 0
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Realised:
    """What a pipeline really did to one video.

    ``retention_ratio`` is ``n_tokens / vanilla_tokens``; newline tokens are counted apart.
    ``segments`` are those of the last stage that cut the video; None if none did.
    """

    n_tokens: int
    vanilla_tokens: int
    tokens_per_frame: tuple[int, ...]
    reducer_ms: float
    stages: tuple[StageReport, ...]
    newline_tokens: int = 0
    segments: Segments | None = None

    @property
    def retention_ratio(self) -> float:
        """Kept share of the tokens that the LLM would have seen."""
        return self.n_tokens / self.vanilla_tokens


@dataclass(frozen=True)
class ReducedTokens:
    """What the LLM receives, packed, in the order of the sequence.

    Attributes
    ----------
    features : (kept, dim)
    frame_index, token_index : (kept,) place on the LLM grid that each token inherits
    mass : (kept,) how many tokens' worth of features it averages; 1 for an untouched token
    grid : the LLM grid of one frame
    realised : counts, iterations and times
    group : (kept,) groups of tokens that have a quota of their own inside the LLM; None: the frames
    newline : (kept,) bool, the model's newline tokens where the pipeline put them in itself (each
        has the place of the token that it closes); None: the model puts in its own
    trace : sparse (kept, frames * encoder_tokens): ``trace @ encoder_features == features``;
        None unless asked for
    """

    features: Float[Tensor, "kept dim"]
    frame_index: Int[Tensor, "kept"]
    token_index: Int[Tensor, "kept"]
    mass: Float[Tensor, "kept"]
    grid: tuple[int, int]
    realised: Realised
    trace: Tensor | None = None
    group: Int[Tensor, "kept"] | None = None
    newline: Bool[Tensor, "kept"] | None = None


Point = Literal["before", "middle"]
"""Where a reducer may act: before a decoder layer, or between its attention and its MLP."""


class Projections(NamedTuple):
    """Queries and keys of the tokens of a state in one layer, as its attention would take them.

    Attributes
    ----------
    query : (heads, tokens, head_dim)
    key : (key_heads, tokens, head_dim); with grouped queries there are fewer heads of keys
    scaling : factor on their products
    """

    query: Float[Tensor, "heads tokens head_dim"]
    key: Float[Tensor, "key_heads tokens head_dim"]
    scaling: float


AttentionRows = Callable[[Int[Tensor, "queries"]], Float[Tensor, "heads queries tokens"]]
"""Maps indices of query tokens to their rows of softmax attention, one map a head, float32."""


@dataclass(frozen=True)
class LayerStep:
    """One place at which a layer reducer acts, and what it reads there.

    Attributes
    ----------
    layer : index of the decoder layer, from 0
    point : before that layer, or between its attention and its MLP
    reads : of ``attention`` (what the latest attention gave out: of the layer before at
        ``before``, of this layer at ``middle``) and ``previous-input`` (the hidden states that
        entered the layer before, and what that layer makes of them)
    unmasked_before : the layer before lets every token of the prompt see every other one, as
        happens by accident in released code
    """

    layer: int
    point: Point = "before"
    reads: frozenset[str] = frozenset()
    unmasked_before: bool = False


@dataclass(frozen=True)
class LayerState:
    """The prompt of one row inside the LLM, as it stands at a step. No batch, no padding.

    Tokens that were generated already are not in it. Every per-token field has one entry for each
    token of the sequence at this point.

    Attributes
    ----------
    layer, n_layers : the step's layer, and how many the LLM has
    hidden : (tokens, dim) hidden states
    origin : (tokens,) column of the prompt that entered the LLM; -1 for a token made inside it
    visual : (tokens,) bool, image and video tokens, newline tokens not among them
    newline : (tokens,) bool, newline tokens of the visual layout
    clip : (tokens,) which image or video a visual or newline token belongs to; -1 for text
    frame_index, token_index : (tokens,) place of a visual token on the LLM grid of its clip; a
        newline has the place of the token that it follows; -1 for text
    group : (tokens,) groups with a quota of their own; by default one a frame; -1 for text
    last : index of the prompt's last token
    embeddings : (prompt, dim) what entered the LLM, one for each ``origin``
    n_visual : visual tokens that entered the LLM
    cos, sin : (tokens, head_dim) rotary tables of the tokens; None for multimodal rotary embeddings
    attention : rows of the latest attention, causal, as ``LayerStep.reads`` asked for
    probe : ``probe(queries, layer="next" | "previous", rotary=True, causal=True)`` gives rows that
        an attention module would compute from the tokens as they stand (``next``) or as they
        entered the layer before (``previous``), without rotary embedding if asked
    projections : ``projections(layer="next" | "previous", rotary=True)`` gives the queries and keys
        that ``probe`` computes rows from, as ``Projections``
    previous_input : ``previous_input()`` gives the hidden states, (tokens, dim), with which the
        tokens of the state entered the layer before
    final_norm : the LLM's norm behind its last layer, of any hidden states
    log_weight : (tokens,) what layers from here on add to every score of a token as a key; None: 0
    memory : what this reducer wants to remember about this row between its steps
    """

    layer: int
    n_layers: int
    hidden: Float[Tensor, "tokens dim"]
    origin: Int[Tensor, "tokens"]
    visual: Bool[Tensor, "tokens"]
    newline: Bool[Tensor, "tokens"]
    clip: Int[Tensor, "tokens"]
    frame_index: Int[Tensor, "tokens"]
    token_index: Int[Tensor, "tokens"]
    group: Int[Tensor, "tokens"]
    last: int
    embeddings: Float[Tensor, "prompt dim"]
    n_visual: int
    cos: Float[Tensor, "tokens head_dim"] | None
    sin: Float[Tensor, "tokens head_dim"] | None
    attention: AttentionRows
    probe: Callable[..., Float[Tensor, "heads queries tokens"]]
    projections: Callable[..., Projections]
    previous_input: Callable[[], Float[Tensor, "tokens dim"]]
    final_norm: Callable[[Tensor], Tensor]
    log_weight: Float[Tensor, "tokens"] | None = None
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerReduction:
    """What a layer reducer leaves of a sequence.

    Attributes
    ----------
    source : (kept,) for every token that goes on, in order, its index in the state; -1 for a token
        that was made by merging and stands for none of them
    hidden : (kept, dim) hidden states that go on; None: those of the sources
    positions : ``keep`` the position ids of the sources, or ``renumber`` the sequence 0, 1, 2, ...;
        ``recount`` keeps them, but counts the tokens that are written from how many are left
    cut_cache : also drop the keys and values of the dropped tokens in the layers before
    log_weight : (kept,) what later layers, and the tokens that are written, add to every score of a
        token as a key, such as the logarithm of how many tokens it stands for; None: what they had
    """

    source: Int[Tensor, "kept"]
    hidden: Float[Tensor, "kept dim"] | None = None
    positions: Literal["keep", "renumber", "recount"] = "keep"
    cut_cache: bool = False
    log_weight: Float[Tensor, "kept"] | None = None


@dataclass(frozen=True)
class CacheState:
    """The cached sequence of one row at one decoding step. No batch, no padding.

    Attributes
    ----------
    step : decoding step, from 0
    attention : (heads, tokens) weights that the new token gives the cached tokens, itself last, in
        the layer before ``layer``
    visual : (tokens,) bool, image and video tokens, newline tokens not among them
    newline : (tokens,) bool
    memory : what this pruner wants to remember about this row between the steps
    """

    step: int
    attention: Float[Tensor, "heads tokens"]
    visual: Bool[Tensor, "tokens"]
    newline: Bool[Tensor, "tokens"]
    memory: dict[str, Any]
