"""The interface of a model under test, and its implementation for any model that loads."""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.accounting import LlmShape
from tokenred.config import of_tower, reads_question
from tokenred.embedded import MODEL_DIR, in_its_words
from tokenred.errors import InputError, TokenredError, quoted
from tokenred.evaluation.files import sampled_hash
from tokenred.evaluation.task import Answering, Question, Sample, fingerprint_of
from tokenred.pipeline import Pipeline
from tokenred.types import ReducedTokens

if TYPE_CHECKING:  # these import whole model families, so they wait for the first answer
    from tokenred.models import ModelSession
    from tokenred.models.loading import LoadedModel

_COUNTED = (".safetensors", ".json", ".jinja", ".model", ".py")
"""Files of a checkpoint that can change an answer."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model to load, and how; picklable.

    Attributes
    ----------
    name : local folder or id on the hub; None for the embedded model
    revision : branch, tag or commit on the hub
    device, dtype : as ``tokenred.load_model`` takes them
    """

    name: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Answer:
    """What a model answers to one question.

    Attributes
    ----------
    scores : option -> log-likelihood, summed over its tokens; empty if not scored
    text : generated; empty without generation
    log_probs : (vocabulary,) of the next token
    state : (dim,) the hidden state that the next token is read from
    layer_tokens : visual tokens that entered each layer of the LLM; empty without stages inside it
    """

    scores: dict[str, float]
    text: str = ""
    log_probs: Float[Tensor, "vocabulary"] | None = None
    state: Float[Tensor, "dim"] | None = None
    layer_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Encoded:
    """A sample prepared for a model: clip encoded, questions and options tokenised.

    Attributes
    ----------
    clip : what pipelines reduce
    texts : inputs of the model that differ from question to question, (1, tokens)
    option_ids : for every question the token ids of its options
    inputs : of the model that the questions share
    words : embeddings of the words of each question, (words, dim); empty unless they are needed
    """

    clip: Any
    texts: tuple[dict[str, Tensor], ...]
    option_ids: tuple[tuple[Int[Tensor, "_"], ...], ...]
    inputs: dict[str, Tensor]
    words: tuple[Tensor, ...] = ()

    def about(self, n: int) -> "Encoded":
        """Return the sample with one question, of which the clip has the words as a cue."""
        from tokenred.models.question import with_words

        return Encoded(
            with_words(self.clip, self.words[n]),
            self.texts[n : n + 1],
            self.option_ids[n : n + 1],
            self.inputs,
            self.words[n : n + 1],
        )

    @property
    def prompts(self) -> list[Tensor]:
        """Token ids of each question, (tokens,)."""
        return [text["input_ids"][0] for text in self.texts]


@runtime_checkable
class EvaluatedModel(Protocol):
    """A video LLM that encodes a sample once and answers from any reduction of it.

    Attributes
    ----------
    name : as printed in tables
    revision : changes whenever the weights, or the precision of the arithmetic, do
    shape : sizes of the LLM, for FLOPs
    """

    name: str
    revision: str
    shape: LlmShape

    def check(self, needs: Collection[str]) -> None:
        """Raise a CapabilityError for a cue that the model cannot give."""
        ...

    def encode(self, sample: Sample, needs: Collection[str]) -> Any:
        """Encode the frames of a sample, with the cues asked for.

        If one of them comes from the question, what is returned has a method ``about(n)``, which
        gives the same for question ``n`` alone, that cue included.
        """
        ...

    def reduce(self, encoded: Any, pipeline: Pipeline, generator: torch.Generator) -> ReducedTokens:
        """Run a pipeline; the model adds its newline tokens to the count."""
        ...

    def answers(
        self,
        encoded: Any,
        reduced: ReducedTokens,
        sample: Sample,
        pipeline: Pipeline,
        answering: Answering,
        max_new_tokens: int,
    ) -> list[Answer]:
        """Answer each question; stages of the pipeline inside the LLM run, too."""
        ...


Remember = Callable[
    [Sequence[str | Tensor], Collection[str], Callable[[Collection[str]], Any], torch.device], Any
]
"""Gives an encoded clip: called with all that it depends on, the cues that are needed, the function
that encodes with the cues it is given, and the device of the model."""


