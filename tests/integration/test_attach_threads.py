"""Several threads, copies and wrappers of an attached model: right, or refused by a sentence."""

import copy
import io
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from tests.attach_cases import QUARTER, greedy, logits_of, make_inputs
from tokenred import attach, load_pipeline
from tokenred.errors import CapabilityError, InputError, TokenredError
from tokenred.models.adapter import adapter_for
from tokenred.plugins import registry
from tokenred.testing.models import tiny_llava_onevision

N_THREADS = 4


@pytest.fixture(scope="module")
def loaded():
    return tiny_llava_onevision()


@pytest.fixture
def model(loaded):
    return loaded[0]


def prompts(loaded):
    """Inputs of different length and content, one a thread."""
    texts = ("<video> what?", "Watch: <video> and then?", "a <video>", "<video> how many?")
    return [make_inputs(loaded, text, size=24, n_frames=4) for text in texts]


def at_once(function, arguments):
    """Call a function on each argument, all threads starting together."""
    start = threading.Barrier(len(arguments))

    def run(argument):
        start.wait()
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


@pytest.mark.parametrize("name", sorted(registry().presets()))
def test_threads_get_what_each_would_get_alone(loaded, model, name):
    asked = prompts(loaded)
    try:
        adapter_for(model).check(load_pipeline(name).needs)
    except TokenredError as error:
        pytest.skip(f"not for this model: {error}")
    with attach(model, name):
        try:
            alone = [greedy(model, inputs) for inputs in asked]
            whole = [logits_of(model, inputs) for inputs in asked]
        except TokenredError as error:
            pytest.skip(f"not for this video: {error}")
        for _ in range(2):
            for found, wanted in zip(at_once(lambda i: greedy(model, i), asked), alone):
                assert torch.equal(found, wanted)
        for found, wanted in zip(at_once(lambda i: logits_of(model, i), asked), whole):
            assert torch.equal(found, wanted)


def test_a_loop_by_hand_goes_on_with_its_own_prompt(loaded, model):
    """Two conversations take turns, with positions that the model would not count itself."""
    first, second, *_ = prompts(loaded)

    def begun(inputs):
        with torch.no_grad():
            return model(**inputs, use_cache=True)

    def continued(output):
        with torch.no_grad():
            token = torch.full((1, 1), 5)
            return model(input_ids=token, past_key_values=output.past_key_values).logits

    with attach(model, "top-attention", positions="original"):
        alone = [continued(begun(inputs)) for inputs in (first, second)]
        both = [begun(inputs) for inputs in (first, second)]
        for output, wanted in zip(both, alone):
            torch.testing.assert_close(continued(output), wanted)


def test_one_of_two_threads_attaches(loaded, model):
    before = {**vars(model)}
    inputs = prompts(loaded)[0]
    plain = greedy(model, inputs)
    hold = threading.Event()

    def enter(_):
        try:
            with attach(model, "random"):
                hold.wait(30)
            return "attached"
        except CapabilityError as error:
            hold.set()
            return str(error)

    for _ in range(5):
        hold.clear()
        found = at_once(enter, [0, 1])
        assert found.count("attached") == 1
        assert any("is attached already" in each for each in found)
        assert vars(model).keys() == before.keys()
    assert torch.equal(greedy(model, inputs), plain)


def test_leaving_waits_for_a_call_that_is_under_way(loaded, model):
    inputs = prompts(loaded)[1]
    begun, answers = threading.Event(), []

    class Began:
        def put(self, _):
            begun.set()

        def end(self):
            pass

    with attach(model, "aot-paper", positions="original"):
        alone = greedy(model, inputs, max_new_tokens=20)
        thread = threading.Thread(
            target=lambda: answers.append(
                greedy(model, inputs, max_new_tokens=20, streamer=Began())
            )
        )
        thread.start()
        assert begun.wait(60)
    thread.join(60)
    assert torch.equal(answers[0], alone)


def test_a_copy_would_stay_reduced(model):
    with attach(model, "fastv"):
        for take in (
            copy.copy,
            copy.deepcopy,
            pickle.dumps,
            lambda each: torch.save(each, io.BytesIO()),
        ):
            with pytest.raises(CapabilityError, match="cannot be copied or saved"):
                take(model)
        for part in (model.model, model.model.language_model):
            with pytest.raises(CapabilityError, match="cannot be copied or saved"):
                copy.deepcopy(part)
    assert "__getstate__" not in vars(model)
    copy.deepcopy(model)


def test_wrappers_are_opened_or_refused(loaded, model):
    peft = SimpleNamespace(get_base_model=lambda: model)
    inputs = prompts(loaded)[0]
    with attach(peft, "top-attention", positions="original"):
        reduced = greedy(model, inputs)
    with attach(model, "top-attention", positions="original"):
        assert torch.equal(greedy(model, inputs), reduced)
    assert adapter_for(torch.nn.DataParallel(model)).model is model
    with pytest.raises(CapabilityError, match="a compiled model runs what was compiled"):
        adapter_for(SimpleNamespace(_orig_mod=model))
    many = torch.nn.DataParallel(model)
    many.device_ids = [0, 1]
    with pytest.raises(CapabilityError, match="attach one model a process"):
        adapter_for(many)


def test_prompts_padded_on_the_right_are_not_continued(loaded, model):
    inputs = make_inputs(loaded, "<video> what?", "<video> and what happens then?", padding="right")
    with attach(model, "random", positions="original"):
        with pytest.raises(InputError, match="padded on the right"):
            greedy(model, inputs)
        logits_of(model, inputs)  # nothing is continued here


def test_padding_is_found_without_a_mask_as_generate_finds_it(loaded, model):
    inputs = make_inputs(loaded, "<video> what?", "<video> and what happens then?")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    pad = int(ids[mask == 0][0])
    assert not bool((ids[mask == 1] == pad).any())
    bare = {name: value for name, value in inputs.items() if name != "attention_mask"}
    with attach(model, "random", positions="original"):
        wanted = greedy(model, inputs, pad_token_id=pad)
        assert torch.equal(greedy(model, bare, pad_token_id=pad), wanted)
        right = make_inputs(
            loaded, "<video> what?", "<video> and what happens then?", padding="right"
        )
        del right["attention_mask"]
        with pytest.raises(InputError, match="padded on the right"):
            greedy(model, right, pad_token_id=pad)


def test_guidance_is_refused_inside_the_llm(loaded, model):
    inputs = prompts(loaded)[0]
    with attach(model, "fastv"), pytest.raises(CapabilityError, match="guidance_scale reads"):
        greedy(model, inputs, guidance_scale=2.0)


def test_an_interrupted_call_leaves_no_trace(loaded, model, monkeypatch):
    inputs = prompts(loaded)[0]
    plain = greedy(model, inputs)

    class Stop:
        def put(self, _):
            raise KeyboardInterrupt

        def end(self):
            pass

    with pytest.raises(KeyboardInterrupt), attach(model, "fastv"):
        greedy(model, inputs, streamer=Stop())
    assert torch.equal(greedy(model, inputs), plain)


def test_a_quarter_is_kept_in_every_thread(loaded, model):
    with attach(model, load_pipeline("random", QUARTER)) as session:
        at_once(lambda inputs: greedy(model, inputs), prompts(loaded))
        (realised,) = session.realised
        assert realised.retention_ratio == pytest.approx(1 / 3, abs=0.1)
