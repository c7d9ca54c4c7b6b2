"""One interface to a loaded model: encode, reduce, ask, score, time."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.config import of_tower, reads_question
from tokenred.models.adapter import ModelAdapter, adapter_for
from tokenred.models.attach import Attachment, Observer, ReducingPipeline, attached, reduce_clip
from tokenred.models.inside.llm import inside_llm
from tokenred.models.prompt_scores import Continuations, PromptScores, last_states
from tokenred.models.question import Questions, with_question
from tokenred.models.splice import Clip
from tokenred.models.timing import PartTimes, Stopwatch, Ticks, TimedAnswer
from tokenred.pipeline.inside import InsideLlm
from tokenred.types import ReducedTokens


@dataclass(frozen=True)
class ModelAnswer:
    """What a model wrote after one prompt.

    Attributes
    ----------
    tokens : that it wrote
    vanilla_prompt_tokens : of the prompt, unreduced
    attachment : the pipeline's work in this call; None where none was attached
    ms : of the whole call, vision tower included unless the clips came encoded
    logits : (new tokens, vocabulary), if they were asked for
    state : (dim,) float32 the first token was read from, if logits were asked for
    """

    tokens: list[int]
    vanilla_prompt_tokens: int
    attachment: Attachment | None
    ms: float
    logits: Float[Tensor, "new vocabulary"] | None = None
    state: Float[Tensor, "dim"] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt that entered the LLM."""
        saved = 0 if self.attachment is None else self.attachment.tokens_saved
        return self.vanilla_prompt_tokens - saved

    @property
    def layer_tokens(self) -> tuple[int, ...]:
        """Visual tokens that entered each layer; empty without stages inside the LLM."""
        if self.attachment is None:
            return ()
        return tuple(next(iter(self.attachment.layer_tokens), ()))


