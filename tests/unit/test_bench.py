"""The logic of ``tokenred bench``: rounds, spreads, verdicts and FLOPs, on made-up times."""

import json
from dataclasses import asdict

import pytest
import torch

from tokenred.accounting import FORMULAS, SHAPES
from tokenred.cli import main
from tokenred.errors import BudgetError, CapabilityError, ConfigError
from tokenred.evaluation.bench import peak_memory as memory
from tokenred.evaluation.bench.environment import Noise, describe_environment, fixed_matmul
from tokenred.evaluation.bench.measure import Spread, candidates, costs, judge, measure
from tokenred.evaluation.bench.peak_memory import peak_memory
from tokenred.models.timing import Stopwatch, TimedAnswer
from tokenred.types import Realised, StageReport

SHAPE = SHAPES["qwen2-7b"]
CPU = torch.device("cpu")


def answer(ttft_ms=100.0, n_tokens=392, layer_tokens=(), **changes):
    stage = StageReport("pool", "pool", n_tokens, 1.0)
    facts = {
        "decode_ms": 30.0,
        "new_tokens": 4,
        "prompt_tokens": n_tokens + 4,
        "encoder_ms": 40.0,
        "reducer_ms": 2.0,
        "stage_ms": {"pool": 1.0},
        "realised": (Realised(n_tokens, 392, (n_tokens,), 1.0, (stage,), 1),),
        "layer_tokens": layer_tokens,
    }
    return TimedAnswer(ttft_ms, **{**facts, **changes})


class Asked:
    """Stands for the model: notes who asked, and answers as it is told."""

    def __init__(self, times=(), faults=()):
        self.times, self.faults, self.log = dict(times), dict(faults), []

    def __call__(self, pipeline):
        name = "unattached" if pipeline is None else pipeline.config.name
        self.log.append(name)
        fault = self.faults.get((name, self.log.count(name)))
        if fault is not None:
            raise fault
        return answer(self.times.get(name, float(len(self.log))))


def rounds(asked, names=("aot-paper", "fastv"), repeats=2, warmup=1, **options):
    options.setdefault("matmul_ms", lambda: 1.0)
    return measure(asked, candidates(names), repeats=repeats, warmup=warmup, **options)


def test_a_spread_holds_quartiles_and_ends():
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 1.0, 2.0, 4.0, 5.0)
    assert Spread.of([2.0]) == Spread(*[2.0] * 5)


def test_the_model_alone_and_vanilla_are_always_measured():
    assert [each.label for each in candidates([])] == ["unattached", "vanilla"]
    found = candidates(["fastv", "vanilla", "fastv"])
    assert [each.label for each in found] == ["unattached", "vanilla", "fastv"]
    assert found[0].pipeline is None


def test_budgets_are_for_pipelines_that_have_one():
    found = candidates(["random", "fastv"], [0.25, 0.1])
    assert [(each.label, each.retention) for each in found[2:]] == [
        ("random 25 %", 0.25),
        ("random 10 %", 0.1),
        ("fastv", None),
    ]
    assert found[2].pipeline.config.budget.retention_ratio == 0.25


def test_overrides_spare_vanilla():
    _, vanilla, changed = candidates(["random"], None, {"budget.retention_ratio": 0.5})
    assert vanilla.pipeline.config.budget.retention_ratio == 1
    assert changed.pipeline.config.budget.retention_ratio == 0.5


def test_two_files_of_one_name_are_told_apart(tmp_path):
    paths = [tmp_path / folder / "mine.yaml" for folder in "ab"]
    for path, seed in zip(paths, (1, 2)):
        path.parent.mkdir()
        path.write_text(f"extends: random\nset: {{seed: {seed}}}\n")
    labels = [each.label for each in candidates(list(map(str, paths)))]
    assert len(set(labels)) == len(labels) == 4


@pytest.mark.parametrize(
    ("source", "overrides"), [("aot-papre", {}), ("random", {"stages.nowhere.strength": 1})]
)
def test_a_faulty_pipeline_is_named(source, overrides):
    with pytest.raises(ConfigError, match=f"pipeline '{source}'"):
        candidates([source], None, overrides)


def test_rounds_interleave_and_turn_round():
    asked = Asked()
    found = rounds(asked, repeats=2, warmup=1)
    names = ["unattached", "vanilla", "aot-paper", "fastv"]
    assert asked.log == [*names, *names[::-1], *names]
    assert found.n_rounds == 2