class VideoLlm:
    """Any model that ``tokenred.load_model`` loads; by default the embedded one.

    The embedded model is loaded on first use: its files give revision and shape.

    Parameters
    ----------
    spec : which model
    remember : cache in front of the vision tower, such as a ``FeatureCache``
    on_load : called before a load
    on_plan : called with the plan of a load
    """

    def __init__(
        self,
        spec: ModelSpec | None = None,
        remember: Remember | None = None,
        on_load: Callable[[], None] = lambda: None,
        on_plan: Callable[[Any], None] | None = None,
    ) -> None:
        self.spec = spec or ModelSpec()
        self.name = "embedded LLaVA-OneVision" if self.spec.name is None else self.spec.name
        self._remember = remember
        self._on_load, self._on_plan = on_load, on_plan
        self._token_ids: dict[str, list[int]] = {}  # options come again in every sample
        if self.spec.name is None and self.spec.revision is None and self.spec.dtype == "auto":
            config = json.loads((MODEL_DIR / "config.json").read_text(encoding="utf-8"))
            self.revision = _revision(MODEL_DIR, None, config["dtype"])
            self.shape = LlmShape.load(MODEL_DIR)
        else:
            self.revision = revision_of(self._loaded)
            self.shape = LlmShape.of(self._loaded.model.config.text_config)

    @cached_property
    def _loaded(self) -> "LoadedModel":
        from tokenred import load_model

        self._on_load()
        try:
            return load_model(
                MODEL_DIR if self.spec.name is None else self.spec.name,
                device=self.spec.device,
                dtype=self.spec.dtype,
                revision=self.spec.revision,
                local_files_only=self.spec.offline,
                trust_remote_code=self.spec.trust_remote_code,
                on_plan=self._on_plan,
            )
        except TokenredError as error:
            if self.spec.name is None:
                raise TokenredError(f"the embedded model cannot be loaded: {error}") from error
            raise

    @property
    def _session(self) -> "ModelSession":
        return self._loaded.session

    def check(self, needs: Collection[str]) -> None:
        """Raise a CapabilityError for a cue that the model cannot give."""
        self._session.check(needs, question=True)

    def encode(self, sample: Sample, needs: Collection[str]) -> Encoded:
        """Encode the frames of a sample, with the cues asked for, and tokenise its questions.

        The cue that comes from a question is in ``Encoded.about``, not in the shared clip.
        """
        from tokenred.models.inputs.media import MediaInput

        media = MediaInput("video", (sample.frames,), frame_times=(sample.frame_times,))
        prepared = self._loaded.prepare(media)
        device = self._loaded.plan.device
        prompts = [self._prompt(question) for question in sample.questions]
        inputs = [self._loaded.inputs_of(prompt, prepared) for prompt in prompts]

        seen = {name: value for name, value in inputs[0].items() if name not in _OF_TEXT}

        def compute(cues: Collection[str]) -> Any:
            (clip,) = self._session.encode(inputs[0], cues, media.frame_times)
            return clip

        cues = of_tower(needs)
        if self._remember is None:
            clip = compute(cues)
        else:
            depends_on: list[str | Tensor] = [self.revision, device.type, sample.frame_times]
            for name in sorted(seen):
                depends_on += [name, seen[name]]
            clip = self._remember(depends_on, cues, compute, device)
        return Encoded(
            clip=clip,
            texts=tuple({name: each[name] for name in _OF_TEXT if name in each} for each in inputs),
            option_ids=tuple(
                tuple(self._ids(option) for option in question.options)
                for question in sample.questions
            ),
            inputs=seen,
            words=self._words(sample) if reads_question(needs) else (),
        )

    def check_questions(self, questions: Iterable[tuple[str, Question]]) -> None:
        """Raise at once if the embedded model lacks a word of a question; others know all words.

        Parameters
        ----------
        questions : sample id and question
        """
        if self.spec.name is not None:
            return
        for sample_id, question in questions:
            try:
                self._prompt(question)
                for option in question.options:
                    self._known(option)
            except InputError as error:
                raise InputError(f"sample '{sample_id}': {error}") from None

    def _prompt(self, question: Question) -> str:
        """Return what the model reads of a question."""
        embedded = self.spec.name is None
        prompt = in_its_words(question.prompt) if embedded else question.prompt
        self._known(prompt)
        return prompt

    def _words(self, sample: Sample) -> tuple[Tensor, ...]:
        from tokenred.models.question import question_words

        asked = [self._loaded.question_ids(self._prompt(question)) for question in sample.questions]
        return tuple(question_words(self._session.adapter, each) for each in asked)

    def reduce(
        self, encoded: Encoded, pipeline: Pipeline, generator: torch.Generator
    ) -> ReducedTokens:
        """Run a pipeline and count the newline tokens."""
        return self._session.reduce(encoded.clip, pipeline, generator=generator)

    def answers(
        self,
        encoded: Encoded,
        reduced: ReducedTokens,
        sample: Sample,
        pipeline: Pipeline,
        answering: Answering,
        max_new_tokens: int,
    ) -> list[Answer]:
        """Score options from one shared reading of the video; write where text is asked for."""
        scored = [
            n for n, q in enumerate(sample.questions) if q.options and answering == "likelihood"
        ]
        answers = dict(zip(scored, self._scored(encoded, reduced, sample, scored, pipeline)))
        for n in range(len(sample.questions)):
            if n not in answers:
                answers[n] = self._written(encoded, reduced, n, pipeline, max_new_tokens)
        return [answers[n] for n in range(len(sample.questions))]

    def _scored(
        self,
        encoded: Encoded,
        reduced: ReducedTokens,
        sample: Sample,
        which: Sequence[int],
        pipeline: Pipeline,
    ) -> list[Answer]:
        if not which:
            return []
        found, layer_tokens = self._session.score(
            encoded.clip,
            reduced,
            [encoded.prompts[n] for n in which],
            inside=pipeline.inside_llm,
            continuations=[encoded.option_ids[n] for n in which],
        )
        log_probs = found.logits.log_softmax(-1)
        return [
            Answer(
                scores=dict(zip(sample.questions[n].options, found.continuations[row])),
                log_probs=log_probs[row],
                state=found.hidden[row],
                layer_tokens=tuple(layer_tokens[row]),
            )
            for row, n in enumerate(which)
        ]

    def _written(
        self,
        encoded: Encoded,
        reduced: ReducedTokens,
        n: int,
        pipeline: Pipeline,
        max_new_tokens: int,
    ) -> Answer:
        answer = self._session.ask(
            encoded.inputs | encoded.texts[n],
            pipeline,
            clips=[encoded.clip],
            reduced=[reduced],
            generation={"max_new_tokens": max_new_tokens, "do_sample": False},
            logits=True,
        )
        assert answer.logits is not None
        return Answer(
            scores={},
            text=self._loaded.tokenizer.decode(answer.tokens, skip_special_tokens=True).strip(),
            log_probs=answer.logits[0].float().log_softmax(-1),
            state=answer.state,
            layer_tokens=answer.layer_tokens,
        )

    def _ids(self, text: str) -> Int[Tensor, "tokens"]:
        return torch.tensor(self._known(text))

    def _known(self, text: str) -> list[int]:
        """Return the token ids of a text; raise if the tokenizer has unknown words.

        Only word-level tokenizers, such as that of the embedded model, have any.
        """
        if text in self._token_ids:
            return self._token_ids[text]
        tokenizer = self._loaded.tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        known = {None, tokenizer.pad_token_id, tokenizer.eos_token_id}
        if not ids or ({tokenizer.unk_token_id} - known) & set(ids):
            raise InputError(f"the model '{self.name}' has no token for parts of {quoted(text)}")
        self._token_ids[text] = ids
        return ids


_OF_TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")


def revision_of(loaded: Any) -> str:
    """Return the commit of the hub, or a hash of the files, with the precision of the arithmetic.

    Large files count by samples, see ``sampled_hash``.
    """
    dtype = str(loaded.plan.dtype).removeprefix("torch.")
    return _revision(Path(loaded.name), loaded.revision, dtype)


def _revision(folder: Path, commit: str | None, dtype: str) -> str:
    if commit is not None:
        return f"{commit[:12]}-{dtype}"
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _COUNTED]
    return f"{fingerprint_of(*([path.name, sampled_hash(path)] for path in files))}-{dtype}"
