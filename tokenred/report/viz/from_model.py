"""Views of the reductions of one model input."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.models import ModelAdapter, ModelSession
from tokenred.models.question import Questions
from tokenred.models.splice import Clip
from tokenred.pipeline import Pipeline
from tokenred.report.viz.view import View
from tokenred.types import ReducedTokens

PARTS = ("overview", "details")
"""What the two clips are called of which some models make an image."""


@torch.no_grad()
def views_of(
    model: Any,
    inputs: Mapping[str, Any],
    pipelines: Sequence[Pipeline],
    pixels: UInt8[Tensor, "frames height width 3"],
    *,
    adapter: ModelAdapter | None = None,
    frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    questions: Questions | None = None,
    labels: Sequence[str] | None = None,
) -> list[View]:
    """Reduce one video or image by every pipeline.

    The vision tower runs once for all pipelines that stand before the LLM. One that works inside it
    reads the whole prompt, once.

    Parameters
    ----------
    inputs : of one call with one video or image, as ``LoadedModel.inputs`` gives them
    pixels : the frames that the model sees
    adapter : of the model; found by default
    frame_times : seconds of the frames, one tensor a video
    questions : see ``attach``
    labels : what each of ``pixels`` is called

    Returns
    -------
    list of View
        One a pipeline; two where the model sees an image as overview and details.
    """
    session = ModelSession(model, adapter)
    outside = [each for each in pipelines if not each.inside_llm]
    needs = frozenset().union(*(each.needs for each in outside))
    session.check(needs, question=True)
    clips = session.encode(inputs, needs, frame_times, questions) if outside else []
    views = []
    for pipeline in pipelines:
        if pipeline.inside_llm:
            found = _read_through(session, inputs, pipeline, frame_times, questions)
        else:
            found = [(clip, session.reduce(clip, pipeline, trace=True), None) for clip in clips]
        for part, (clip, reduced, entered) in enumerate(found):
            name = pipeline.config.name
            views.append(
                View.of(
                    name if len(found) == 1 else f"{name}, {PARTS[part > 0]}",
                    pixels,
                    clip.tokens,
                    reduced,
                    labels=labels,
                    entered=entered,
                    n_layers=0 if entered is None else len(session.adapter.text_model.layers),
                )
            )
    return views


def _read_through(
    session: ModelSession,
    inputs: Mapping[str, Any],
    pipeline: Pipeline,
    frame_times: Sequence[Tensor] | None,
    questions: Questions | None,
) -> list[tuple[Clip, ReducedTokens, Tensor | None]]:
    """Run the model on a prompt, and record how many layers every token enters."""
    how: Any = {"frame_times": frame_times, "questions": questions, "trace": True}
    with session.attached(pipeline, **how) as attachment:
        session.model(**inputs, use_cache=False)
        return [
            (clip, reduced, attachment.layers_entered(number))
            for number, (clip, reduced) in enumerate(zip(attachment.clips, attachment.reduced))
        ]