def test_warm_up_is_dropped():
    asked = Asked()  # the n-th question takes n milliseconds
    found = rounds(asked, repeats=2, warmup=1)
    assert [each.ttft_ms for each in found.answers["unattached"]] == [8, 9]
    assert [each.ttft_ms for each in found.answers["fastv"]] == [5, 12]
    assert len(found.matmul_ms) == 8


def test_the_matmul_is_timed_before_every_answer():
    asked = Asked()
    seen = []
    rounds(asked, repeats=1, warmup=0, matmul_ms=lambda: seen.append(len(asked.log)) or 1.0)
    assert seen == [0, 1, 2, 3]


def test_what_fails_is_left_out_and_the_others_go_on():
    faults = {
        ("fastv", 1): CapabilityError("no such layer"),
        ("aot-paper", 2): torch.OutOfMemoryError(),
    }
    asked = Asked(faults=faults)
    found = rounds(asked, repeats=3, warmup=0)
    assert set(found.answers) == {"unattached", "vanilla"}
    assert {label: str(error) for label, error in found.failures.items()} == {
        "fastv": "no such layer",
        "aot-paper": "out of memory; try fewer --frames",
    }
    assert asked.log.count("fastv") == 1
    assert len(found.answers["vanilla"]) == 3


def test_without_vanilla_there_is_nothing_to_compare():
    with pytest.raises(BudgetError):
        rounds(Asked(faults={("vanilla", 1): BudgetError("no")}))


def test_a_stop_leaves_whole_rounds():
    found = rounds(Asked(faults={("vanilla", 3): KeyboardInterrupt()}), repeats=9, warmup=1)
    assert found.stopped
    assert found.n_rounds == 1
    assert {len(each) for each in found.answers.values()} == {1}
    with pytest.raises(KeyboardInterrupt):
        rounds(Asked(faults={("vanilla", 1): KeyboardInterrupt()}))


@pytest.mark.parametrize(
    ("shares", "speed"),
    [
        ([0.9, 0.8, 0.95, 0.9], "faster"),
        ([0.9, 0.8, 1.05, 1.2], "not told apart"),
        ([0.5, 0.5, 1.1, 1.1], "not told apart"),
        ([1.0, 1.0, 1.0, 1.0], "not told apart"),
        ([1.2, 1.1, 1.3, 0.9], "slower"),
    ],
)
def test_faster_means_three_rounds_of_four(shares, speed):
    assert judge(Spread.of(shares)) == speed


def cost_of(pipeline_answers, vanilla_ms=(100.0, 100.0), name="fastv", **options):
    found = candidates([name])
    asked = measure(Asked(), found, repeats=2, warmup=0, matmul_ms=lambda: 1.0)
    asked.answers["vanilla"] = [answer(ms) for ms in vanilla_ms]
    asked.answers[name] = list(pipeline_answers)
    by_label = {each.label: each for each in costs(found, asked, {}, SHAPE, **options)}
    return by_label[name]


@pytest.mark.parametrize(
    ("n_tokens", "ms", "flagged"),
    [
        (40, (50.0, 60.0), False),  # fewer, and faster
        (40, (100.0, 100.0), True),  # fewer, and as fast
        (40, (90.0, 130.0), True),  # fewer, and not told apart
        (40, (150.0, 160.0), True),  # fewer, and slower
        (392, (150.0, 160.0), False),  # as many, and slower
    ],
)
def test_fewer_flops_are_flagged_where_they_were_not_faster(n_tokens, ms, flagged):
    cost = cost_of([answer(each, n_tokens) for each in ms])
    assert cost.fewer_flops_not_faster is flagged


def test_times_are_compared_within_their_rounds():
    """A machine that gets slower for both does not hide that one is faster."""
    cost = cost_of([answer(80.0, 40), answer(400.0, 40)], vanilla_ms=(100.0, 500.0))
    assert cost.ttft_share.max == pytest.approx(0.8)
    assert cost.speed == "faster"


def test_a_cost_sums_up_what_was_answered():
    cost = cost_of([answer(100.0, 40), answer(120.0, 40)])
    assert cost.ttft_ms == Spread(110.0, 100.0, 105.0, 115.0, 120.0)
    assert cost.encoder_ms.median + cost.reducer_ms.median + cost.prefill_ms.median == 110
    assert cost.decode_tokens_per_s.median == pytest.approx(100)
    assert (cost.n_tokens, cost.vanilla_tokens, cost.newline_tokens) == (40, 392, 1)
    assert [(stage.name, stage.n_tokens) for stage in cost.stages] == [("pool", 40)]
    assert cost.memory is None
    assert json.loads(json.dumps(asdict(cost)))["schedule"] == "28x40"


