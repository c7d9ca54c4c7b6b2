"""The compiled Sinkhorn: right, equal for equal rows, and never used when it should not be."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from tokenred.cli import main
from tokenred.cli.doctor import _native
from tokenred.errors import TokenredError
from tokenred.kernels import native, paths
from tokenred.kernels.native import build, library
from tokenred.kernels.sinkhorn import sinkhorn, sweeps
from tokenred.kernels.sinkhorn.chebyshev import default_rho
from tokenred.kernels.sinkhorn.monitor import DeviceMonitor, Monitor
from tokenred.kernels.sinkhorn.paths import solve as torch_solve
from tokenred.kernels.sinkhorn.problem import Problems, Rules

OPTIONS = {"max_iter": 50, "stop": "none", "tolerance": 0.0, "last": "anchor", "rho": None}


def problem(batch=2, sources=37, anchors=19, seed=0, scale=6.0, column_major=False):
    generator = torch.Generator().manual_seed(seed)
    scaled = scale * torch.rand(batch, sources, anchors, generator=generator)
    masses = [torch.rand(batch, n, generator=generator) + 0.5 for n in (sources, anchors)]
    if column_major:
        scaled = scaled.mT.contiguous().mT
    return scaled, *(mass / mass.sum(-1, keepdim=True) for mass in masses)


def reference(scaled, source, anchor, **options):
    """Solve in float64 and the log domain."""
    wanted = {key: value for key, value in {**OPTIONS, **options}.items() if key != "rho"}
    doubles = (scaled.double(), source.double(), anchor.double())
    return sinkhorn(*doubles, epsilon=1.0, domain="log", acceleration="none", **wanted)


def solve(*tensors, **options):
    solved = native.solve(*tensors, **{**OPTIONS, **options})
    assert solved is not None
    return solved


def assert_near(plan, wanted, relative=2e-6):
    assert float((plan - wanted).abs().amax() / wanted.amax()) < relative


def test_exponential_is_right_to_two_units_in_the_last_place(native_library):
    x = torch.linspace(-103.9, 88.7, 200_001)
    exact = x.double().exp()
    unit = torch.maximum(2.0 ** (exact.log2().floor() - 23), torch.tensor(2.0**-149).double())
    assert float(((native_library.exponential(x) - exact).abs() / unit).max()) < 2
    special = native_library.exponential(torch.tensor([math.nan, math.inf, -math.inf, 0.0]))
    assert torch.isnan(special[0])
    assert special[1:].tolist() == [math.inf, 0.0, 1.0]


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("last", ["anchor", "source"])
@pytest.mark.parametrize(
    ("sources", "anchors"),
    [(1, 1), (1, 40), (40, 1), (3, 5), (4, 16), (9, 17), (63, 126), (130, 205), (17, 300)],
)
def test_plan_is_that_of_float64_for_every_size(sources, anchors, last):
    for column_major in (False, True):
        tensors = problem(3, sources, anchors, column_major=column_major)
        solved = solve(*tensors, last=last, max_iter=20)
        wanted = reference(*tensors, last=last, max_iter=20)
        assert_near(solved.plan, wanted.plan)
        assert solved.n_iter.tolist() == [20] * 3
        assert solved.done.tolist() == [False] * 3
        r, c = solved.source_scaling, solved.anchor_scaling
        kernel = torch.exp(-tensors[0])
        assert_near(r[..., None] * kernel * c[:, None], solved.plan)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("column_major", [False, True])
def test_any_strides_are_read(column_major):
    scaled, source, anchor = problem(2, 21, 18, column_major=column_major)
    plain = solve(scaled, source, anchor)
    wide = torch.full((2, 42, 54), math.nan)
    wide[:, ::2, ::3] = scaled
    assert torch.equal(solve(wide[:, ::2, ::3], source, anchor).plan, plain.plan)
    cut = torch.full((2, 23, 31), math.nan)
    cut[:, 1:22, 2:20] = scaled
    assert torch.equal(solve(cut[:, 1:22, 2:20], source, anchor).plan, plain.plan)
    same = scaled[:1].expand(2, -1, -1)
    masses = source[:1].expand(2, -1), anchor[:1].expand(2, -1)
    twice = solve(same, *masses).plan
    assert torch.equal(twice[0], plain.plan[0])
    assert torch.equal(twice[1], plain.plan[0])


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize(("rho", "stop"), [(None, "none"), (0.5, "none"), (None, "scaling")])
@pytest.mark.parametrize("last", ["anchor", "source"])
def test_padding_changes_no_bit_and_may_cost_anything(last, rho, stop):
    scaled, source, anchor = problem(1, 21, 13)
    options = {"last": last, "rho": rho, "stop": stop, "tolerance": 1e-3}
    small = solve(scaled, source, anchor, **options)
    large = torch.full((1, 30, 40), math.nan)
    large[0, 20:, :] = -math.inf
    large[:, :21, :13] = scaled
    masses = [torch.nn.functional.pad(m, (0, n)) for m, n in ((source, 9), (anchor, 27))]
    padded = solve(large, *masses, **options)
    assert padded.n_iter.tolist() == small.n_iter.tolist()
    assert torch.equal(padded.plan[:, :21, :13], small.plan)
    assert torch.equal(padded.source_scaling[:, :21], small.source_scaling)
    for rest in (padded.plan[:, 21:], padded.plan[..., 13:]):
        assert not rest.any()
    assert not padded.source_scaling[:, 21:].any()
    assert not padded.anchor_scaling[:, 13:].any()


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("tolerance", [3e-2, 1e-2, 3e-3, 1e-3, 3e-4])
def test_padding_does_not_soften_the_mean_that_stops(tolerance):
    scaled, source, anchor = problem(1, 21, 13)
    options = {"stop": "scaling", "tolerance": tolerance, "max_iter": 500}
    large = torch.zeros(1, 210, 13)
    large[:, :21] = scaled
    padded = solve(large, torch.nn.functional.pad(source, (0, 189)), anchor, **options)
    assert padded.n_iter.tolist() == solve(scaled, source, anchor, **options).n_iter.tolist()


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("stop", ["none", "residual", "scaling"])
def test_nothing_is_shipped_where_one_side_has_no_mass(stop):
    scaled, source, anchor = problem(3)
    source[0], anchor[1] = 0, 0
    options = {"stop": stop, "tolerance": 1e-3}
    solved = solve(scaled, source, anchor, **options)
    with paths.use("torch"):
        wanted = sinkhorn(scaled, source, anchor, epsilon=1.0, acceleration="none", **options)
    assert not solved.plan[:2].any()
    assert_near(solved.plan[2], wanted.plan[2])
    assert bool(solved.done[2]) == (stop != "none")


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("last", ["anchor", "source"])
@pytest.mark.parametrize("stop", ["residual", "scaling"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4])
def test_every_problem_stops_by_itself_where_torch_stops(stop, last, tolerance):
    tensors = [torch.cat(each) for each in zip(problem(2, scale=1.0), problem(2, scale=9.0))]
    options = {"stop": stop, "tolerance": tolerance, "last": last, "max_iter": 200}
    solved = solve(*tensors, **options)
    assert solved.done.all()
    assert solved.n_iter[2] > solved.n_iter[0]
    for each in range(4):
        alone = [tensor[each : each + 1] for tensor in tensors]
        wanted = reference(*alone, **options)
        assert int(solved.n_iter[each]) == wanted.n_iter
        assert_near(solved.plan[each], wanted.plan[0])
        assert torch.equal(solve(*alone, **options).plan[0], solved.plan[each])


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("last", ["anchor", "source"])
@pytest.mark.parametrize("tolerance", [1e-1, 1e-4, 0.0])
def test_a_batch_can_stop_as_one(last, tolerance):
    tensors = [torch.cat(each) for each in zip(problem(2, scale=1.0), problem(2, scale=9.0))]
    options = {"stop": "scaling-batch", "tolerance": tolerance, "last": last, "max_iter": 70}
    solved, wanted = solve(*tensors, **options), reference(*tensors, **options)
    assert solved.n_iter.tolist() == [wanted.n_iter] * 4
    assert solved.done.tolist() == wanted.converged.tolist()
    assert_near(solved.plan, wanted.plan)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("last", ["anchor", "source"])
def test_problems_without_mass_do_not_count_when_a_batch_stops(last):
    cost, source, anchor = (torch.cat([each] * 2) for each in problem(2, scale=9.0))
    source[1:] = 0
    options = {"epsilon": 1.0, "stop": "scaling-batch", "last": last}
    found, alone = (sinkhorn(cost[:n], source[:n], anchor[:n], **options) for n in (len(cost), 1))
    assert found.n_iter == alone.n_iter > 1
    assert_near(found.plan[0], alone.plan[0])


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("stop", ["residual", "scaling", "scaling-batch"])
def test_what_does_not_stop_says_so(stop):
    tensors = problem()
    solved = solve(*tensors, stop=stop, tolerance=1e-9, max_iter=3)
    assert solved.n_iter.tolist() == [3, 3]
    assert solved.done.tolist() == [False, False]
    assert_near(solved.plan, reference(*tensors, max_iter=3).plan)


def slow_problem():
    """Return transport along a line, which takes plain sweeps long."""
    generator = torch.Generator().manual_seed(3)
    points = [torch.rand(4, n, generator=generator) for n in (63, 30)]
    masses = [torch.rand(4, n, generator=generator) + 0.5 for n in (63, 30)]
    masses[0][2, 50:], masses[1][3, 20:] = 0, 0
    cost = (points[0][:, :, None] - points[1][:, None]).square()
    return cost, *(mass / mass.sum(-1, keepdim=True) for mass in masses)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("last", ["anchor", "source"])
def test_acceleration_reaches_the_same_plan_in_fewer_sweeps(last):
    tensors = slow_problem()
    options = {"stop": "residual", "max_iter": 2000, "last": last, "epsilon": 0.05}
    plain, fast = (solve(*tensors, tolerance=1e-4, rho=rho, **options) for rho in (None, 0.9))
    assert plain.done.all()
    assert fast.done.all()
    assert int(fast.n_iter.sum()) < 0.7 * int(plain.n_iter.sum())
    cost, *masses = tensors
    exact = reference(cost / 0.05, *masses, max_iter=2000, last=last).plan
    assert_near(fast.plan, exact, 1e-2)
    assert_near(solve(*tensors, tolerance=2e-6, rho=0.9, **options).plan, exact, 1e-4)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("max_iter", [1, 2, 3, 9, 300])
@pytest.mark.parametrize("stop", ["residual", "none"])
@pytest.mark.parametrize("last", ["anchor", "source"])
def test_accelerated_sweeps_are_those_of_torch(last, stop, max_iter):
    cost, source, anchor = slow_problem()
    options = {"stop": stop, "tolerance": 1e-2, "last": last, "max_iter": max_iter, "epsilon": 0.05}
    solved = solve(cost, source, anchor, rho=default_rho(0.05), **options)
    for each in range(4):
        one = slice(each, each + 1)
        with paths.use("torch"):
            wanted = sinkhorn(
                cost[one], source[one], anchor[one], acceleration="chebyshev", **options
            )
        assert int(solved.n_iter[each]) == wanted.n_iter
        assert_near(solved.plan[each], wanted.plan[0], 1e-4)
        if stop == "residual":
            assert bool(solved.done[each]) == bool(wanted.converged)
    exact, dim = (anchor, -2) if last == "anchor" else (source, -1)
    assert_near(solved.plan.sum(dim), exact)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("monitor", [Monitor, DeviceMonitor])
@pytest.mark.parametrize("last", ["anchor", "source"])
@pytest.mark.parametrize(("scale", "rho", "restarts"), [(50, 0.999, True), (12, 0.99999, False)])
def test_acceleration_that_leads_astray_is_given_up_as_in_torch(
    last, scale, rho, restarts, monitor, monkeypatch
):
    """Problems that diverge begin anew; those that do not get on go on from where they are."""
    monkeypatch.setattr(sweeps, "new_monitor", monitor)
    tensors = problem(4, 40, 30, scale=scale)
    rules = Rules(400, "residual", 1e-3, last, rho)
    solved = solve(*tensors, stop="residual", tolerance=1e-3, max_iter=400, last=last, rho=rho)
    with paths.use("torch"):
        plan, run = torch_solve(Problems.of(*tensors, 1.0), rules, "kernel")
    assert run.fell.all()
    assert run.restarted.tolist() == [restarts] * 4
    assert run.done.all()
    for field in ("n_iter", "done", "fell", "restarted"):
        assert getattr(solved, field).tolist() == getattr(run, field).tolist()
    assert_near(solved.plan, plan, 1e-5)


@pytest.mark.usefixtures("native_library")
@pytest.mark.parametrize("rho", [None, 0.8])
@pytest.mark.parametrize("last", ["anchor", "source"])
def test_equal_rows_get_scalings_equal_to_the_last_bit(last, rho):
    scaled, source, anchor = problem(2, 150, 45)
    for column_major in (False, True):
        twins = scaled.mT.contiguous().mT if column_major else scaled.clone()
        places = [0, 1, 5, 18, 47, 63, 64, 101, 148, 149]
        twins[:, places], source[:, places] = twins[:, :1].clone(), source[:, :1].clone()
        columns = [0, 7, 15, 16, 33, 44]
        twins[..., columns], anchor[:, columns] = twins[..., :1].clone(), anchor[:, :1].clone()
        solved = solve(twins, source, anchor, last=last, rho=rho)
        rows = solved.source_scaling[:, places]
        assert torch.equal(rows, rows[:, :1].expand_as(rows))
        assert torch.equal(solved.plan[:, places], solved.plan[:, :1].expand(-1, len(places), -1))
        scalings = solved.anchor_scaling[:, columns]
        assert torch.equal(scalings, scalings[:, :1].expand_as(scalings))


@pytest.mark.usefixtures("native_library")
def test_threads_change_no_bit():
    tensors = problem(7, 60, 30)
    before = torch.get_num_threads()
    try:
        plans = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            plans.append(solve(*tensors, stop="residual", tolerance=1e-4, rho=0.5).plan)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(plans[0], plans[1])
    assert torch.equal(plans[0], plans[2])


@pytest.mark.usefixtures("native_library")
def test_too_large_a_range_gives_nan_as_it_does_in_torch():
    scaled, source, anchor = problem(scale=4000.0)
    for rho in (None, 0.5):
        solved = solve(scaled, source, anchor, stop="residual", tolerance=1e-3, rho=rho)
        assert not torch.isfinite(solved.plan).all()
        assert not solved.done.any()


@pytest.mark.usefixtures("native_library")
def test_torch_is_left_what_the_library_cannot_do():
    scaled, source, anchor = problem()
    masses = source, anchor
    assert native.solve(scaled.double(), *masses, **OPTIONS) is None
    assert native.solve(scaled, source.double(), anchor, **OPTIONS) is None
    assert native.solve(scaled.bfloat16(), *masses, **OPTIONS) is None
    assert native.solve(scaled.to("meta"), *masses, **OPTIONS) is None
    assert native.solve(scaled[:0], source[:0], anchor[:0], **OPTIONS) is None
    assert native.solve(scaled, *masses, **{**OPTIONS, "max_iter": 0}) is None
    for stop in ("scaling", "scaling-batch"):
        assert native.solve(scaled, *masses, **{**OPTIONS, "stop": stop, "rho": 0.5}) is None
    learnt = scaled.clone().requires_grad_()
    assert native.solve(learnt, *masses, **OPTIONS) is None
    with torch.no_grad():
        assert native.solve(learnt, *masses, **OPTIONS) is not None


def test_a_path_is_taken_inside_its_block_only():
    def fail():
        with paths.use("torch"):
            raise KeyError(paths.wanted())

    with pytest.raises(KeyError, match="torch"):
        fail()
    assert paths.wanted() == "auto"


def test_without_a_library_torch_does_it(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path / "nothing")
    assert native.solve(*problem(), **OPTIONS) is None
    assert not (tmp_path / "nothing").exists()


def test_without_a_home_torch_does_it(monkeypatch):
    def unknown(name):
        raise KeyError(name)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(library, "FOLDER", Path("~/.cache/tokenred/unknown"))
    assert native.solve(*problem(), **OPTIONS) is None


@pytest.fixture
def kept(native_library, monkeypatch, tmp_path):
    """Return the path of a copy of the built library, in a folder of its own."""
    built = library.library_path(library.FOLDER)
    for suffix in (".so", ".json"):
        shutil.copy(built.with_suffix(suffix), tmp_path)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    return tmp_path / built.name


def test_a_copy_of_the_library_is_found(kept):
    assert library.load_library(kept.parent) is not None
    assert native.solve(*problem(), **OPTIONS) is not None


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".so", b"\x7fELF no library"),
        (".so", b""),
        (".json", b"{"),
        (".json", b"[]"),
        (".json", b'{"compiler": "cc", "flags": [], "checksum": "0"}'),
    ],
)
def test_a_damaged_library_is_told_and_not_used(kept, suffix, content):
    kept.with_suffix(suffix).write_bytes(content)
    with pytest.raises(ValueError, match="run `tokenred native build` again"):
        library.load_library(kept.parent)
    assert native.solve(*problem(), **OPTIONS) is None


@pytest.mark.parametrize("what", ["source", "processor", "flags"])
def test_a_library_of_other_source_processor_or_flags_is_never_loaded(
    kept, what, monkeypatch, tmp_path
):
    if what == "source":
        edited = tmp_path / "edited.c"
        edited.write_text(library.SOURCE.read_text() + "\n")
        monkeypatch.setattr(library, "SOURCE", edited)
    elif what == "processor":
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("model name\t: another\nflags\t\t: fpu\n")
        monkeypatch.setattr(library, "CPUINFO", cpuinfo)
    else:
        monkeypatch.setattr(library, "FLAGS", (("-O0",),))
    library.library_key.cache_clear()
    try:
        assert library.library_path(kept.parent) != kept
        assert library.load_library(kept.parent) is None
    finally:
        monkeypatch.undo()
        library.library_key.cache_clear()


@pytest.fixture
def empty(c_compiler, monkeypatch, tmp_path):
    """Return an empty folder that libraries are built to."""
    monkeypatch.setattr(library, "FOLDER", tmp_path / "libraries")
    return tmp_path / "libraries"


def test_a_wrong_library_is_not_kept(empty, monkeypatch, tmp_path):
    right = build.SOURCE.read_text()
    wrong = right.replace("either(v > splat(0), c, splat(0))", "either(v > splat(0), v, splat(0))")
    assert wrong != right
    (tmp_path / "wrong.c").write_text(wrong)
    monkeypatch.setattr(build, "SOURCE", tmp_path / "wrong.c")
    with pytest.raises(TokenredError, match="built but is wrong"):
        build.build_library()
    assert list(empty.iterdir()) == []


def test_a_library_that_lacks_a_function_is_not_kept(empty, monkeypatch, tmp_path):
    (tmp_path / "other.c").write_text("int something(void) { return 1; }\n")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "other.c")
    with pytest.raises(TokenredError, match=r"cannot be built: .*tokenred_sinkhorn"):
        build.build_library()
    assert list(empty.iterdir()) == []


def test_a_compiler_that_fails_is_quoted(empty, monkeypatch, tmp_path):
    (tmp_path / "broken.c").write_text("#error no such luck\n")
    monkeypatch.setattr(build, "SOURCE", tmp_path / "broken.c")
    with pytest.raises(TokenredError, match=r"failed: .*no such luck"):
        build.build_library()
    assert list(empty.iterdir()) == []


@pytest.mark.usefixtures("empty")
def test_flags_that_a_compiler_lacks_are_left_out(monkeypatch):
    unknown = (*library.BASE_FLAGS, "-fno-such-flag-anywhere")
    monkeypatch.setattr(build, "FLAGS", (unknown, library.BASE_FLAGS))
    path, built = build.build_library()
    assert built.flags == library.BASE_FLAGS
    assert not built.threads
    monkeypatch.setattr(library, "FOLDER", path.parent)
    tensors = problem()
    assert_near(solve(*tensors).plan, reference(*tensors).plan)


def test_a_folder_that_cannot_be_written_is_told(c_compiler, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TokenredError, match=r"cannot be built: .*file"):
        build.build_library(tmp_path / "file" / "folder")


def test_commands_build_show_and_remove(empty, c_compiler, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["native", *arguments])
        return stop.value.code or 0, *capsys.readouterr()

    code, out, _ = call()
    assert code == 0
    assert "missing" in out
    assert "tokenred native build" in out
    code, out, err = call("build", "--compiler", c_compiler)
    assert code == 0
    path = library.library_path(empty)
    assert out.strip() == str(path)
    assert "built with" in err
    assert native.solve(*problem(), **OPTIONS) is not None
    code, out, _ = call("status", "--json")
    status = json.loads(out)
    assert (code, status["state"], status["path"]) == (0, "built", str(path))
    assert "-O3" in status["flags"]
    assert call("--json")[1] == out
    code, out, _ = call("remove")
    assert (code, out.strip()) == (0, str(path))
    assert list(empty.iterdir()) == []
    assert native.solve(*problem(), **OPTIONS) is None
    assert call("remove")[2] == "there was nothing to remove\n"


@pytest.mark.parametrize(
    ("compiler", "said"), [("no-such-compiler", "no C compiler: looked for"), ("false", "failed")]
)
def test_no_compiler_is_one_sentence(monkeypatch, tmp_path, capsys, compiler, said):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["native", "build", "--compiler", compiler])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (1, "", 1)
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_status_and_doctor_tell_a_damaged_library(kept, capsys):
    kept.with_suffix(".json").write_text("{")
    with pytest.raises(SystemExit):
        main(["native"])
    assert "broken" in capsys.readouterr().out
    finding = _native()
    assert finding.state == "failed"
    assert "run `tokenred native build` again" in finding.detail
