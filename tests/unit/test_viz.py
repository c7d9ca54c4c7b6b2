"""Views of reductions: fates of patches, heat maps, timeline, animation."""

import json
from dataclasses import replace
from io import BytesIO

import pytest
import torch
from PIL import Image

from tokenred import InputError, Segments, VisualTokens, load_pipeline
from tokenred.kernels.sparse import sparse_map
from tokenred.report.viz import (
    Fate,
    View,
    anchor_map,
    animation,
    fates_of,
    find_anchor,
    overlay,
    timeline,
    to_png,
)
from tokenred.report.viz.fates import home_cells
from tokenred.testing.videos import video_tokens
from tokenred.types import Realised, ReducedTokens


def reduced_by(entries, places, *, frames=2, grid=(2, 2), cells=None, segments=None):
    """Write a reduction down: (token, source, weight) entries, and (frame, cell) of each token."""
    index = torch.tensor([[token for token, _, _ in entries], [source for _, source, _ in entries]])
    weights = torch.tensor([weight for _, _, weight in entries])
    size = (len(places), frames * grid[0] * grid[1])
    frame, cell = torch.tensor(places).T
    counts = tuple(frame.bincount(minlength=frames).tolist())
    mass = torch.zeros(len(places)).index_add(0, index[0], torch.ones(len(entries)))
    realised = Realised(len(places), size[1], counts, 0.0, (), segments=segments)
    trace = sparse_map(index, weights, size)
    return ReducedTokens(
        torch.zeros(len(places), 3), frame, cell, mass, cells or grid, realised, trace
    )


def view_of(reduced, grid=(2, 2), name="by-hand", height=24, width=32, **more):
    frames = len(reduced.realised.tokens_per_frame)
    pictures = torch.arange(frames * height * width * 3).remainder(256).to(torch.uint8)
    pictures = pictures.view(frames, height, width, 3)
    return View(name, pictures, tuple(f"frame {n}" for n in range(frames)), grid, reduced, **more)


@pytest.fixture
def merged():
    """Two frames of 2x2: one anchor takes patches of both frames, one token is untouched."""
    entries = [(0, 0, 0.5), (0, 1, 0.25), (0, 5, 0.25), (1, 6, 1.0), (1, 7, 1e-9)]
    return reduced_by(entries, [(0, 0), (1, 2)], segments=Segments((0, 1, 2)))


def test_the_same_place_of_another_frame_is_not_at_home():
    fates = fates_of(reduced_by([(0, 0, 0.5), (0, 4, 0.5)], [(0, 0)]), (2, 2))
    assert fates.patches[:, 0].tolist() == [Fate.KEPT, Fate.MERGED]
    assert fates.received.tolist() == [0.5]


def test_every_patch_is_kept_merged_or_dropped(merged):
    fates = fates_of(merged, (2, 2))
    kept, gone, moved = Fate.KEPT, Fate.DROPPED, Fate.MERGED
    assert fates.patches.tolist() == [[kept, moved, gone, gone], [gone, moved, kept, gone]]
    assert fates.anchors.tolist() == [True, False]
    assert fates.received.tolist() == [0.5, 0.0]
    assert fates.count(Fate.DROPPED) == (2, 2)


def test_a_token_that_claims_anothers_place_has_merged_what_it_holds():
    fates = fates_of(reduced_by([(0, 3, 1.0)], [(0, 0)], frames=1), (2, 2))
    assert fates.patches.tolist() == [[Fate.DROPPED] * 3 + [Fate.MERGED]]
    assert fates.anchors.tolist() == [True]


@pytest.mark.parametrize("pool", ["bilinear", "average", "none"])
@pytest.mark.parametrize("grid", [(27, 27), (13, 13), (6, 10)])
def test_unreduced_everything_that_the_model_reads_is_kept(pool, grid):
    tokens = video_tokens(2, grid, native_pool=pool)
    reduced = load_pipeline("vanilla").run(tokens, trace=True)
    fates = fates_of(reduced, grid, pool)
    unread = 2 * (grid[0] * grid[1] - (grid[0] - grid[0] % 2) * (grid[1] - grid[1] % 2))
    assert not fates.anchors.any()
    assert int((fates.patches == Fate.UNREAD).sum()) == (unread if pool == "average" else 0)
    assert int((fates.patches == Fate.KEPT).sum()) == fates.patches.numel() - sum(
        fates.count(Fate.UNREAD)
    )


