"""Image files: every mode as it looks, upright, within limits, or one sentence."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")
pytest.importorskip("av")
from awkward import VIDEOS, numbered, read_number
from PIL import Image

from tokenred.errors import InputError
from tokenred.video import VideoLimits, is_image, read_image, to_rgb

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8)[None].repeat(16, 0)


def saved(path: Path, image: Any, **settings: Any) -> Path:
    image.save(path, **settings)
    return path


def ramp16(big: bool = False) -> Any:
    values = RAMP.astype(np.uint16) * 257
    return Image.fromarray(values.astype(">u2") if big else values)


def floats() -> Any:
    return Image.fromarray((RAMP / 255).astype(np.float32))


def palette() -> Any:
    return Image.fromarray(RAMP).convert("RGB").quantize(256)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey16.png", ramp16),
        ("grey16.tif", ramp16),
        ("big-endian.tif", lambda: ramp16(big=True)),
        ("grey16.pgm", ramp16),
        ("grey16.jp2", ramp16),
        ("grey.png", lambda: Image.fromarray(RAMP)),
        ("fractions.tif", floats),
        ("palette.png", palette),
        ("alpha.png", lambda: Image.fromarray(RAMP).convert("RGBA")),
        ("grey-alpha.png", lambda: Image.fromarray(RAMP).convert("LA")),
        ("rgb.webp", lambda: Image.fromarray(RAMP).convert("RGB")),
        ("cmyk.tif", lambda: Image.fromarray(RAMP).convert("RGB").convert("CMYK")),
        ("ycbcr.tif", lambda: Image.fromarray(RAMP).convert("RGB").convert("YCbCr")),
    ],
)
def test_a_ramp_from_black_to_white_is_one(tmp_path: Path, name: str, image: Any) -> None:
    settings = {"lossless": True} if name.endswith("webp") else {}
    pixels, remarks = read_image(saved(tmp_path / name, image(), **settings))
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (16, 64, 3)
    assert np.abs(pixels.numpy().astype(int) - RAMP[..., None]).max() <= 2
    assert remarks == ()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    pixels, _ = read_image(saved(tmp_path / "bits.png", Image.fromarray(RAMP > 127)))
    assert set(pixels.unique().tolist()) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 2, 4))
    if mode == "P":
        data = Image.new("P", (4, 4), 1)
        data.putpalette([0, 0, 0, 90, 0, 0])
        data.paste(0, (0, 0, 2, 4))
        path = saved(tmp_path / "image.png", data, transparency=1)
    else:
        path = saved(tmp_path / "image.png", image.convert(mode))
    pixels, _ = read_image(path)
    assert (pixels[:, :2] == 0).all()
    assert (pixels[:, 2:] == 255).all()


@pytest.mark.parametrize("values", [np.int32([[0, 70000]]), np.float32([[0, 300]])])
def test_numbers_that_do_not_say_what_is_white_are_refused(tmp_path: Path, values: Any) -> None:
    with pytest.raises(InputError, match=r"white|from 0 to 1"):
        read_image(saved(tmp_path / "image.tif", Image.fromarray(values)))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photograph_is_upright(tmp_path: Path, turn: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(numbered(300))
    stored = image.transpose(undo[turn]) if turn in undo else image
    exif = Image.Exif()
    exif[0x0112] = turn
    pixels, _ = read_image(saved(tmp_path / "photo.jpg", stored, exif=exif, quality=95))
    assert read_number(pixels) == 300


def test_damaged_metadata_does_not_cost_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "photo.jpg", Image.fromarray(numbered(300)), exif=exif)
    data = bytearray(path.read_bytes())
    place = data.index(b"Exif\0\0")
    data[place + 6 : place + 24] = b"\xff" * 18
    path.write_bytes(bytes(data))
    assert read_number(read_image(path)[0]) == 300


def test_of_several_images_the_first_is_read(tmp_path: Path) -> None:
    first, second = (Image.fromarray(numbered(n)) for n in (1, 2))
    path = saved(tmp_path / "pages.tif", first, save_all=True, append_images=[second])
    pixels, remarks = read_image(path)
    assert read_number(pixels) == 1
    assert remarks == ("pages.tif holds several images; the first is read",)


def test_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.png", Image.fromarray(RAMP))
    assert read_image(path, limits=VideoLimits(max_frame_pixels=16 * 64))
    with pytest.raises(InputError, match=r"the limit is 1023 \(max_frame_pixels\)"):
        read_image(path, limits=VideoLimits(max_frame_pixels=1023))
    for side in (9500, 20000):  # beyond what Pillow warns about, and what it refuses
        huge = saved(tmp_path / "huge.png", Image.new("1", (side, side)))
        with pytest.raises(InputError, match="max_frame_pixels"):
            read_image(huge)


def test_an_open_image_that_turns_out_to_be_cut_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "image.bmp", Image.fromarray(RAMP))
    path.write_bytes(path.read_bytes()[:-300])
    with Image.open(path) as image, pytest.raises(InputError, match="cannot be turned into RGB"):
        to_rgb(image)


def test_tasks_of_others_show_images_the_same_way(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from tokenred.integrations.visuals import read_visuals

    (pixels,) = read_visuals([ramp16()], SimpleNamespace(image_list="images"), 4).pixels
    assert np.abs(pixels[0].numpy().astype(int) - RAMP[..., None]).max() <= 1
    VIDEOS["joined.ts"].make(tmp_path / "joined.ts")
    shown = read_visuals([str(tmp_path / "joined.ts")], SimpleNamespace(frame_sampling="round"), 4)
    assert "run backwards" in shown.remarks[0]


def test_a_pipe_is_no_image_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert not is_image(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is a device or a pipe, not an image file"):
        read_image(tmp_path / "pipe.png")


def test_no_program_is_run_for_an_image(tmp_path: Path) -> None:
    path = tmp_path / "drawing.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_image(path)


def test_damaged_images_are_read_or_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    image = Image.fromarray(numbered(7))
    path = tmp_path / "damaged"
    said = []
    for format_ in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM"):
        whole = io.BytesIO()
        image.save(whole, format_)
        for _ in range(40):
            data = bytearray(whole.getvalue())
            for at in generator.integers(0, len(data), 6):
                data[at] = generator.integers(256)
            path.write_bytes(bytes(data[: generator.integers(1, len(data) + 1)]))
            try:
                read_image(path)
            except InputError as error:
                said.append(str(error))
    assert len(said) > 100
    assert not any("\n" in each for each in said)


def test_an_image_is_told_from_a_video_by_its_content(tmp_path: Path) -> None:
    image = Image.fromarray(numbered(3))
    for name in ("image.mp4", "image", "image.txt"):
        assert is_image(saved(tmp_path / name, image, format="PNG"))
    VIDEOS["plain.mp4"].make(tmp_path / "plain.mp4")
    film = (tmp_path / "plain.mp4").rename(tmp_path / "film.png")
    assert not is_image(film)
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert is_image(tmp_path / "broken.png")
    assert not is_image(tmp_path / "nowhere.png")
