"""Several pipelines on the same clips, with an encoder that answers in microseconds."""

import csv
import io
import json

import pytest
import torch
import yaml
from rich.console import Console

from tokenred.errors import CapabilityError, InputError
from tokenred.evaluation.overlap.compared import clip_mean
from tokenred.evaluation.overlap.comparison import CONTROLS, compare, expand_pipelines
from tokenred.evaluation.overlap.encoders import Encoder
from tokenred.pipeline.config import read_pipeline
from tokenred.report.overlap import overlap_json, overlap_tables, pairs_csv, rows_csv, write_overlap
from tokenred.testing import video_tokens
from tokenred.video import VideoClip

FRAMES = 4


class Noise:
    """Tokens from the first pixel of a clip; gives every cue but the pooler's."""

    name = "noise"

    def __init__(self):
        self.encoded = []

    def check(self, needs):
        if "attention@pooler" in needs:
            raise CapabilityError("this tower lacks a pooling head")

    def encode(self, frames, frame_times, needs=frozenset()):
        self.encoded.append(int(frames[0, 0, 0, 0]))
        return video_tokens(len(frames), (8, 8), needs=needs, seed=self.encoded[-1], dim=32)


def footage(n_clips):
    return {
        f"clip-{n}": VideoClip(
            torch.full((FRAMES, 2, 2, 3), n, dtype=torch.uint8),
            tuple(range(FRAMES)),
            torch.arange(FRAMES, dtype=torch.float32),
            1.0,
            FRAMES,
        )
        for n in range(n_clips)
    }


def compared(names, retentions=(0.25,), n_clips=3):
    encoder = Noise()
    return compare(expand_pipelines(names, retentions), footage(n_clips), encoder), encoder


@pytest.fixture(scope="module")
def comparison():
    return compared(["top-attention", "no-merge", "aot-paper"], (0.25, 0.10))[0]


def test_controls_join_and_every_clip_is_encoded_once():
    found, encoder = compared(["top-attention"])
    assert isinstance(encoder, Encoder)
    assert [row.label for row in found.rows] == [*CONTROLS, "top-attention"]
    assert encoder.encoded == [0, 1, 2]


def test_pairs_stay_inside_a_budget_and_leave_out_what_chooses_nothing(comparison):
    assert comparison.retentions == [0.25, 0.10]
    for retention in (0.25, 0.10):
        pairs = [(p.first, p.second) for p in comparison.pairs if p.retention == retention]
        assert len(pairs) == 5 * 4 / 2
        assert not any("vanilla" in pair for pair in pairs)
    (vanilla,) = (row for row in comparison.rows if row.label == "vanilla")
    assert vanilla.whole
    assert vanilla.unequal_budget
    assert vanilla.measures["error"].value == 0


def test_selection_without_merging_drops_what_the_merging_one_covers(comparison):
    rows = {row.label: row.measures for row in comparison.rows if row.retention == 0.25}
    assert rows["no-merge"]["tokens"].value == pytest.approx(0.25)
    assert rows["aot-paper"]["tokens"].value > 0.9
    assert rows["aot-paper"]["error"].value < rows["no-merge"]["error"].value


def test_the_same_choice_under_another_name_is_wholly_alike(tmp_path):
    path = tmp_path / "twin.yaml"
    path.write_text(yaml.safe_dump(read_pipeline("random"), sort_keys=False))
    found, _ = compared(["top-attention", str(path)])
    pairs = {(p.first, p.second): p for p in found.pairs}
    same = pairs["random", "twin"]
    assert same.iou.value == same.adjusted_iou.value == same.overlap.value == 1
    assert same.rank_correlation.value == pytest.approx(1)
    other = pairs["random", "top-attention"]
    assert other.chance == pytest.approx(1 / 7, rel=0.02)  # r / (2 - r)
    assert abs(other.adjusted_iou.value) < 0.15


def test_random_tokens_differ_between_clips_but_not_between_runs():
    one, other = (compared([])[0] for _ in range(2))
    assert one == other
    assert {row.label: row for row in one.rows}["random"].measures["cells"].low is not None