def test_a_pruner_drops_what_it_does_not_keep():
    tokens = video_tokens(4, (13, 13), native_pool="bilinear")
    reduced = load_pipeline("random", {"budget.retention_ratio": 0.25}).run(tokens, trace=True)
    fates = fates_of(reduced, (13, 13), "bilinear")
    assert not fates.anchors.any()
    assert sum(fates.count(Fate.MERGED)) == 0
    per_token = (reduced.trace.coalesce().values() > 0).sum() / len(reduced.features)
    assert 1 < per_token <= 4  # patches in a pooled cell
    weights = torch.zeros(4 * 169).index_add(
        0, reduced.trace.coalesce().indices()[1], reduced.trace.coalesce().values()
    )
    assert torch.equal((weights > 1e-6).view(4, 169), fates.patches == Fate.KEPT)


def test_a_pool_of_the_pipelines_own_has_cells_by_overlap():
    tokens = video_tokens(1, (9, 6))
    stages = {"pool": {"kind": "pool", "mode": "average", "stride": 3}}
    config = {"budget": {"retention_ratio": 1.0, "mode": "as-released"}, "stages": stages}
    reduced = load_pipeline(config).run(tokens, trace=True)
    fates = fates_of(reduced, (9, 6))
    assert reduced.grid == (3, 2)
    assert not fates.anchors.any()
    assert set(fates.patches.flatten().tolist()) == {Fate.KEPT}


def test_home_cells_of_coarser_grids_cover_all_patches():
    assert home_cells((2, 2), (2, 2), "none").equal(torch.eye(4, dtype=torch.bool))
    assert home_cells((27, 27), (14, 14), "bilinear").sum(1).max() == 4
    assert home_cells((5, 4), (2, 4), "none").any(0).all()


def test_pictures_need_a_trace_that_fits(merged):
    with pytest.raises(InputError, match="trace=True"):
        fates_of(replace(merged, trace=None), (2, 2))
    with pytest.raises(InputError, match="does not map 2 frames of 3x3 patches to 2 tokens"):
        fates_of(merged, (3, 3))
    with pytest.raises(InputError, match="2 frames of tokens need as many images"):
        View("x", torch.zeros(3, 4, 4, 3, dtype=torch.uint8), ("a",) * 3, (2, 2), merged)


def test_the_strongest_anchor_and_its_weights(merged):
    anchor = find_anchor(view_of(merged))
    assert (anchor.token, anchor.frame, anchor.row, anchor.column) == (0, 0, 0, 0)
    assert anchor.per_frame == (0.75, 0.25)
    assert anchor.weights[1].tolist() == [[0.0, 0.25], [0.0, 0.0]]


def test_the_weights_of_every_anchor_are_its_row_of_the_map():
    pipeline = load_pipeline("downsample", {"budget.retention_ratio": 0.25})
    tokens = video_tokens(3, (7, 9), native_pool="bilinear", needs=pipeline.needs)
    reduced = pipeline.run(tokens, trace=True)
    view = View.of("x", torch.zeros(3, 8, 8, 3, dtype=torch.uint8), tokens, reduced)
    flat = tokens.features.flatten(0, 1)
    for token in (0, 5, len(reduced.features) - 1):
        row, column = divmod(int(reduced.token_index[token]), reduced.grid[1])
        anchor = find_anchor(view, (int(reduced.frame_index[token]), row, column))
        assert anchor.token == token
        assert sum(anchor.per_frame) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(anchor.weights.flatten() @ flat, reduced.features[token])


def test_a_place_without_a_token_is_one_sentence(merged):
    view = view_of(merged)
    with pytest.raises(InputError, match="kept no token at 1,0,0; near it: 1,1,0"):
        find_anchor(view, (1, 0, 0))
    with pytest.raises(InputError, match="there are 2 frames of 2x2 cells, counted from 0"):
        find_anchor(view, (2, 0, 0))
    with pytest.raises(InputError, match="there is no anchor 0,-1,0"):
        find_anchor(view, (0, -1, 0))


def test_of_two_tokens_in_one_place_the_one_that_stands_for_more_is_shown():
    twins = reduced_by([(0, 0, 1.0), (1, 0, 0.5), (1, 1, 0.5)], [(0, 0), (0, 0)], frames=1)
    assert find_anchor(view_of(twins), (0, 0, 0)).token == 1


def test_the_figures_behind_the_pictures(merged):
    view = view_of(merged, entered=torch.tensor([4, 2]), n_layers=4)
    figures = json.loads(json.dumps(view.figures()))
    assert figures["tokens_per_frame"] == [1, 1]
    assert figures["anchors_per_frame"] == [1, 0]
    assert figures["untouched_per_frame"] == [0, 1]
    assert figures["segments"] == [[0, 1], [1, 2]]
    assert figures["patches"] == {
        "kept": [1, 1],
        "merged": [1, 1],
        "dropped": [2, 2],
        "unread": [0, 0],
    }
    assert figures["lost_before_layer"] == {"2": 1}
    assert view.title == "by-hand: 2 of 8 tokens (25.0%), 1 of them reach the last layer"


