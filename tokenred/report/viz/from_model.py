"""Views of what pipelines do to the picture in one call of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from tokenred.models import adapter_for, attach, reduce_clip
from tokenred.models.splice import Clip
from tokenred.pipeline import Pipeline
from tokenred.report.viz.view import View
from tokenred.types import ReducedTokens, VisualTokens

PARTS = ("overview", "details")
"""What the two clips are called of which some models make an image."""


@torch.no_grad()
def views_of(
    model: Any,
    inputs: Mapping[str, Any],
    pipelines: Sequence[Pipeline],
    pictures: UInt8[Tensor, "frames height width 3"],
    *,
    adapter: Any = None,
    labels: Sequence[str] | None = None,
) -> list[View]:
    """Reduce one video or image by every pipeline.

    The vision tower runs once for all pipelines that stand before the LLM. One that works inside it
    reads the whole prompt, once.

    Parameters
    ----------
    inputs : of one call with one video or image, as ``LoadedModel.inputs`` gives them
    pictures : the frames that the model sees
    adapter : of the model; found by default
    labels : what each of ``pictures`` is called

    Returns
    -------
    list of View
        One a pipeline; two where the model sees an image as overview and details.
    """
    adapter = adapter_for(model) if adapter is None else adapter
    outside = [each for each in pipelines if not each.inside_llm]
    needs = frozenset().union(*(each.needs for each in outside))
    adapter.check(needs)
    clips = adapter.encode(inputs, needs) if outside else []
    views = []
    for pipeline in pipelines:
        if pipeline.inside_llm:
            found = _read_through(model, inputs, pipeline, adapter)
        else:
            found = [
                (clip, reduce_clip(adapter, clip, pipeline, trace=True), None) for clip in clips
            ]
        for part, (clip, reduced, entered) in enumerate(found):
            name = pipeline.config.name
            views.append(
                View.of(
                    name if len(found) == 1 else f"{name}, {PARTS[part > 0]}",
                    pictures,
                    clip.tokens,
                    reduced,
                    labels=labels,
                    entered=entered,
                    n_layers=0 if entered is None else len(adapter.text_model.layers),
                )
            )
    return views


class _Traced:
    """A pipeline that always gives its trace."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.needs, self.inside_llm = pipeline, pipeline.needs, pipeline.inside_llm

    def run(
        self,
        tokens: VisualTokens,
        *,
        generator: torch.Generator | None = None,
        trace: bool = True,
    ) -> ReducedTokens:
        """Reduce one clip."""
        return self.pipeline.run(tokens, generator=generator, trace=True)


def _read_through(
    model: Any, inputs: Mapping[str, Any], pipeline: Pipeline, adapter: Any
) -> list[tuple[Clip, ReducedTokens, Tensor | None]]:
    """Let the model read a prompt, and see how far into the LLM every token comes."""
    with attach(model, _Traced(pipeline), adapter=adapter) as session:
        model(**inputs, use_cache=False)
        return [
            (clip, reduced, session.layers_entered(number))
            for number, (clip, reduced) in enumerate(zip(session.clips, session.reduced))
        ]