def test_one_new_token_has_no_speed():
    cost = cost_of([answer(new_tokens=1, decode_ms=0.0)] * 2)
    assert cost.decode_tokens_per_s is None


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("layers", [(), (392,) * 2 + (196,) * 26], ids=["before", "inside"])
def test_flops_are_those_of_the_verb_flops(capsys, formula, layers):
    cost = cost_of(
        [answer(n_tokens=392 if layers else 40, layer_tokens=layers)] * 2, formula=formula
    )
    words = ["flops", "qwen2-7b", "--frames", "8", "--tokens-per-frame", "49", "--json"]
    with pytest.raises(SystemExit):
        main([*words, "--schedule", cost.schedule, "--formula", formula])
    prefill = json.loads(capsys.readouterr().out)["prefill"]
    assert cost.prefill_flops == prefill["flops"]
    assert cost.flops_share == prefill["share"]
    assert cost.prefill_flops < prefill["vanilla_flops"]


def test_an_llm_that_no_formula_fits_has_no_flops_and_no_flag():
    found = candidates(["fastv"])
    asked = measure(Asked(), found, repeats=1, warmup=0, matmul_ms=lambda: 1.0)
    for cost in costs(found, asked, {}, None):
        assert cost.prefill_flops is None
        assert not cost.fewer_flops_not_faster


def test_the_clock_is_read_when_the_device_is_done(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
    watch = Stopwatch.of(torch.device("cuda:1"), lambda: events.append("clock") or 2.0)
    assert watch.ms() == 2000
    assert events == ["cuda:1", "clock"]
    events.clear()
    watch.time_ms(lambda: events.append("work"))
    assert events == ["cuda:1", "clock", "work", "cuda:1", "clock"]


def test_a_cpu_is_never_behind(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("no GPU here"))
    assert Stopwatch.of(CPU, lambda: 1.0).ms() == 1000


@pytest.mark.parametrize(
    ("times", "noisy"),
    [
        ([10.0, 10.1, 9.9, 10.0, 10.0], False),
        ([10.0, 14.0, 8.0, 12.0, 9.0], True),
        ([10.0, 10.0, 10.0, 13.0, 13.0, 13.0], True),  # drifts
        ([10.0], False),
    ],
)
def test_a_noisy_machine_is_told_by_the_matmul(times, noisy):
    found = Noise.of(times)
    assert found.noisy is noisy
    assert ("noisy" in str(found)) is noisy


def test_the_environment_says_what_times_depend_on():
    found = asdict(describe_environment(CPU, torch.bfloat16, "sdpa"))
    assert found["torch"] == torch.__version__
    assert found["dtype"] == "bfloat16"
    assert found["threads"] == torch.get_num_threads()
    assert all(value not in ("", 0) for value in found.values())
    fixed_matmul(CPU)()


def test_peak_memory_of_a_cpu_sees_what_a_call_needs():
    def call(megabytes):
        torch.ones(megabytes * 250_000)  # four bytes each

    def peak(megabytes):
        return peak_memory(lambda: call(megabytes), CPU)

    if peak(1) is None:
        pytest.skip("this system says nothing about peaks")
    assert 55e6 < peak(64).extra_bytes < 75e6
    assert peak(1).extra_bytes < 10e6
    assert peak(1).peak_bytes > 50e6  # the process itself


def test_peak_memory_of_a_gpu_is_what_torch_says(monkeypatch):
    log = []
    fakes = {
        "synchronize": lambda device: log.append("wait"),
        "reset_peak_memory_stats": lambda device: log.append("reset"),
        "memory_allocated": lambda device: 100,
        "max_memory_allocated": lambda device: 130,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    found = peak_memory(lambda: log.append("call"), torch.device("cuda"))
    assert (found.peak_bytes, found.extra_bytes) == (130, 30)
    assert log == ["wait", "reset", "call", "wait"] * memory.CALLS


def test_where_nobody_says_memory_is_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROC", tmp_path / "no")
    assert peak_memory(lambda: None, CPU) is None
    assert peak_memory(lambda: None, torch.device("meta")) is None
