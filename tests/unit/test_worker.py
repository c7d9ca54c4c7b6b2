"""What an answer is, how far it is from the unreduced model's, and what travels to a worker."""

import pickle

import pytest
import torch

from tests.evaluation_toys import ToyModel, ToyTask, toy_ablation
from tokenred.errors import ConfigError, InputError
from tokenred.evaluation.model import Answer
from tokenred.evaluation.runner import plan
from tokenred.evaluation.store import Store
from tokenred.evaluation.task import Question
from tokenred.evaluation.worker import (
    Job,
    Worker,
    chosen,
    hidden_distance,
    kl_nats,
    sample_generator,
)


def written(text: str, *options: str) -> str:
    return chosen(Question("kind", "which ?", options), Answer({}, text))


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("B", ("A", "B", "C"), "B"),
        ("b.", ("A", "B", "C"), "B"),
        ("(B) the red one", ("A", "B", "C"), "B"),
        ("The answer is B.", ("A", "B", "C"), "B"),
        ("Between A and B: B", ("A", "B", "C"), "Between A and B: B"),  # it holds two
        ("Red car", ("red", "red car"), "red car"),
        ("red car, I think", ("red", "red car"), "red car"),  # the longest that it starts with
        ("red and green", ("red", "green"), "red"),
        ("it is green", ("red", "green"), "green"),
        ("it is greenish", ("red", "green"), "it is greenish"),
        ("", ("red", "green"), ""),
        ("yes", ("...", "yes"), "yes"),
        ("no idea", ("...", "yes"), "no idea"),  # an option without words is in no answer
    ],
)
def test_what_was_written_is_an_option_if_one_alone_fits(
    text: str, options: tuple[str, ...], found: str
) -> None:
    assert written(text, *options) == found


def test_free_text_stays_as_it_is() -> None:
    assert chosen(Question("kind", "what ?"), Answer({}, "A man runs.")) == "A man runs."


def test_the_likeliest_option_is_chosen_and_the_first_of_equals() -> None:
    question = Question("kind", "which ?", ("a", "b", "c"))
    assert chosen(question, Answer({"a": -3.0, "b": -0.1, "c": -2.0})) == "b"
    assert chosen(question, Answer({"c": -1.0, "b": -1.0, "a": -2.0})) == "b"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 0.5])
def test_a_log_likelihood_is_a_number_up_to_zero(score: float) -> None:
    with pytest.raises(InputError, match=r"scores are not finite for 'which \?'"):
        chosen(Question("kind", "which ?", ("a", "b")), Answer({"a": -1.0, "b": score}))


def answer(probabilities: list[float] | None, state: list[float] | None = None) -> Answer:
    return Answer(
        {},
        log_probs=None if probabilities is None else torch.tensor(probabilities).log(),
        state=None if state is None else torch.tensor(state),
    )


def test_kl_by_hand() -> None:
    whole, half = answer([0.5, 0.25, 0.25]), answer([0.25, 0.25, 0.5])
    expected = 0.5 * torch.log(torch.tensor(2.0)) - 0.25 * torch.log(torch.tensor(2.0))
    assert kl_nats(whole, half) == pytest.approx(float(expected))
    assert kl_nats(whole, whole) == 0
    sure = answer([1.0, 0.0, 0.0])
    assert kl_nats(sure, whole) == pytest.approx(float(torch.log(torch.tensor(2.0))))
    assert kl_nats(sure, sure) == 0
    assert kl_nats(answer(None), whole) is None


def test_the_distance_of_states_is_an_angle() -> None:
    one = answer(None, [1.0, 0.0])
    assert hidden_distance(one, answer(None, [3.0, 0.0])) == 0
    assert hidden_distance(one, answer(None, [0.0, 2.0])) == pytest.approx(1)
    assert hidden_distance(one, answer(None, [-1.0, 0.0])) == pytest.approx(2)
    assert hidden_distance(one, answer(None)) is None


def test_generators_differ_by_sample_and_seed_only() -> None:
    draws = {
        key: torch.rand(4, generator=sample_generator(*key)).tolist()
        for key in [(0, "a"), (0, "b"), (1, "a")]
    }
    assert draws[0, "a"] == torch.rand(4, generator=sample_generator(0, "a")).tolist()
    assert len({tuple(draw) for draw in draws.values()}) == 3


def test_a_job_travels_and_gives_the_same_results_elsewhere() -> None:
    with Store(":memory:") as store:
        planned = plan(toy_ablation().expand([1 / 3]), ToyTask(), ToyModel(), store)
    planned = [cell for cell in planned if cell.row.label in ("vanilla", "random", "two frames")]
    assert planned[0].pipeline is planned[0].pipeline
    here = Job(3, "toy/003", tuple(planned))
    there = pickle.loads(pickle.dumps(here))
    found = [
        {
            cell.origin: (cell.sample_id, cell.answers, cell.cost.frame_indices)
            for cell in Worker(ToyTask(), ToyModel()).results(job)
        }
        for job in (here, there)
    ]
    assert found[0] == found[1]
    assert set(found[0]) == {cell.origin for cell in planned}


def test_a_sample_that_cannot_be_had_fails_under_every_row_once() -> None:
    class Broken(ToyTask):
        def sample(self, index):
            raise ConfigError("no such file", ["video"])

    with Store(":memory:") as store:
        planned = plan(toy_ablation().expand([1 / 3]), ToyTask(), ToyModel(), store)
    job = Job(0, "toy/000", tuple(planned))
    failures = list(Worker(Broken(), ToyModel(), keep_going=True).results(job))
    assert [failure.origin for failure in failures] == [cell.origin for cell in planned]
    assert {failure.message for failure in failures} == {"sample 'toy/000'.video: no such file"}
    with pytest.raises(ConfigError, match=r"sample 'toy/000'\.video: no such file"):
        list(Worker(Broken(), ToyModel()).results(job))
