"""Find the layer before which the visual tokens can leave, by what their loss does to answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenred.errors import ConfigError

if TYPE_CHECKING:  # the hooks of this plugin are called long before torch is needed
    from torch import Tensor

    from tokenred.pipeline import Pipeline

SCHEDULE = "stages.withdraw.reducer.schedule"
"""The setting that the search finds."""


@dataclass(frozen=True)
class Withdrawal:
    """The layer that was found, and what the candidates did.

    Attributes
    ----------
    layer : the first candidate whose mean divergence is small enough
    layers : all candidates
    divergence : (prompts, candidates) nats
    """

    layer: int
    layers: tuple[int, ...]
    divergence: "Tensor"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the preset ``vtw`` that withdraw before this layer."""
        return {SCHEDULE: {self.layer: 0}}


def withdrawal_layer(
    next_token: "Callable[[Pipeline], Tensor]", layers: Sequence[int], threshold: float = 0.003
) -> Withdrawal:
    """Return the first of ``layers`` before which withdrawal hardly changes the next token.

    The measure is the divergence of the distribution with withdrawal from that of the whole model,
    in nats, averaged over the prompts.

    Parameters
    ----------
    next_token : gives, for a pipeline, the logits of the token behind each prompt, (prompts,
        vocabulary)
    layers : candidates, indices of decoder layers
    threshold : the largest mean divergence that is small enough; the release has 0.003 for
        LLaVA-1.5-7B, 0.0005 for 13B and 0.0001 for LLaVA-1.6-Vicuna-7B

    Raises
    ------
    ConfigError
        If there is no candidate, or none is small enough.
    """
    import torch

    from tokenred.pipeline import load_pipeline

    if not layers:
        raise ConfigError("there is no layer to try: the LLM is shallower than the first of them")
    whole = _log_distribution(next_token(load_pipeline("vanilla")))
    found = []
    for layer in layers:
        without = _log_distribution(next_token(load_pipeline("vtw", {SCHEDULE: {layer: 0}})))
        found.append((without.exp() * (without - whole)).sum(-1))
    divergence = torch.stack(found, 1)
    means = divergence.mean(0)
    small = (means <= threshold).nonzero()[:, 0].tolist()
    if not small:
        best = int(means.argmin())
        raise ConfigError(
            f"no layer has a mean divergence of at most {threshold:g}; nearest is layer "
            f"{layers[best]} with {float(means[best]):.3g}",
            ["threshold"],
        )
    return Withdrawal(layers[small[0]], tuple(layers), divergence)


def find_layer(
    model: Any,
    prompts: Iterable[Mapping[str, Any]],
    *,
    threshold: float = 0.003,
    first_layer: int = 5,
) -> Withdrawal:
    """Search the layer for a model, on a few prompts with images or videos (the paper takes 20).

    The model reads every prompt once for each layer from ``first_layer`` on, and once more whole.

    Parameters
    ----------
    model : a model that ``tokenred.attach`` knows
    prompts : inputs of the model as its processor gives them, one prompt or several each, padded on
        the left
    """
    import torch

    from tokenred import attach
    from tokenred.models.adapter import adapter_for

    calls = [dict(each) for each in prompts]
    if not calls:
        raise ConfigError("the search needs at least one prompt", ["prompts"])

    def next_token(pipeline: "Pipeline") -> "Tensor":
        with attach(model, pipeline), torch.no_grad():
            return torch.cat([model(**call).logits[:, -1] for call in calls])

    n_layers = len(adapter_for(model).text_model.layers)
    return withdrawal_layer(next_token, range(first_layer, n_layers), threshold)


def _log_distribution(logits: "Tensor") -> "Tensor":
    return logits.double().log_softmax(-1)
