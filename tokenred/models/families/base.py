"""What the adapters of transformers' model families share; a family adds its own facts."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import CapabilityError, InputError
from tokenred.models.attention import attention_layers, pooling_head
from tokenred.models.cues.names import POOLER, POOLER_ATTENTION, Cue, parse_cues
from tokenred.models.inputs.preparing import Prepared
from tokenred.models.prompt_scores import (
    Continuations,
    Outlook,
    last_states,
    likelihoods,
    log_likelihood,
    shared_outlook,
)
from tokenred.models.reduced_calls import Inside, Reduce, wrapped_calls
from tokenred.models.splice import (
    Clip,
    ClipLayout,
    Layout,
    Spliced,
    VisualPart,
    lay_out,
    original_positions,
    pack,
    prompt_tokens,
    scatter_features,
)
from tokenred.types import ReducedTokens


class FamilyAdapter(ABC):
    """Base of the adapters for ``...ForConditionalGeneration`` classes of transformers.

    A family says how a clip is encoded (``encode``), and where its model differs from the plain
    case: token ids, newline layouts, positions.

    Parameters
    ----------
    model : any dtype and device
    """

    model_class: ClassVar[str]
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]]
    default_positions: ClassVar[str] = "contiguous"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config

    @property
    def tower(self) -> torch.nn.Module:
        """The vision tower."""
        return self.model.model.vision_tower

    @property
    def text_model(self) -> torch.nn.Module:
        """The stack of decoder layers."""
        return self.model.model.language_model

    @property
    def token_ids(self) -> dict[str, int]:
        """Placeholder of every kind of clip."""
        return {kind: getattr(self.config, f"{kind}_token_id") for kind in self.visual_inputs}

    def check(self, needs: Collection[str]) -> None:
        """Refuse, before any work, cues that this model cannot give.

        Raises
        ------
        CapabilityError
            If a cue is unknown, its layer lies outside the tower, or the tower has no class token
            or no pooling head.
        """
        self.cues(needs)

    def cues(self, needs: Collection[str]) -> tuple[Cue, ...]:
        """Resolve the cues on the tower's layers."""
        cues = parse_cues(
            needs,
            len(attention_layers(self.tower)),
            class_token=self.has_class_token,
            frame_group=self.frame_group,
        )
        kinds = {cue.kind for cue in cues}
        if POOLER in kinds and not self.has_pooler:
            raise CapabilityError(
                f"cue {POOLER!r} needs a pooling head, which this vision tower lacks"
            )
        if POOLER_ATTENTION in kinds and pooling_head(self.tower) is None:
            raise CapabilityError(
                f"cue {POOLER_ATTENTION!r} needs a pooling head with a learnt probe, which this "
                "vision tower lacks"
            )
        return cues

    @property
    def has_class_token(self) -> bool:
        """Whether the tower puts a class token in front of the patches."""
        return False

    @property
    def frame_group(self) -> int:
        """Frames that the tower reads as one."""
        return 1

    @property
    def has_pooler(self) -> bool:
        """Whether the tower sums up a frame in one vector."""
        return False

    @abstractmethod
    def encode(
        self,
        inputs: Mapping[str, Any],
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    ) -> list[Clip]:
        """Encode all images and videos among the inputs of a call."""

    def prepare(
        self,
        videos: Sequence[UInt8[Tensor, "frames 3 height width"]] = (),
        images: Sequence[UInt8[Tensor, "3 height width"]] = (),
        *,
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Turn pixels into the model's inputs, as its own processor would.

        Parameters
        ----------
        frame_times : seconds of the frames, one tensor a video, for models that read them
        settings : of the checkpoint's ``preprocessor_config.json``; default: the family's own

        Raises
        ------
        CapabilityError
            If the family leaves this to its processor; ``attach`` does not need it.
        """
        raise CapabilityError(f"{type(self).__name__} does not say how pixels become inputs")

    def refuse_videos(self) -> None:
        """Raise an ``InputError`` if the family reads images only."""
        if "video" not in self.visual_inputs:
            raise InputError(f"{self.model_class} reads images, not videos")

    def newline(self) -> Float[Tensor, "dim"] | None:
        """Return the newline token, if the family has one."""
        return None

    def part(
        self,
        layout: ClipLayout,
        reduced: ReducedTokens,
        deep: Float[Tensor, "levels tokens dim"] | None = None,
    ) -> VisualPart:
        """Return what a reduced clip puts into the sequence; ``deep`` is that of the clip."""
        if deep is not None:
            assert reduced.trace is not None
            deep = _mapped(reduced.trace, deep)
        return pack(reduced, layout, self.newline(), deep)

    def splice(
        self,
        inputs: Mapping[str, Any],
        clips: Sequence[Clip],
        reduced: Sequence[ReducedTokens],
        *,
        positions: str = "contiguous",
    ) -> Spliced:
        """Embed the prompts with the reduced clips in the place of their placeholders.

        Parameters
        ----------
        inputs : of the call, ``input_ids`` and perhaps ``attention_mask`` among them
        clips, reduced : what ``encode`` gave, and what is left of each
        positions : ``contiguous`` renumbers, ``original`` keeps the unreduced positions

        Raises
        ------
        InputError
            If the placeholders in the prompts do not fit the clips.
        """
        parts = tuple(self.part(clip.layout, left, clip.deep) for clip, left in zip(clips, reduced))
        return self.splice_parts(inputs, parts, positions)

    def splice_parts(
        self, inputs: Mapping[str, Any], parts: tuple[VisualPart, ...], positions: str
    ) -> Spliced:
        """Embed the prompts with the parts in the place of their placeholders."""
        input_ids = inputs["input_ids"]
        layout = lay_out(
            input_ids, inputs.get("attention_mask"), self.token_ids, parts, self._pad_id()
        )
        embed = self.model.get_input_embeddings()
        ids = layout.input_ids
        if embed.weight.device.type != "meta":  # offloaded; its hook sees to the device then
            ids = ids.to(embed.weight.device)
        embeddings = embed(ids)
        return Spliced(
            layout=layout,
            parts=parts,
            inputs_embeds=scatter_features(embeddings, layout, parts),
            position_ids=self.position_ids(inputs, layout, positions),
        )

    def position_ids(
        self, inputs: Mapping[str, Any], layout: Layout, positions: str
    ) -> Int[Tensor, "*axes rows short"] | None:
        """Return the position ids of the short prompts; None leaves them to the model."""
        if positions == "contiguous":
            return None
        return original_positions(layout, inputs.get("attention_mask"))

    def during_call(self, spliced: Spliced) -> AbstractContextManager[None]:
        """Whatever the model has to be told beside its inputs while it reads a short prompt."""
        return nullcontext()

    @contextmanager
    def reduced_calls(self, reduce: Reduce, positions: str, inside: Inside) -> Iterator[None]:
        """Let ``generate`` and calls of the model run reduced while the context lasts."""
        with wrapped_calls(self, reduce, positions, inside):
            yield

    def answer_logits(
        self,
        reduced: ReducedTokens,
        prompts: Sequence[Tensor],
        *,
        layout: ClipLayout,
        deep: Float[Tensor, "levels tokens dim"] | None = None,
        inside: Inside = None,
    ) -> Float[Tensor, "prompts vocabulary"]:
        """Return float32 next-token logits of several prompts about one clip; see ``outlook``."""
        return self.outlook(reduced, prompts, layout=layout, deep=deep, inside=inside).logits

    def outlook(
        self,
        reduced: ReducedTokens,
        prompts: Sequence[Tensor],
        *,
        layout: ClipLayout,
        deep: Float[Tensor, "levels tokens dim"] | None = None,
        inside: Inside = None,
        continuations: Continuations | None = None,
    ) -> Outlook:
        """Return what the model expects after each of several prompts about one clip.

        Parameters
        ----------
        prompts : token ids, each with the placeholders of the unreduced clip
        layout, deep : of the unreduced clip, see ``Clip``
        inside : what works inside the LLM; then every prompt is read whole, as the question has a
            say in what is dropped, and nothing after the prompt has
        continuations : texts after each prompt of which the log-likelihood is asked for
        """
        part = self.part(layout, reduced, deep)
        continuations = continuations or [()] * len(prompts)
        if inside is None and self.default_positions == "contiguous":
            token_id = self.token_ids[layout.kind]
            return shared_outlook(self.model, part, prompts, token_id, continuations)
        return self._outlook_whole(part, prompts, inside, continuations)

    @torch.no_grad()
    def _outlook_whole(
        self,
        part: VisualPart,
        prompts: Sequence[Tensor],
        inside: Inside,
        continuations: Continuations,
    ) -> Outlook:
        of_long = []
        for prompt, texts in zip(prompts, continuations, strict=True):
            long = [text for text in texts if len(text) > 1]
            read = [self._read_whole(part, [prompt], inside, text) for text in long]
            of_long.append([log_likelihood(r[0][0], text) for r, text in zip(read, long)])
        logits, hidden = (each[:, -1] for each in self._read_whole(part, prompts, inside))
        scores = map(likelihoods, logits, continuations, of_long)
        return Outlook(logits, hidden, tuple(scores))

    def _read_whole(
        self,
        part: VisualPart,
        prompts: Sequence[Tensor],
        inside: Inside,
        text: Int[Tensor, "tokens"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return logits and last states, (prompts, tokens of ``text`` or 1, ...), in front of each.

        Every prompt is followed by ``text`` but its last token, of which stages inside the LLM know
        nothing.
        """
        after = [] if text is None else [text[:-1]]
        rows = [torch.cat([prompt, *(each.to(prompt) for each in after)]) for prompt in prompts]
        spliced = self._spliced(part, rows)
        if inside is not None:
            announced = spliced if text is None else self._spliced(part, prompts)
            inside.begin(prompt_tokens(announced))
        device = spliced.inputs_embeds.device
        positions = spliced.position_ids
        with self.during_call(spliced), last_states(self.model) as states:
            output = self.model(
                inputs_embeds=spliced.inputs_embeds,
                attention_mask=spliced.layout.attention_mask.to(device),
                position_ids=None if positions is None else positions.to(device),
                use_cache=False,
                logits_to_keep=1 if text is None else len(text),
            )
        return output.logits.float(), states[-1].float()

    def _spliced(self, part: VisualPart, prompts: Sequence[Tensor]) -> Spliced:
        rows = [prompt.long() for prompt in prompts]
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, "left")
        inputs = {"input_ids": pad_sequence(rows, True, 0, "left"), "attention_mask": mask}
        return self.splice_parts(inputs, (part,) * len(rows), self.default_positions)

    def _pad_id(self) -> int:
        generation = self.model.generation_config
        return 0 if generation.pad_token_id is None else int(generation.pad_token_id)


def _mapped(
    trace: Tensor, values: Float[Tensor, "levels tokens dim"]
) -> Float[Tensor, "levels kept dim"]:
    """Send values through the linear map of a reduction, level by level."""
    exact = torch.promote_types(values.dtype, torch.float32)
    trace = trace.to(exact)
    return torch.stack([(trace @ level.to(exact)).to(values.dtype) for level in values])