def test_segments_come_from_the_pipeline():
    for name, cut in (("aot-paper", True), ("random", False)):
        pipeline = load_pipeline(name)
        tokens = video_tokens(8, (13, 13), native_pool="bilinear", needs=pipeline.needs)
        segments = pipeline.run(tokens).realised.segments
        assert (segments == Segments((0, 4, 8))) if cut else segments is None


def test_a_model_that_reads_frames_in_pairs_shows_the_first_of_each():
    tokens = VisualTokens.of(torch.randn(3, 4, 2), (2, 2))
    reduced = load_pipeline("vanilla").run(tokens, trace=True)
    pictures = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 4, 4, 3)
    view = View.of("x", pictures, tokens, reduced)
    assert view.labels == ("frame 0", "frame 2", "frame 4")
    assert view.pixels[:, 0, 0, 0].tolist() == [0, 2, 4]


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    return found + [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.fixture
def views(merged):
    lost = {"entered": torch.tensor([0, 2]), "n_layers": 2}
    return [view_of(merged), view_of(merged, name="a $lossy$ one", **lost)]


def test_the_overlay_shows_every_frame_of_every_pipeline(views):
    figure = overlay(views, title="a clip")
    said = texts(figure)
    assert {"a clip", "frame 0", "frame 1", "segment 1", "segment 2"} <= set(said)
    assert said.count("1 token") == 4
    assert "dropped, in no token" in said
    assert "not read even unreduced" not in said
    assert r"a \$lossy\$ one: 1 gone before layer 0 of the LLM" in said
    with_pictures = [axes for axes in figure.axes if axes.images]
    assert len(with_pictures) == 2 + 2 * 2


def test_no_two_texts_overlap(views):
    for figure in (
        overlay(views, title="a clip"),
        timeline(views, title="a clip"),
        anchor_map([(view, find_anchor(view)) for view in views], title="a clip"),
    ):
        figure.canvas.draw()
        shown = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
        boxes = [text.get_window_extent() for text in shown if text.get_text()]
        for number, box in enumerate(boxes):
            assert figure.bbox.containsx(box.x0)
            assert figure.bbox.containsx(box.x1)
            assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_the_time_line_shows_tokens_and_borders(views):
    figure = timeline(views)
    bars = [axes for axes in figure.axes if axes.get_ylabel() == "tokens"]
    assert len(bars) == 2
    for axes, view in zip(bars, views):
        heights = sum(bar.get_height() for bars in axes.containers for bar in bars)
        assert heights == view.reduced.realised.n_tokens
        (border,) = axes.lines
        assert list(border.get_xdata()) == [1, 1]
    assert "lost inside the LLM" in texts(figure)


def test_a_heat_map_shows_the_frames_that_gave_something(views):
    figure = anchor_map([(views[0], find_anchor(views[0]))])
    assert {"75.0%", "25.0%"} <= set(texts(figure))
    heat = [axes.images[1].get_array() for axes in figure.axes if len(axes.images) == 2]
    assert [float(each.sum()) for each in heat] == [0.75, 0.25]


def test_a_heat_map_of_many_frames_shows_those_that_gave_most():
    entries = [(0, 4 * frame, 0.01 * (frame + 1)) for frame in range(12)]
    view = view_of(reduced_by(entries, [(0, 0)], frames=12))
    said = texts(anchor_map([(view, find_anchor(view))], columns=5))
    assert {"frame 0", "frame 8", "frame 9", "frame 10", "frame 11"} <= set(said)
    assert "frame 1" not in said
    assert any("7 frames that gave least are not shown" in text for text in said)


def test_the_animation_has_one_image_a_frame(views):
    data = animation(views, title="a clip", frame_ms=200)
    with Image.open(BytesIO(data)) as moving:
        assert moving.n_frames == 2
        assert moving.info["duration"] == 200
        assert moving.info["loop"] == 0
    assert animation(views, title="a clip", frame_ms=200) == data


def test_the_same_view_gives_the_same_bytes(views):
    first, again = (to_png(overlay(views, title="a clip")) for _ in range(2))
    assert first == again
    assert first.startswith(b"\x89PNG")
    assert b"matplotlib" not in first


def test_drawing_leaves_no_global_state(views):
    import sys

    timeline(views)
    assert "matplotlib.pyplot" not in sys.modules


def test_nothing_to_draw_is_one_sentence():
    for draw in (overlay, timeline, animation, anchor_map):
        with pytest.raises(InputError, match="nothing to draw"):
            draw([])
