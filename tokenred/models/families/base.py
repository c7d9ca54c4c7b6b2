"""Base class of the adapters for model families of transformers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import InputError
from tokenred.models.adapter import ModelAdapter
from tokenred.models.cues import Tower
from tokenred.models.prompt_scores import (
    Continuations,
    PromptScores,
    last_states,
    likelihoods,
    log_likelihood,
    shared_prompt_scores,
)
from tokenred.models.reduced_calls import Inside, Reduction, wrapped_calls
from tokenred.models.splice import (
    Clip,
    Layout,
    Spliced,
    VisualPart,
    lay_out,
    original_positions,
    prompt_tokens,
    scatter_features,
)
from tokenred.types import ReducedTokens


class FamilyAdapter(ModelAdapter):
    """Base of the adapters for ``...ForConditionalGeneration`` classes of transformers.

    A family says how a clip is encoded (``encode``), and where its model differs from the plain
    case: token ids, newline layouts, positions.
    """

    reads_questions = True

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.model.model.vision_tower

    @property
    def text_model(self) -> Any:
        """The stack of decoder layers."""
        return self.model.model.language_model

    @property
    def vision(self) -> Tower:
        """The vision tower, and what decides which cues it can give."""
        return Tower(self.tower)

    def refuse_videos(self) -> None:
        """Raise an ``InputError`` if the family reads images only."""
        if "video" not in self.visual_inputs:
            raise InputError(f"{self.model_class} reads images, not videos")

    def splice(
        self,
        inputs: Mapping[str, Any],
        clips: Sequence[Clip],
        reduced: Sequence[ReducedTokens],
        *,
        positions: str = "contiguous",
    ) -> Spliced:
        """Embed the prompts with the reduced clips in the place of their placeholders."""
        parts = tuple(self.part(clip, left) for clip, left in zip(clips, reduced))
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
        """Return a context in which the model reads the short prompt, for extra state."""
        return nullcontext()

    @contextmanager
    def reduced_calls(self, reduction: Reduction, positions: str, inside: Inside) -> Iterator[None]:
        """Let ``generate`` and calls of the model run reduced while the context lasts."""
        with wrapped_calls(self, reduction, positions, inside):
            yield

    def prompt_scores(
        self,
        clip: Clip,
        reduced: ReducedTokens,
        prompts: Sequence[Tensor],
        *,
        inside: Inside = None,
        continuations: Continuations | None = None,
    ) -> PromptScores:
        """Return next-token scores of several prompts about one clip.

        Prompts share one forward pass over the clip, unless stages inside the LLM run: then each is
        read whole, as the question may decide what is dropped.
        """
        part = self.part(clip, reduced)
        continuations = continuations or [()] * len(prompts)
        if inside is None and self.default_positions == "contiguous":
            token_id = self.token_ids[clip.layout.kind]
            return shared_prompt_scores(self.model, part, prompts, token_id, continuations)
        return self._prompt_scores_whole(part, prompts, inside, continuations)

    @torch.no_grad()
    def _prompt_scores_whole(
        self,
        part: VisualPart,
        prompts: Sequence[Tensor],
        inside: Inside,
        continuations: Continuations,
    ) -> PromptScores:
        of_long = []
        for prompt, texts in zip(prompts, continuations, strict=True):
            long = [text for text in texts if len(text) > 1]
            read = [self._read_whole(part, [prompt], inside, text) for text in long]
            of_long.append([log_likelihood(r[0][0], text) for r, text in zip(read, long)])
        logits, hidden = (each[:, -1] for each in self._read_whole(part, prompts, inside))
        scores = map(likelihoods, logits, continuations, of_long)
        return PromptScores(logits, hidden, tuple(scores))

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


def times_of(
    frame_times: Sequence[Tensor] | None, video: int, n_videos: int, device: torch.device
) -> Float[Tensor, "frames"] | None:
    """Return the frame times of one video in seconds, if given.

    Raises
    ------
    InputError
        If they are not given for each of its videos.
    """
    if frame_times is None:
        return None
    if len(frame_times) != n_videos:
        raise InputError(f"frame_times are of {len(frame_times)} videos, the call has {n_videos}")
    return frame_times[video].to(device)
