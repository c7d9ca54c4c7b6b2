"""Running a pipeline: what it checks beforehand, how it writes and what it reports."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tokenred import CapabilityError, InputError, VisualTokens, load_pipeline
from tokenred.kernels import similarity
from tokenred.pipeline.patched import Patched


def tokens(frames: int = 3, native_pool: str = "none", **cues: torch.Tensor) -> VisualTokens:
    features = torch.randn(frames, 36, 4, generator=torch.Generator().manual_seed(0))
    return VisualTokens.of(features, (6, 6), native_pool=native_pool, cues=cues)


def test_missing_cues_are_named_with_the_pipeline() -> None:
    with pytest.raises(
        CapabilityError,
        match=r"pipeline 'aot-paper' needs cues that are missing: attention@-2, attention@0\.2",
    ):
        load_pipeline("aot-paper").run(tokens())


def test_a_pooling_model_needs_a_pool_stage() -> None:
    pipeline = load_pipeline("random", {"stages.pool": None})
    assert pipeline.run(tokens()).grid == (6, 6)
    with pytest.raises(CapabilityError, match="pipeline 'random' has no pool stage"):
        pipeline.run(tokens(native_pool="average"))


def test_a_misspelt_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="unknown native_pool 'biliner'; did you mean 'bilinear'"):
        load_pipeline("random").run(tokens(native_pool="biliner"))


def test_a_cue_of_another_grid_is_refused() -> None:
    cues = {"attention@-2": torch.rand(3, 16)}
    with pytest.raises(InputError, match=r"cue attention@-2 has shape \(3, 16\), the tokens have"):
        load_pipeline("top-attention").run(replace(tokens(), cues=cues))


def test_a_frame_without_tokens_is_refused() -> None:
    keep = torch.ones(3, 36, dtype=torch.bool)
    keep[1] = False
    with pytest.raises(InputError, match="a frame has no token left to begin with"):
        load_pipeline("random").run(replace(tokens(), keep=keep))


def test_realised_says_what_happened() -> None:
    reduced = load_pipeline("random", {"budget.retention_ratio": 0.3}).run(
        tokens(native_pool="bilinear")
    )
    realised = reduced.realised
    assert realised.n_tokens == 9
    assert realised.vanilla_tokens == 27
    assert realised.tokens_per_frame == (3, 3, 3)
    assert realised.retention_ratio == pytest.approx(1 / 3)
    assert realised.newline_tokens == 0
    assert [(stage.name, stage.kind, stage.n_tokens) for stage in realised.stages] == [
        ("pool", "pool", 27),
        ("frame", "frame", 9),
    ]
    assert realised.reducer_ms == pytest.approx(sum(stage.ms for stage in realised.stages))


def test_a_generator_of_ones_own_decides_the_draw() -> None:
    pipeline = load_pipeline("random", {"seed": 5})
    own = pipeline.run(tokens(), generator=torch.Generator().manual_seed(5))
    assert torch.equal(own.token_index, pipeline.run(tokens()).token_index)
    generator = torch.Generator().manual_seed(5)
    first, second = (pipeline.run(tokens(), generator=generator) for _ in range(2))
    assert not torch.equal(first.token_index, second.token_index)


def test_trace_is_sparse_and_only_on_request() -> None:
    pipeline = load_pipeline("random")
    assert pipeline.run(tokens()).trace is None
    trace = pipeline.run(tokens(), trace=True).trace
    assert trace is not None
    assert trace.is_sparse
    assert trace.shape == (12, 108)
    assert trace.coalesce().values().tolist() == [1.0] * 12


def test_inputs_are_left_alone() -> None:
    pipeline = load_pipeline("downsample")
    video = tokens(native_pool="bilinear")
    copy = video.features.clone()
    reduced = pipeline.run(video, trace=True)
    reduced.features.zero_()
    assert torch.equal(video.features, copy)
    vanilla = load_pipeline("vanilla").run(tokens())
    assert torch.equal(vanilla.features, tokens().features.flatten(0, 1))


def test_keep_of_the_input_is_respected() -> None:
    keep = torch.ones(3, 36, dtype=torch.bool)
    keep[:, :30] = False
    reduced = load_pipeline("random").run(replace(tokens(), keep=keep))
    assert bool((reduced.token_index >= 30).all())


class TestPatched:
    """Written rows are seen by every reader, and those of the caller never change."""

    PLACES = torch.tensor([7, 1, 20, 12])
    READERS: tuple[Callable[[Patched], Tensor], ...] = (
        lambda patch: patch.at(torch.tensor([12, 0, 1])),
        lambda patch: patch.by_frames(torch.square),
        lambda patch: patch.whole,
    )

    def draw(self, *shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    def put(self, features: Tensor, places: Tensor, values: Tensor) -> Tensor:
        """Return a new tensor with the values in place."""
        return features.flatten(0, 1).index_put((places,), values).view(features.shape)

    @pytest.mark.parametrize(
        "places",
        [[7, 1, 20, 12], [20, 12, 1, 7], [1, 7], range(23, -1, -1), [0, 2, 23], [3, 20, 20], []],
        ids=["same", "turned", "part", "all", "others", "twice", "none"],
    )
    def test_is_seen_at_places(self, places: list[int]) -> None:
        features, values = self.draw(4, 6, 5), self.draw(4, 5, seed=1)
        before, asked = features.clone(), torch.tensor(list(places), dtype=torch.long)
        patch = Patched(features)
        assert torch.equal(patch.at(asked), before.flatten(0, 1)[asked])
        patch.write(self.PLACES, values)
        wanted = self.put(before, self.PLACES, values).flatten(0, 1)[asked]
        assert torch.equal(patch.at(asked), wanted)
        assert patch.pending  # nothing is copied for so few
        patch.whole  # noqa: B018
        assert torch.equal(patch.at(asked), wanted)
        assert torch.equal(features, before)

    @pytest.mark.parametrize(
        ("frames", "layout"),
        [
            *((frames, "plain") for frames in (1, 2, 3, 4)),
            *((frames, "turned") for frames in (1, 3)),
        ],
    )
    def test_is_seen_frames_by_frames(
        self, frames: int, layout: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(similarity, "CHUNK_BYTES", 4 * frames * 6 * 5)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        features = self.draw(4, 6, 5) if layout == "plain" else self.draw(4, 5, 6).mT
        before, values, seen = features.clone(), self.draw(4, 5, seed=1), []

        def change(part: Tensor) -> Tensor:
            seen.append(len(part))
            return part.cumsum(1)[:, ::2]

        patch = Patched(features)
        patch.write(self.PLACES, values)
        wanted = self.put(before, self.PLACES, values).cumsum(1)[:, ::2]
        assert torch.equal(patch.by_frames(change), wanted)
        assert (max(seen), sum(seen)) == (frames, 4)
        assert torch.equal(change(patch.whole), wanted)
        assert torch.equal(patch.by_frames(change), wanted)
        assert torch.equal(features, before)

    @pytest.mark.parametrize("reader", READERS, ids=["at", "by_frames", "whole"])
    def test_later_writes_go_into_the_same_copy(self, reader: Callable[[Patched], Tensor]) -> None:
        features, (first, second) = self.draw(4, 6, 5), self.draw(2, 4, 5, seed=1)
        before, others = features.clone(), torch.tensor([12, 0, 23, 1])
        patch = Patched(features)
        wanted = self.put(self.put(before, self.PLACES, first), others, second)
        patch.write(self.PLACES, first)
        patch.write(others, second)
        assert torch.equal(reader(patch), reader(Patched(wanted)))
        copy = patch.whole
        patch.write(self.PLACES, second)
        assert patch.whole is copy
        wanted = self.put(wanted, self.PLACES, second)
        assert torch.equal(reader(patch), reader(Patched(wanted)))
        assert torch.equal(features, before)

    @pytest.mark.parametrize("reader", READERS, ids=["at", "by_frames", "whole"])
    def test_has_a_gradient(self, reader: Callable[[Patched], Tensor]) -> None:
        """Of what was there and of what is written, also on top of values that have none."""
        features, values = self.draw(4, 6, 5).double(), self.draw(2, 4, 5, seed=1).double()
        others = torch.tensor([12, 0, 23, 1])

        def written(features: Tensor, first: Tensor, second: Tensor) -> Tensor:
            patch = Patched(features)
            patch.write(self.PLACES, first)
            between = reader(patch).square()
            patch.write(others, second)
            return between + reader(patch).square()

        inputs = features, *values
        wanted = written(*inputs)
        for learnt in ([0], [1], [2], [0, 1, 2]):
            given = [x.clone().requires_grad_(i in learnt) for i, x in enumerate(inputs)]
            torch.testing.assert_close(written(*given).detach(), wanted)
            assert torch.autograd.gradcheck(written, given, fast_mode=True)
