"""The result of a pipeline on one clip, with its frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from tokenred.errors import InputError
from tokenred.report.viz.fates import Fate, Fates, fates_of
from tokenred.types import ReducedTokens, VisualTokens


@dataclass(frozen=True, eq=False)
class View:
    """The result of a pipeline on a clip, ready to be drawn.

    Attributes
    ----------
    name : of the pipeline
    pixels : (frames, height, width, 3) RGB, one for each frame of the tokens
    labels : what each frame is called
    grid : the encoder's grid of one frame
    reduced : what is left, with its trace
    native_pool : the model's own pooling
    entered : (kept,) how many layers of the LLM each token entered; None if none is lost inside
    n_layers : of the LLM; 0 where ``entered`` is None
    """

    name: str
    pixels: UInt8[Tensor, "frames height width 3"]
    labels: tuple[str, ...]
    grid: tuple[int, int]
    reduced: ReducedTokens
    native_pool: str = "none"
    entered: Int[Tensor, "kept"] | None = None
    n_layers: int = 0

    def __post_init__(self) -> None:
        frames = len(self.reduced.realised.tokens_per_frame)
        if len(self.pixels) != frames or len(self.labels) != frames:
            raise InputError(
                f"{frames} frames of tokens need as many images and labels, got "
                f"{len(self.pixels)} and {len(self.labels)}"
            )
        if self.entered is not None and len(self.entered) != len(self.reduced.features):
            raise InputError(
                f"{len(self.entered)} tokens were read by the LLM, but "
                f"{len(self.reduced.features)} were kept before it"
            )

    @classmethod
    def of(
        cls,
        name: str,
        pixels: UInt8[Tensor, "frames height width 3"],
        tokens: VisualTokens,
        reduced: ReducedTokens,
        *,
        labels: Sequence[str] | None = None,
        entered: Int[Tensor, "kept"] | None = None,
        n_layers: int = 0,
    ) -> "View":
        """Build a view from frames, tokens and reduced tokens.

        Parameters
        ----------
        pixels : all frames that were encoded; where a model reads several as one, the first of
            each is shown
        labels : one for each of ``pixels``; by default their numbers
        """
        frames = len(tokens.features)
        step = -(-len(pixels) // frames)
        names = [f"frame {n}" for n in range(len(pixels))] if labels is None else list(labels)
        return cls(
            name,
            pixels[::step].cpu(),
            tuple(names[::step]),
            tokens.grid,
            reduced,
            tokens.native_pool,
            None if entered is None else entered.cpu(),
            n_layers,
        )

    @cached_property
    def fates(self) -> Fates:
        """What became of every patch."""
        return fates_of(self.reduced, self.grid, self.native_pool)

    @property
    def leaves_inside(self) -> Bool[Tensor, "kept"]:
        """Tokens that are dropped inside the LLM."""
        if self.entered is None:
            return self.fates.anchors & False
        return self.entered < self.n_layers

    @property
    def lost_before(self) -> dict[int, int]:
        """LLM layer -> number of tokens dropped before it."""
        if self.entered is None:
            return {}
        layers, counts = self.entered[self.leaves_inside].unique(return_counts=True)
        return dict(zip(layers.tolist(), counts.tolist()))

    @property
    def borders(self) -> tuple[int, ...]:
        """First frames of the segments, and the number of frames; one segment if nothing cut."""
        segments = self.reduced.realised.segments
        return (0, len(self.pixels)) if segments is None else segments.boundaries

    @property
    def title(self) -> str:
        """Name, tokens and their share, in one line."""
        kept = self.reduced.realised
        text = (
            f"{self.name}: {kept.n_tokens} of {kept.vanilla_tokens} tokens "
            f"({kept.retention_ratio:.1%})"
        )
        lost = int(self.leaves_inside.sum())
        return f"{text}, {kept.n_tokens - lost} of them reach the last layer" if lost else text

    def per_frame(self, mask: Bool[Tensor, "kept"]) -> tuple[int, ...]:
        """Count some of the tokens by frame."""
        frame = self.reduced.frame_index.cpu()[mask]
        return tuple(frame.bincount(minlength=len(self.pixels)).tolist())

    def figures(self) -> dict[str, Any]:
        """Return the figures as numbers."""
        kept, fates = self.reduced.realised, self.fates
        return {
            "name": self.name,
            "n_tokens": kept.n_tokens,
            "vanilla_tokens": kept.vanilla_tokens,
            "retention_ratio": kept.retention_ratio,
            "tokens_per_frame": list(kept.tokens_per_frame),
            "anchors_per_frame": list(self.per_frame(fates.anchors)),
            "untouched_per_frame": list(self.per_frame(~fates.anchors)),
            "grid": list(self.reduced.grid),
            "encoder_grid": list(self.grid),
            "patches": {
                fate.name.lower(): list(fates.count(fate)) for fate in sorted(Fate, reverse=True)
            },
            "segments": [list(pair) for pair in zip(self.borders, self.borders[1:])],
            "lost_before_layer": {str(layer): n for layer, n in self.lost_before.items()},
        }
