"""Ask a loaded model about images or videos under a pipeline."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import torch

from tokenred.config import of_tower
from tokenred.errors import InputError, quoted
from tokenred.evaluation.worker import sample_generator
from tokenred.models.attach import Attachment
from tokenred.models.inputs.media import MediaInput
from tokenred.models.inputs.preparing import Prepared
from tokenred.models.loading import LoadedModel
from tokenred.models.loading.memory import memory_errors
from tokenred.models.splice import Clip
from tokenred.pipeline import Pipeline

_GREEDY = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
SAMPLING = ("temperature", "top_p", "top_k", "num_beams", "repetition_penalty", "min_new_tokens")


@dataclass(frozen=True)
class RequestStats:
    """Tokens and times of one request.

    Attributes
    ----------
    input_tokens, vanilla_input_tokens : of the prompt, reduced and not
    output_tokens : that the model wrote, or of the text it was to judge
    visual_tokens, vanilla_visual_tokens : newline tokens not among them
    layer_tokens : visual tokens that entered each layer of the LLM; empty without stages inside it
    frame_indices : of every video
    request_ms : of the whole call, vision tower included
    """

    input_tokens: int
    vanilla_input_tokens: int
    output_tokens: int
    visual_tokens: int
    vanilla_visual_tokens: int
    newline_tokens: int
    layer_tokens: tuple[int, ...]
    frame_indices: tuple[tuple[int, ...], ...]
    n_iter: int
    residual: float
    reducer_ms: float
    request_ms: float


@dataclass(frozen=True)
class Request:
    """One question.

    Attributes
    ----------
    sample_id : decides what random strategies draw
    read_media : reads the images or videos
    key : equal for requests about the same media
    """

    sample_id: str
    prompt: str
    read_media: Callable[[], MediaInput]
    key: Hashable


@dataclass
class PreparedRequest:
    """Prepared media of the latest request; ``clips`` hold the cues of ``needs``."""

    key: Hashable
    media: MediaInput
    prepared: Prepared
    needs: frozenset[str] | None = None
    clips: list[Clip] = field(default_factory=list)


class Asker:
    """Asks a loaded model; the pipeline may change between requests.

    Consecutive requests about the same media encode them once.

    Parameters
    ----------
    positions : see ``tokenred.attach``

    Attributes
    ----------
    needs : further cues to encode, for pipelines of later requests
    """

    def __init__(
        self, loaded: LoadedModel, pipeline: Pipeline, positions: str | None = None
    ) -> None:
        self.loaded, self.pipeline, self.positions = loaded, pipeline, positions
        self.needs: frozenset[str] = frozenset()
        self._latest: PreparedRequest | None = None

    @torch.no_grad()
    def write(
        self, request: Request, max_new_tokens: int, options: Mapping[str, Any]
    ) -> tuple[str, RequestStats]:
        """Generate an answer.

        Parameters
        ----------
        options : of the task: ``until``, ``max_new_tokens``, ``do_sample``, ``temperature`` and so
            on; greedy unless it asks for sampling
        """
        ready = self._prepare(request)
        inputs = self.loaded.inputs_of(request.prompt, ready.prepared)
        start = perf_counter()
        with memory_errors():
            answer = self.loaded.session.ask(
                inputs,
                self.pipeline,
                generation=_generation(options, max_new_tokens, self.loaded.tokenizer),
                **self._how(request, ready, inputs),
            )
        assert answer.attachment is not None
        n_prompt, n_new = answer.vanilla_prompt_tokens, len(answer.tokens)
        stats = _stats(answer.attachment, n_prompt, n_new, ready, start)
        text = self.loaded.tokenizer.decode(answer.tokens, skip_special_tokens=True)
        return _until(text, options.get("until")).strip(), stats

    @torch.no_grad()
    def judge(self, request: Request, text: str) -> tuple[float, bool, RequestStats]:
        """Return the mean negative log-likelihood of a text after the prompt, in nats per token.

        Also return whether greedy decoding would give it.

        Raises
        ------
        InputError
            If the text is empty.
        """
        tokenizer = self.loaded.tokenizer
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.long()
        n_tokens = ids.shape[1]
        if not n_tokens:
            raise InputError(f"{quoted(text)} has no token of this model")
        ready = self._prepare(request)
        inputs = self.loaded.inputs_of(request.prompt, ready.prepared)
        length = inputs["input_ids"].shape[1]
        for name, fill in (("input_ids", ids), ("attention_mask", torch.ones_like(ids))):
            inputs[name] = torch.cat([inputs[name], fill.to(inputs[name])], 1)
        if "mm_token_type_ids" in inputs:
            types = inputs["mm_token_type_ids"]
            inputs["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(ids).to(types)], 1)
        start = perf_counter()
        how = self._how(request, ready, inputs)
        with memory_errors(), self.loaded.session.attached(self.pipeline, **how) as attachment:
            logits = self.loaded.model(**inputs, logits_to_keep=n_tokens + 1).logits[0, :-1]
        log_probs = logits.float().log_softmax(-1).cpu()
        loss = -log_probs[torch.arange(n_tokens), ids[0]].mean()
        greedy = bool((log_probs.argmax(-1) == ids[0]).all())
        assert attachment is not None
        return float(loss), greedy, _stats(attachment, length, n_tokens, ready, start)

    def _prepare(self, request: Request) -> PreparedRequest:
        """Read and prepare the media, unless they are those of the last request."""
        if self._latest is None or self._latest.key != request.key:
            self._latest = None  # make room first
            media = request.read_media()
            prepared = self.loaded.prepare(media)
            self._latest = PreparedRequest(request.key, replace(media, pixels=()), prepared)
        return self._latest

    def _how(
        self, request: Request, ready: PreparedRequest, inputs: Mapping[str, torch.Tensor]
    ) -> dict[str, Any]:
        """Return arguments of a session call: encoded clips, and a generator as in an ablation."""
        needs = self.pipeline.needs
        with memory_errors():
            if ready.prepared.inputs and (ready.needs is None or not ready.needs >= needs):
                ready.needs = needs | self.needs
                times = ready.media.frame_times
                # Clips are kept for the next request, whose question may be another.
                ready.clips = self.loaded.session.encode(inputs, of_tower(ready.needs), times)
        return {
            "positions": self.positions,
            "generator": sample_generator(self.pipeline.config.seed, request.sample_id),
            "questions": [self.loaded.question_ids(request.prompt)],
            "clips": ready.clips,
        }


def _generation(options: Mapping[str, Any], max_new_tokens: int, tokenizer: Any) -> dict[str, Any]:
    """Return arguments of ``generate``, greedy unless the task asks for sampling."""
    chosen = {name: options[name] for name in SAMPLING if options.get(name) is not None}
    temperature = chosen.get("temperature")
    sampled = options.get("do_sample")
    if sampled is None:
        sampled = bool(temperature)
    if temperature == 0 or not sampled:
        chosen |= _GREEDY
    else:
        chosen["do_sample"] = True
    asked = options.get("max_new_tokens") or options.get("max_gen_toks") or max_new_tokens
    return {**chosen, "max_new_tokens": int(asked), "pad_token_id": tokenizer.pad_token_id}


def _until(text: str, stops: Any) -> str:
    """Cut a text at the first stop string."""
    for stop in [stops] if isinstance(stops, str) else stops or ():
        if stop:
            text = text.split(stop)[0]
    return text


def _stats(
    attachment: Attachment, n_prompt: int, n_new: int, ready: PreparedRequest, start: float
) -> RequestStats:
    realised = attachment.realised
    stages = [stage for each in realised for stage in each.stages]
    return RequestStats(
        input_tokens=n_prompt - attachment.tokens_saved,
        vanilla_input_tokens=n_prompt,
        output_tokens=n_new,
        visual_tokens=sum(each.n_tokens for each in realised),
        vanilla_visual_tokens=sum(each.vanilla_tokens for each in realised),
        newline_tokens=sum(each.newline_tokens for each in realised),
        layer_tokens=tuple(next(iter(attachment.layer_tokens), ())),
        frame_indices=ready.media.frame_indices,
        n_iter=max((stage.n_iter for stage in stages), default=0),
        residual=max((stage.residual for stage in stages), default=0.0),
        reducer_ms=sum(each.reducer_ms for each in realised),
        request_ms=(perf_counter() - start) * 1e3,
    )


def mean_stats(stats: Sequence[RequestStats]) -> dict[str, float]:
    """Return means over requests of the figures that lmms-eval has no field for."""
    names = (
        "visual_tokens",
        "vanilla_visual_tokens",
        "newline_tokens",
        "input_tokens",
        "vanilla_input_tokens",
        "reducer_ms",
    )
    return {name: sum(getattr(each, name) for each in stats) / len(stats) for name in names}
