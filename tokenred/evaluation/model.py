"""What the runner asks of a model under test, and the embedded model as one."""

import hashlib
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.accounting import LlmShape
from tokenred.errors import InputError, TokenredError
from tokenred.evaluation.task import Question, Sample
from tokenred.pipeline import Pipeline
from tokenred.pipeline.stages.llm import InsideLlm
from tokenred.types import ReducedTokens, VisualTokens


@dataclass(frozen=True)
class Reply:
    """What a model makes of one question.

    Attributes
    ----------
    scores : option -> log-likelihood among the options
    layer_tokens : visual tokens that entered each layer of the LLM; empty if nothing worked inside
    """

    scores: dict[str, float]
    layer_tokens: tuple[int, ...] = ()


@runtime_checkable
class EvaluatedModel(Protocol):
    """A video LLM that encodes a sample once and answers from any reduction of it.

    Attributes
    ----------
    name : as printed in tables
    revision : changes whenever the weights do
    shape : sizes of the LLM, for FLOPs
    """

    name: str
    revision: str
    shape: LlmShape

    def check(self, needs: Collection[str]) -> None:
        """Raise a CapabilityError for a cue that the model cannot give."""
        ...

    def encode(self, sample: Sample, needs: Collection[str]) -> VisualTokens:
        """Encode the frames of a sample, with the cues asked for."""
        ...

    def reduce(
        self, tokens: VisualTokens, pipeline: Pipeline, generator: torch.Generator
    ) -> ReducedTokens:
        """Run a pipeline; the model adds its newline tokens to the count."""
        ...

    def replies(
        self, reduced: ReducedTokens, questions: Sequence[Question], inside: InsideLlm
    ) -> list[Reply]:
        """Answer each question, with what ``inside`` holds at work inside the LLM."""
        ...


class EmbeddedModel:
    """The small trained LLaVA-OneVision that ships with tokenred.

    Parameters
    ----------
    path : folder with weights and tokenizer; the shipped one by default
    """

    name = "embedded LLaVA-OneVision"

    def __init__(self, path: Path | None = None) -> None:
        from tokenred.embedded import MODEL_DIR, load_model, load_tokenizer
        from tokenred.models import adapter_for

        folder = MODEL_DIR if path is None else path
        try:
            self._adapter: Any = adapter_for(load_model(folder))
            self._tokenizer = load_tokenizer(folder)
            self.revision = _hash_files(folder)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise TokenredError(f"the embedded model cannot be loaded: {reason}") from error
        self.shape = LlmShape.of(self._adapter.model.config.text_config)
        # Every row asks the same questions, and the tokenizer takes longer than a short prefill.
        self._words = lru_cache(maxsize=4096)(lambda text: tuple(self._tokenizer(text).input_ids))

    def check(self, needs: Collection[str]) -> None:
        """Raise a CapabilityError for a cue that the model cannot give."""
        self._adapter.check(needs)

    def encode(self, sample: Sample, needs: Collection[str]) -> VisualTokens:
        """Encode the frames of a sample, with the cues asked for."""
        pixels = {"pixel_values_videos": sample.pixel_values[None]}
        (clip,) = self._adapter.encode(pixels, needs, frame_times=[sample.frame_times])
        return clip.tokens

    def reduce(
        self, tokens: VisualTokens, pipeline: Pipeline, generator: torch.Generator
    ) -> ReducedTokens:
        """Run a pipeline and count the newline token."""
        from tokenred.models import Clip, reduce_clip

        clip = Clip(tokens, self._adapter.video_layout(len(tokens.features)))
        return reduce_clip(self._adapter, clip, pipeline, generator=generator)

    def replies(
        self, reduced: ReducedTokens, questions: Sequence[Question], inside: InsideLlm
    ) -> list[Reply]:
        """Score every option by its one token, in one batch over the questions."""
        from tokenred.models.in_llm import inside_llm

        layout = self._adapter.video_layout(len(reduced.realised.tokens_per_frame))
        video = [self._adapter.token_ids["video"]] * layout.n_placeholders
        prompts = [torch.tensor([*video, *self._words(question.prompt)]) for question in questions]
        with inside_llm(self._adapter.text_model, inside) if inside else nullcontext() as run:
            logits = self._adapter.answer_logits(reduced, prompts, layout=layout, inside=run)
            counts = run.layer_tokens if run else [()] * len(questions)
        return [
            Reply(self._scores(question, row), tuple(count))
            for question, row, count in zip(questions, logits, counts, strict=True)
        ]

    def _scores(self, question: Question, logits: Float[Tensor, "vocabulary"]) -> dict[str, float]:
        chosen = logits[self._option_ids(question)].log_softmax(-1)
        return dict(zip(question.options, chosen.tolist()))

    def _option_ids(self, question: Question) -> Int[Tensor, "options"]:
        ids = [self._words(option) for option in question.options]
        if any(len(tokens) != 1 for tokens in ids) or len({tokens[0] for tokens in ids}) < len(ids):
            raise InputError(f"options must be single, different tokens: {question.options}")
        return torch.tensor(ids)[:, 0]


def _hash_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
