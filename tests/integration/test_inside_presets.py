"""The presets that work inside the LLM, through ``attach`` and ``generate`` on a tiny model."""

from typing import Any

import pytest
import torch
from attach_cases import CASES, make_inputs

import tokenred
from tokenred.testing import video_tokens
from tokenred.testing.models import tiny_llava_onevision


def refuses_images(pipeline: tokenred.Pipeline) -> bool:
    """Return whether this is released code that fails on films of a few frames, as these are."""
    if pipeline.config.budget.mode != "as-released":
        return False
    image = video_tokens(1, needs=pipeline.needs, native_pool="bilinear")
    try:
        pipeline.run(image)
    except tokenred.InputError:
        return True
    return False


RANKED = "stages.prune.reducer"
SHALLOW: dict[str, dict[str, Any]] = {
    "dart-released": {f"{RANKED}.ranker.too_few": "take", f"{RANKED}.ranker.tokens": 16},
    "pact-released": {f"{RANKED}.keep.schedule": {1: "adaptive"}},
    "v2drop-released": {f"{RANKED}.schedule": {1: 0.5, 2: 0.0}, f"{RANKED}.longer_than": 0},
    "vtw-released": {"stages.withdraw.reducer.schedule": {1: 0}},
}
"""What presets with layers or numbers of a large model need on one of three layers."""
INSIDE = {
    name: pipeline
    for name in tokenred.registry().presets()
    if (pipeline := tokenred.load_pipeline(name)).inside_llm
}
PRESETS = sorted(name for name, pipeline in INSIDE.items() if not refuses_images(pipeline))


def test_only_released_code_refuses_images() -> None:
    assert all(name.endswith("-released") for name in set(INSIDE) - set(PRESETS))
    assert {"dycoke", "fastv", "holitom-inner"} <= set(PRESETS)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return tiny_llava_onevision()


def write(loaded: Any, preset: str, *prompts: str, n_tokens: int = 4) -> torch.Tensor:
    """Return what the model writes after each prompt."""
    model, _ = loaded
    inputs = make_inputs(loaded, *prompts)
    pipeline = tokenred.load_pipeline(preset, SHALLOW.get(preset, {}))
    with tokenred.attach(model, pipeline):
        out = model.generate(**inputs, max_new_tokens=n_tokens, do_sample=False)
    return out[:, -n_tokens:]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_is_written_like_its_rows(preset: str, loaded: Any) -> None:
    together = write(loaded, preset, *CASES["padded"])
    # The second row has another film than it would have alone.
    assert torch.equal(together[:1], write(loaded, preset, CASES["padded"][0]))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_prompt_without_a_film_is_left_alone(preset: str, loaded: Any) -> None:
    text = CASES["mixed"][1]
    assert torch.equal(write(loaded, preset, *CASES["mixed"])[1:2], write(loaded, "vanilla", text))


@pytest.mark.parametrize("preset", PRESETS)
def test_something_is_reduced(preset: str, loaded: Any) -> None:
    # A few tokens can agree by chance.
    reduced, whole = (
        write(loaded, name, *CASES["mixed"], n_tokens=16) for name in (preset, "vanilla")
    )
    assert not torch.equal(reduced, whole)
