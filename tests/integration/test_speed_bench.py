"""The benchmark of speed, on made-up figures and tiny problems."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch

import tokenred
from benchmarks.speed import contenders, data, gates, goals, page, plots, released, solvers, stages
from benchmarks.speed import record as speed_record
from benchmarks.speed.data import Problems
from benchmarks.speed.record import PARTS
from benchmarks.speed.session import QUICK, Session, fresh
from benchmarks.speed.statistics import Rounds, Timing, measure, slope, verdict

EPSILON = 0.1
NOISE = {"noisy": True, "sentence": "Noisy."}


@pytest.fixture(scope="module")
def tokens():
    return data.video("smooth", frames=2, dim=24)


@pytest.fixture(scope="module")
def small():
    cost = torch.rand(2, 20, 6, generator=torch.Generator().manual_seed(0))
    return Problems.of(cost)


# statistics


def test_rounds_turn_round_and_the_first_ones_do_not_count():
    log, now = [], iter(range(100))
    calls = {name: lambda name=name: log.append(name) for name in "ab"}
    found = measure(
        calls, repeats=2, warmup=1, canary=lambda: log.append("-"), clock=lambda: float(next(now))
    )
    assert "".join(log) == "-ab-ba-ab"
    assert found.times_ms == {"a": [1e3, 1e3], "b": [1e3, 1e3]}
    assert len(found.canary_ms) == 2
    assert found.first_ms == {"a": 1e3, "b": 1e3}


def test_slow_ones_are_in_the_first_rounds_only():
    times = {"slow": 2.0, "fast": 1.0}
    now = [0.0]

    def wait(seconds):
        now[0] += seconds

    calls = {name: lambda seconds=seconds: wait(seconds) for name, seconds in times.items()}
    found = measure(calls, warmup=1, slow_s=1.5, canary=lambda: None, clock=lambda: now[0])
    assert {name: found.timing(name).n for name in calls} == {"slow": 5, "fast": 9}
    assert found.ratio("slow", "fast") == 2.0


def test_a_timing_is_median_deviation_and_minimum():
    assert Timing.of([5.0, 1.0, 3.0, 4.0, 100.0]) == Timing(4.0, 1.0, 1.0, 5)


def test_a_ratio_is_taken_inside_each_round():
    rounds = Rounds({"slow": [10.0, 40.0, 90.0], "fast": [1.0, 2.0, 30.0]})
    assert rounds.ratio("slow", "fast") == 10.0
    assert rounds.timing("slow").median_ms / rounds.timing("fast").median_ms == 20.0


def test_the_exponent_of_growth():
    assert slope([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2.0)


def test_a_machine_that_varies_or_drifts_is_noisy():
    assert not verdict([1.0, 1.01, 0.99, 1.0, 1.02, 1.0]).noisy
    assert verdict([1.0, 1.2, 0.8, 1.0, 1.2, 0.8]).noisy
    assert verdict([1.0, 1.01, 0.99, 1.15, 1.16, 1.14]).noisy


# data


def test_videos_have_fixed_seeds_and_repeat_beyond_32_frames():
    one, same = (data.video("smooth", frames=3, dim=8).features for _ in range(2))
    assert torch.equal(one, same)
    long = data.video("contrast", frames=40, grid=(5, 5), dim=4)
    assert long.features.shape == (40, 25, 4)
    assert torch.equal(long.features[32:], long.features[:8])


@pytest.mark.parametrize("regime", data.REGIMES)
def test_couplings_are_those_of_the_frame_stage(regime):
    tokens = data.video(regime, frames=2, grid=(9, 9), dim=16)
    given = data.problems(tokens, 18)
    seen = []
    pipeline = tokenred.load_pipeline(
        "aot-paper", {**stages.FRAME_ONLY, "intra_frame.n_anchors": 18}
    )
    coupler = pipeline.stages["intra_frame"].transport.coupler
    original = coupler.couple
    coupler.couple = lambda cost, *masses: seen.append(cost) or original(cost, *masses)
    pipeline.run(tokens)
    cost = seen[0]
    if cost.shape[1] != given.cost.shape[1]:  # all tokens are sources, anchors without mass
        mask = data.anchor_mask(tokens, 18)
        cost = cost[~mask].view_as(given.cost)
    torch.testing.assert_close(cost, given.cost, rtol=1e-4, atol=1e-5)


# the released formulation


def test_released_formulation_is_the_preset_inside_frames(tokens):
    reduced = stages.frame_pipeline("aot-released", data.ANCHORS).run(tokens)
    given = tokens.features, *(tokens.cues[name] for name in data.CUES)
    merged, mask, n_iter = released.frame_stage(*given, data.ANCHORS)
    assert n_iter == reduced.realised.stages[0].n_iter
    place = mask.nonzero()
    assert torch.equal(reduced.frame_index, place[:, 0])
    assert torch.equal(reduced.token_index, place[:, 1])
    torch.testing.assert_close(reduced.features, merged.flatten(0, 1), rtol=1e-4, atol=1e-5)
    other, same = stages.textbook(*given, data.ANCHORS)
    assert torch.equal(same, mask)
    torch.testing.assert_close(other, merged, rtol=1e-4, atol=1e-5)


def test_released_formulation_is_the_preset_in_time():
    tokens = data.video("smooth", frames=8, dim=24, grid=(10, 10))
    overrides = {
        "stages.pool": None,
        "stages.intra_frame": None,
        "inter_frame.segmenter.n_segments": 2,
    }
    reduced = tokenred.load_pipeline("aot-released", overrides).run(tokens)
    expected = released.segment_stage(list(tokens.features), 4)
    torch.testing.assert_close(reduced.features, expected, rtol=1e-4, atol=1e-5)


# gates


@pytest.mark.parametrize("each", list(contenders.contenders()), ids=lambda each: each.name)
def test_everybody_solves_the_same_problem(each, small):
    runs, absent = contenders.usable([each])
    if not runs:
        assert absent[each.name]
        pytest.skip(absent[each.name])
    plan = each.prepare(small, EPSILON, 100)()
    right = gates.accuracy(plan, gates.reference_plan(small, EPSILON, 100), small)
    assert right.ranked == (not each.stops and not each.exact and not each.other_schedule)
    assert right.column_l1 < 1e-5 or each.other_schedule


@pytest.mark.parametrize("each", list(contenders.accelerated()), ids=lambda each: each.name)
def test_acceleration_finds_the_same_plan_in_fewer_sweeps(each, small):
    runs, absent = contenders.usable([each])
    if not runs:
        pytest.skip(absent[each.name])
    right = gates.accuracy(
        each.prepare(small, EPSILON, 60)(), gates.reference_plan(small, EPSILON, 400), small
    )
    assert right.ranked


def test_a_plan_with_nan_is_off_by_infinity(small):
    plan = gates.reference_plan(small, EPSILON, 2)
    assert not gates.accuracy(plan, gates.reference_plan(small, EPSILON, 400), small).ranked
    plan[0, 0, 0] = torch.nan
    assert gates.accuracy(plan, plan.nan_to_num(), small).plan_l1 == math.inf


def test_fewest_sweeps_finds_each_target_and_says_where_there_is_none():
    asked = []

    def violation(sweeps):
        asked.append(sweeps)
        return 10.0**-sweeps

    assert solvers.fewest(violation, [1e-1, 1e-3, 1e-6, 1e-50], 32) == [1, 3, 6, None]
    assert len(asked) == len(set(asked)) < 12


def test_sweeps_are_counted_for_both_methods_and_the_released_stop():
    session = Session(QUICK)
    given = data.problems(data.video("smooth", frames=1, dim=16), dtype=torch.float64)
    plain, fast, stop = solvers.count_sweeps(session, "smooth", False, given)
    assert (plain["method"], fast["method"], stop["method"]) == (
        "plain",
        "Chebyshev",
        "released stop",
    )
    assert list(plain["sweeps"].values()) == sorted(plain["sweeps"].values())
    assert stop["violation"] > plain["violation_at_100"]


def test_a_call_in_a_fresh_process_sees_its_arguments():
    assert fresh("json:dumps", obj=[1, "a"]) == '[1, "a"]'
    with pytest.raises(RuntimeError, match=r"json:loads .*JSONDecodeError"):
        fresh("json:loads", s="{")


def test_memory_of_every_row_is_measured():
    for name in (stages.RELEASED, stages.TEXTBOOK, stages.PAPER, stages.SAME):
        found = stages.peak(name, "float32", frames=1, dim=16, n_anchors=18, path="torch")
        assert found is None or found >= 0


# goals and page


def run(**changes):
    return {
        "parts": list(PARTS),
        "commit": "abc",
        "trimming_disabled": True,
        "noise": {"noisy": False, "sentence": "Quiet."},
        "load_average": {"start": 0.1, "end": None},
        **changes,
    }


def record(**changes):
    """Return a record in which every goal is just reached."""

    def timed(name, group="peer", **more):
        return {
            "name": name,
            "group": group,
            "median_ms": 10.0,
            "mad_ms": 0.1,
            "min_ms": 9.0,
            "rounds": 9,
            **more,
        }

    def peer(name, torch_x, native_x):
        against = {contenders.OURS_TORCH: torch_x, contenders.OURS_NATIVE: native_x}
        right = {"plan_l1": 1e-7, "row_l1": 1e-7, "column_l1": 1e-7, "first_ms": 20.0}
        return timed(name, **right, ranked=True, remark="", against=against)

    frame = [timed(stages.RELEASED, dtype="float32", against={})]
    for dtype, ratio in (("float32", 85.0), ("bfloat16", 150.0)):
        for label in (stages.PAPER, stages.SAME):
            name = f"{label}, native, {dtype}"
            against = {stages.RELEASED: ratio, stages.GEMMS: 1.15}
            frame.append(timed(name, dtype=dtype, against=against, relative_error=1e-7))
    memory = [
        {"name": stages.RELEASED, "dtype": "float32", "frames": 2, "extra_bytes": 2500},
        {"name": stages.PAPER, "dtype": "float32", "frames": 32, "extra_bytes": 100},
    ]
    segment = [
        timed(
            "tokenred, native, 100 sweeps",
            segments=8,
            segment_frames=4,
            tokens=n,
            speedup=x,
            relative_difference=1e-7,
        )
        for n, x in ((34, 1.8), (126, 1.4))
    ]
    counted = {"0.1": 3, "0.01": 6, "0.001": 12, "0.0001": 15, "1e-06": 24}
    sweeps = [
        {
            "source": source,
            "cost": "cosine",
            "epsilon": 0.1,
            "method": "Chebyshev",
            "sweeps": counted if source != "regions" else {**counted, "1e-06": 99},
            "violation_at_100": 1e-9,
        }
        for source in data.REGIMES
    ]
    sweeps += [
        {
            "source": source,
            "cost": "cosine",
            "epsilon": 0.1,
            "method": "released stop",
            "sweeps_made": 2,
            "violation": 0.2,
        }
        for source in data.REGIMES
    ]
    point = {"median_ms": 10.0, "min_ms": 9.0, "extra_bytes": 1e6, "feature_bytes": 2e6}
    fixed = {"frames": 8, "side": 27, "n_anchors": 126, "dim": 64, "dtype": "float32"}
    curve = {
        "points": [{"at": 8, **point}, {"at": 16, **point, "median_ms": 20.0}],
        "left_out": [{"at": 512, "estimated_bytes": 13e9}],
        "fixed": fixed,
        "exponent": 1.0,
    }
    found = {
        "machine": {
            "system": "Linux",
            "cpu": "a cpu",
            "n_cores": 2,
            "threads": 1,
            "python": "3.11",
        },
        "runs": [run()],
        "native": True,
        "versions": {"torch": "2", "jax": None},
        "sizes": {"repeats": 9},
        "equal_iterations": {
            "rows": [
                peer(contenders.OURS_TORCH, 1.0, 4.0),
                peer(contenders.OURS_NATIVE, 0.25, 1.0),
                *(peer(name, 2.0, 10.0) for name in contenders.POT_LOOPS),
                peer(contenders.POT_BATCH, 4.0, 20.0),
                peer(contenders.POT_BATCH_LOG, 18.0, 85.0),
                peer(contenders.RELEASED, 10.0, 50.0),
                peer(contenders.OTT_KERNEL, 6.0, 30.0),
                peer(contenders.OTT_LSE, 7.0, 35.0),
            ],
            "missing": {contenders.GEOMLOSS: "geomloss is not installed"},
        },
        "time_to_accuracy": {
            "rows": [
                timed(
                    name, target=1e-4, sweeps=12, violation=1e-5, remark="", against_released_stop=x
                )
                for name, x in ((contenders.FAST_NATIVE, 0.3), (contenders.FAST_TORCH, 0.85))
            ],
            "missing": {},
        },
        "limits": {
            "measured": {"gflops": 100.0, "l2_gbs": 90.0, "l3_gbs": 80.0, "dram_gbs": 40.0},
            "sweeps": [
                {
                    "name": contenders.OURS_NATIVE,
                    "sweep_ms": 0.1,
                    "gbs": 67.5,
                    "gflops": 70.0,
                    "share_of_l2": 0.75,
                }
            ],
        },
        "sweeps": sweeps,
        "real": {"rows": [{**sweeps[0], "source": "a clip"}, {**sweeps[-1], "source": "a clip"}]},
        "whole_path": {
            "capture": [
                {"dtype": "float32", "tower_ms": 100.0, "tower_share": {"aot-paper": 0.03}},
            ],
            "runner": {
                "configurations": {
                    "1": {
                        "total_ms": 10.0,
                        "encode_ms": 2.0,
                        "reduce_ms": 2.0,
                        "answer_ms": 5.0,
                        "rest_share": 0.1,
                    }
                }
            },
        },
        "frame_stage": {"rows": frame},
        "default_malloc": frame,
        "memory": memory,
        "segment_stage": segment,
        "reducer": [timed("all", dtype="float32", path="torch", stage_wall_ms={"pool": 1.0})],
        "scaling": dict.fromkeys(plots.TITLES, curve),
        "gradients": [
            {"way": "implicit", "sweeps": 25, "median_ms": 1.0, "extra_bytes": 5e6, "error": 1e-3}
        ],
        "gpu": None,
    }
    found |= changes
    return found | {"goals": goals.judge(found)}


def verdicts(found):
    return {goal["name"]: goal["reached"] for goal in found["goals"]}


def test_goals_that_are_just_met_are_reached_and_those_of_a_gpu_are_not_run():
    found = verdicts(record())
    on_gpu = {name: reached for name, reached in found.items() if name.startswith("H200")}
    assert len(on_gpu) == 4
    assert set(on_gpu.values()) == {None}
    assert len(found) > 20
    assert {found[name] for name in found if name not in on_gpu} == {True}


def test_real_features_that_were_not_there_are_no_goal_reached():
    found = record(real={"skipped": "no network"})
    real = [goal for goal in found["goals"] if "real clips" in goal["name"]]
    assert [goal["reached"] for goal in real] == [None, None]
    assert {goal["remark"] for goal in real} == {"skipped: no network"}
    assert "Skipped in this run: no network." in page.expand(page.PAGE.read_text(), found)


def test_goals_that_are_missed_are_said_to_be():
    worse = record()["scaling"]
    worse["frames"] = {**worse["frames"], "exponent": 1.2}
    found = verdicts(record(scaling=worse))
    assert found["growth of time in frames, distance of the exponent from 1"] is False


def test_no_time_is_judged_on_a_noisy_machine():
    noisy = record(runs=[run(noise=NOISE)])
    judged = {name for name, reached in verdicts(noisy).items() if reached is not None}
    assert len(judged) == 5
    assert all("sweeps to" in name or "memory" in name for name in judged)
    assert "too noisy" in page.goals_table(noisy)


def test_noise_speaks_for_its_own_run_alone():
    loud = ["frame_stage", "scaling.frames"]
    quiet = [part for part in PARTS if part not in loud]
    found = record(runs=[run(parts=quiet), run(parts=loud, noise=NOISE)])
    unjudged = {goal["part"] for goal in found["goals"] if "too noisy" in goal["remark"]}
    assert unjudged == set(loud)
    text = page.expand(page.PAGE.read_text(), found)
    assert "(frame stage, scaling with frames)" in text
    assert "Noisy." in text


def test_a_part_is_measured_again_beside_the_others(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(contenders, "native_is_built", lambda: True)  # as in the made-up record
    session, part = Session(sizes=QUICK, say=lambda line: None), "scaling.anchors"
    found = speed_record.measure(session, [part], record(runs=[run(commit="old")]))
    assert [p["at"] for p in found["scaling"]["anchors"]["points"]] == [16, 126]
    assert found["scaling"]["frames"] == record()["scaling"]["frames"]
    earlier, now = found["runs"]
    assert [each for each in PARTS if each not in earlier["parts"]] == now["parts"] == [part]
    assert earlier["commit"] == "old" != now["commit"]
    assert speed_record.misfits(session, found) == []
    assert speed_record.misfits(session, {**found, "versions": {"torch": "1"}}) == ["versions"]
    assert speed_record.misfits(Session(), found) == ["sizes"]


def test_a_peer_that_is_not_ranked_or_not_there_is_no_goal_reached():
    part = record()["equal_iterations"]
    rows = [
        {**row, "ranked": "tokenred" in row["name"], "remark": "not at 0.0001"}
        for row in part["rows"]
        if row["name"] != contenders.OTT_LSE
    ]
    missing = {contenders.OTT_LSE: "ott-jax is not installed"}
    found = record(equal_iterations={"rows": rows, "missing": missing})
    text = page.goals_table(found)
    assert "ott-jax is not installed" in text
    assert f"{contenders.POT_BATCH} is not ranked" in text
    about = [goal for goal in found["goals"] if goal["rests_on"].startswith("equal")]
    assert {goal["reached"] for goal in about} == {None}


def test_figures_of_a_gpu_are_judged():
    def size(frames, ms):
        solved = {"ms": 2 * ms, "graph_ms": ms, "row_violation": 1e-6, "sweeps": 100}
        wrong = {**solved, "graph_ms": ms / 2, "row_violation": 1e-2}
        return {
            "frames": frames,
            "anchors": 126,
            "transport": {"triton exact, 100 sweeps": solved, "triton resident, 100 sweeps": wrong},
            "intra": {"rows": {"triton, 1e-3, graph": {"ms": 0.3, "ranked": True}}},
            "inter": {"rows": {"triton, 1e-3": {"graph_ms": 0.1}}},
        }

    gpu = {"device": "a GPU", "sizes": [size(32, 0.2), size(128, 0.21)]}
    found = [goal for goal in record(gpu=gpu)["goals"] if goal["name"].startswith("a GPU")]
    assert [goal["reached"] for goal in found] == [True, False, True, True]
    assert [goal["figure"] for goal in found] == pytest.approx([0.2, 300.0, 100.0, 1.05])


def test_every_block_of_the_page_is_made_from_the_record_and_only_once():
    found, text = record(), page.PAGE.read_text()
    made = page.expand(text, found)
    assert page.expand(made, found) == made
    for name in page.BLOCKS:
        assert f"<!-- figures: {name} -->\n<!-- end -->" not in made
        assert text.count(f"<!-- figures: {name} -->") == 1
    assert "geomloss is not installed" in made
    assert "13.0 GB" in made


@pytest.mark.skipif(not page.RESULTS.is_file(), reason="no figures yet: make bench")
def test_the_page_and_the_figures_agree():
    found = json.loads(page.RESULTS.read_text())
    assert page.expand(page.PAGE.read_text(), found) == page.PAGE.read_text()
    assert goals.judge(found) == found["goals"]
    for axis, curve in found["scaling"].items():
        assert (page.ASSETS / f"speed-{axis}.svg").read_text() == plots.draw(axis, curve)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.00"),
        (1234.6, "1235"),
        (0.123456, "0.123"),
        (12.34, "12.3"),
        (2.5e-7, "2.5e-07"),
    ],
)
def test_numbers(value, text):
    assert page.number(value) == text


@pytest.mark.parametrize("axis", plots.TITLES)
def test_a_plot_is_an_image_without_the_variables_of_the_report(axis):
    svg = plots.draw(axis, record()["scaling"][axis])
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "var(--" not in svg
    assert svg == plots.draw(axis, record()["scaling"][axis])