def test_rows_that_cannot_run_are_left_out_with_their_reason():
    found, _ = compared(["fastvid-pooler", "dycoke-ttm"], (0.10,))
    assert "lacks a pooling head" in found.left_out["fastvid-pooler at 10 %"]
    assert "cannot be met" in found.left_out["dycoke-ttm at 10 %"]
    assert [row.label for row in found.rows] == list(CONTROLS)


def test_a_calibrated_budget_is_solved_on_the_clips_and_said_to_be():
    found, encoder = compared(["dtd-calibrated"], (0.5,), n_clips=1)
    assert encoder.encoded == [0]  # not once more
    (row,) = (row for row in found.rows if row.label == "dtd-calibrated")
    assert row.retention_ratio == pytest.approx(0.5, abs=0.05)
    assert "calibrated on these clips" in row.remarks[0]


def test_another_number_of_tokens_than_the_budget_is_marked():
    found, _ = compared(["aot-released"], (0.25,), n_clips=1)
    rows = {row.label: row for row in found.rows}
    assert rows["aot-released"].unequal_budget == (rows["aot-released"].n_tokens != FRAMES * 16)
    assert rows["aot-released"].unequal_budget
    assert not rows["random"].unequal_budget


def test_what_works_inside_the_llm_is_remarked():
    found, _ = compared(["fastv"])
    (row,) = (row for row in found.rows if row.label == "fastv")
    assert row.whole
    assert "inside the LLM" in row.remarks[0]


def test_an_interval_over_clips_is_students():
    from scipy.stats import t

    values = [0.2, 0.5, 0.9, 1.4]
    found = clip_mean(values)
    mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / 2
    low, high = t.interval(0.95, 3, mean, error)
    assert (found.value, found.low, found.high) == pytest.approx((float(mean), low, high))
    assert clip_mean([0.3]).half_width is None
    with pytest.raises(InputError, match="at least one clip"):
        clip_mean([])


def test_nothing_to_compare_is_one_sentence():
    with pytest.raises(InputError, match="no clip"):
        compare(expand_pipelines([], [0.1]), {}, Noise())
    with pytest.raises(InputError, match=r"no row can run.*pooling head"):
        compare(expand_pipelines(["fastvid-pooler"], [0.1])[-1:], footage(1), Noise())


def shown(comparison, width=140):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(overlap_tables(comparison))
    return console.export_text()


def test_text_has_every_row_the_chance_level_and_the_marks(comparison):
    text = shown(comparison)
    assert "noise: 3 clips (clip-0, clip-1, clip-2), up to 4 frames of 8x8 tokens" in text
    assert "vanilla †" in text
    assert text.count("aot-paper") == 8  # two tables and two matrices at two budgets
    assert "chance: 14." in text
    assert "95 % interval over clips" in text


def test_files_have_the_same_figures(comparison):
    rows = list(csv.DictReader(io.StringIO(rows_csv(comparison))))
    pairs = list(csv.DictReader(io.StringIO(pairs_csv(comparison))))
    data = json.loads(overlap_json(comparison))
    assert len(rows) == len(data["rows"]) == 1 + 2 * 5
    assert len(pairs) == len(data["pairs"]) == 20
    for line, row in zip(rows, data["rows"], strict=True):
        assert float(line["error"]) == row["measures"]["error"]["value"]
        assert float(line["error_low"]) == row["measures"]["error"]["low"]
    for line, pair in zip(pairs, data["pairs"], strict=True):
        assert float(line["adjusted_iou"]) == pair["adjusted_iou"]["value"]


def test_a_single_clip_has_no_interval():
    found, _ = compared(["top-attention"], n_clips=1)
    assert all(row.measures["error"].low is None for row in found.rows)
    assert "±" not in shown(found).replace("± is half", "")
    assert next(csv.DictReader(io.StringIO(rows_csv(found))))["error_low"] == ""


def test_heat_maps_are_pictures_one_a_budget(comparison, tmp_path):
    pytest.importorskip("matplotlib")
    files = write_overlap(comparison, tmp_path / "out")
    assert {path.name for path in files} == {
        "overlap.json",
        "overlap.csv",
        "overlap-pairs.csv",
        "overlap-25.png",
        "overlap-10.png",
    }
    for path in files:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") == (path.suffix == ".png")
