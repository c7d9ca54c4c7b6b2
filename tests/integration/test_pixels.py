"""Pixels prepared without a processor are those of transformers' own processors."""

import numpy as np
import pytest
import torch

from tokenred.models import adapter_for
from tokenred.testing.models import tiny_llava_1_5, tiny_llava_onevision

Image = pytest.importorskip("PIL.Image")
SIZES = [(24, 24), (30, 50), (100, 37), (20, 61), (47, 48)]
RESOLUTIONS = [[24, 24], [24, 48], [48, 24], [48, 48], [24, 72], [72, 24]]


def smooth(height, width):
    """A picture without noise, on which two resizes may differ by rounding only."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 200])
    return picture.to(torch.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_tiles_equal_the_processors(size):
    module = pytest.importorskip(
        "transformers.models.llava_onevision.image_processing_pil_llava_onevision"
    )
    model, _ = tiny_llava_onevision(grid=6)
    model.config.image_grid_pinpoints = RESOLUTIONS
    processor = module.LlavaOnevisionImageProcessorPil(
        size={"height": 24, "width": 24},
        image_grid_pinpoints=RESOLUTIONS,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    picture = smooth(*size)
    expected = processor(
        images=[Image.fromarray(np.asarray(picture.permute(1, 2, 0)))], return_tensors="pt"
    )
    found = adapter_for(model).prepare(images=[picture]).inputs
    assert found["image_sizes"].tolist() == expected["image_sizes"].tolist()
    assert found["pixel_values"].shape == expected["pixel_values"].shape
    steps = (found["pixel_values"] - expected["pixel_values"]).abs() * 127.5
    assert steps.mean() < 0.2
    assert steps.max() < 8  # of 255, where a resize meets an edge


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_cut_square_equals_the_processors(size):
    module = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = module.CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    )
    picture = smooth(*size)
    expected = processor(
        images=[Image.fromarray(np.asarray(picture.permute(1, 2, 0)))], return_tensors="pt"
    )["pixel_values"]
    found = adapter_for(tiny_llava_1_5()[0]).prepare(images=[picture]).inputs["pixel_values"]
    assert found.shape == expected.shape
    steps = (found - expected).abs() * 0.27 * 255
    assert steps.mean() < 0.3
    assert steps.max() < 8