class ModelSession:
    """A loaded model: encode, reduce, ask, score and time.

    ``attach`` reduces your own calls of a model; a session makes the calls, too.

    Parameters
    ----------
    model : a model that ``adapter_for`` knows
    adapter : of its family; found by default
    """

    def __init__(self, model: Any, adapter: ModelAdapter | None = None) -> None:
        self.model = model
        self.adapter = adapter_for(model) if adapter is None else adapter

    def check(self, needs: Collection[str], *, question: bool = False) -> None:
        """Raise a ``CapabilityError`` for a cue that the model cannot give.

        Parameters
        ----------
        question : whether there will be one
        """
        known = question and self.adapter.reads_questions
        self.adapter.check(of_tower(needs) if known else needs)

    def encode(
        self,
        inputs: Mapping[str, Any],
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
        questions: Questions | None = None,
    ) -> list[Clip]:
        """Encode the images and videos among the inputs of a call, with the cues asked for.

        Parameters
        ----------
        questions : see ``attach``
        """
        if not (reads_question(needs) and self.adapter.reads_questions):
            return self.adapter.encode(inputs, needs, frame_times)
        clips = self.adapter.encode(inputs, of_tower(needs), frame_times)
        return with_question(self.adapter, clips, inputs, questions)

    def reduce(
        self,
        clip: Clip,
        pipeline: ReducingPipeline,
        *,
        generator: torch.Generator | None = None,
        trace: bool = False,
    ) -> ReducedTokens:
        """Run a pipeline on one encoded clip, newline tokens counted."""
        newline = self.adapter.newline()
        return reduce_clip(clip, pipeline, newline=newline, generator=generator, trace=trace)

    @contextmanager
    def attached(
        self,
        pipeline: ReducingPipeline,
        *,
        positions: str | None = None,
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
        generator: torch.Generator | None = None,
        trace: bool = False,
        observer: Observer | None = None,
        questions: Questions | None = None,
        clips: Sequence[Clip] | None = None,
        reduced: Sequence[ReducedTokens] | None = None,
    ) -> Iterator[Attachment]:
        """Let calls of the model run reduced while the context lasts.

        Parameters
        ----------
        positions, frame_times, generator, trace, observer, questions : see ``attach``
        clips, reduced : of the calls to come, where they are encoded, or reduced, already
        """
        attachment = Attachment(
            self.adapter,
            pipeline,
            frame_times=frame_times,
            generator=generator,
            trace=trace,
            observer=observer,
            questions=questions,
            _given=(clips, reduced),
        )
        with attached(attachment, positions):
            yield attachment

    def _attached(
        self, pipeline: ReducingPipeline | None, **how: Any
    ) -> AbstractContextManager[Attachment | None]:
        return nullcontext() if pipeline is None else self.attached(pipeline, **how)

    def ask(
        self,
        inputs: Mapping[str, Any],
        pipeline: ReducingPipeline | None = None,
        *,
        generation: Mapping[str, Any],
        logits: bool = False,
        **how: Any,
    ) -> ModelAnswer:
        """Let the model write an answer to one prompt.

        Parameters
        ----------
        inputs : of ``generate``
        pipeline : None leaves the model as it is
        generation : arguments of ``generate`` besides
        logits : whether to keep those of the new tokens, and the state of the first one
        how : see ``attached``
        """
        n_prompt = inputs["input_ids"].shape[1]
        start = perf_counter()
        keeping: Any = last_states(self.model) if logits else nullcontext()
        with self._attached(pipeline, **how) as attachment, keeping as states:
            output = self.model.generate(
                **inputs, **generation, return_dict_in_generate=True, output_logits=logits
            )
            tokens = output.sequences[0, n_prompt:].tolist()
        ms = (perf_counter() - start) * 1e3
        if not logits:
            return ModelAnswer(tokens, n_prompt, attachment, ms)
        state = states[0][0, -1].float()
        return ModelAnswer(tokens, n_prompt, attachment, ms, torch.cat(output.logits), state)

    def score(
        self,
        clip: Clip,
        reduced: ReducedTokens,
        prompts: Sequence[Int[Tensor, "_"]],
        *,
        inside: InsideLlm | None = None,
        continuations: Continuations | None = None,
    ) -> tuple[PromptScores, list[tuple[int, ...]]]:
        """Return next-token scores of several prompts about one clip.

        Also return, for every prompt, the visual tokens that entered each layer of the LLM; empty
        without stages inside it.
        """
        with inside_llm(self.adapter.text_model, inside) if inside else nullcontext() as run:
            scores = self.adapter.prompt_scores(
                clip, reduced, prompts, inside=run, continuations=continuations
            )
            return scores, run.layer_tokens if run else [()] * len(prompts)

    def time(
        self,
        inputs: Mapping[str, Any],
        pipeline: ReducingPipeline | None,
        *,
        new_tokens: int,
        stopwatch: Stopwatch,
        **how: Any,
    ) -> TimedAnswer:
        """Time one answer of exactly ``new_tokens`` tokens, reduced by a pipeline or whole.

        Parameters
        ----------
        how : see ``attached``
        """
        ticks, parts = Ticks(stopwatch), PartTimes(stopwatch)
        with self._attached(pipeline, observer=parts, **how) as attachment:
            start = stopwatch.ms()
            self.model.generate(
                **inputs,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
                stopping_criteria=[ticks],
            )
        first, last = ticks.at_ms[0], ticks.at_ms[-1]
        spent = (first - start, last - first, len(ticks.at_ms), ticks.prompt_tokens)
        if attachment is None:
            return TimedAnswer(*spent)
        stages: Counter[str] = Counter()
        for each in attachment.realised:
            for stage in each.stages:
                stages[stage.name] += stage.ms  # type: ignore[assignment]
        return TimedAnswer(
            *spent,
            encoder_ms=parts.encoder_ms,
            reducer_ms=parts.reducer_ms,
            stage_ms=dict(stages),
            realised=tuple(attachment.realised),
            layer_tokens=tuple(next(iter(attachment.layer_tokens), ())),
        )
