"""The videos, and what is right about each."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from awkward.writing import add_stream, create, cut, damage, encode, write_video


@dataclass(frozen=True)
class Awkward:
    """One video.

    Attributes
    ----------
    name : of the file
    make : writes it to a path
    n_frames : how many frames it shows; None where damage decides
    first : number of its first frame
    times : seconds from the first frame; None: ten frames a second
    damaged : whether other frames than those asked for may stand for them
    wrong : how many of eight samples may not show the frame that is named, where nobody can tell
    size : height and width as it is to be seen
    remark : what a reader has to say of it, a part of it
    """

    name: str
    make: Callable[[Path], object]
    n_frames: int | None = 30
    first: int = 0
    times: Sequence[float] | None = None
    damaged: bool = False
    wrong: int = 0
    size: tuple[int, int] = (48, 64)
    remark: str = ""


VFR = [*range(0, 1000, 33)][:30] + [1000 + 5000 * n for n in range(1, 13)]
"""Milliseconds: thirty frames in the first second, twelve in the next sixty."""


def _writer(**settings: object) -> Callable[[Path], object]:
    return lambda path: write_video(path, **settings)  # type: ignore[arg-type]


def _two_films(preview_frames: int) -> Callable[[Path], object]:
    """A film beside a preview, which comes first."""

    def make(path: Path) -> None:
        with create(path) as container:
            preview = add_stream(container, size=(32, 24))
            film = add_stream(container)
            for index in range(30):
                if index < preview_frames:
                    container.mux(encode(preview, 500, index, Fraction(1, 10)))
                container.mux(encode(film, index, index, Fraction(1, 10)))
            container.mux([*preview.encode(), *film.encode()])

    return make


def _with_cover(path: Path) -> None:
    from av.stream import Disposition

    with create(path, format="mp4") as container:
        cover = add_stream(container, "mjpeg", "yuvj420p", gop=None)
        cover.disposition = Disposition.attached_pic
        film = add_stream(container)
        container.mux([*encode(cover, 500, 0, Fraction(1, 10)), *cover.encode()])
        for index in range(30):
            container.mux(encode(film, index, index, Fraction(1, 10)))
        container.mux(film.encode())


def _with_sound(path: Path) -> None:
    with create(path) as container:
        film = add_stream(container)
        sound = container.add_stream("aac", rate=8000, layout="mono")
        for index in range(30):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 8000, 1024 * index
            container.mux([*sound.encode(frame), *encode(film, index, index, Fraction(1, 10))])
        container.mux([*sound.encode(), *film.encode()])


def _edited(path: Path) -> None:
    """Write an edit list that leaves out the first second."""
    write_video(path, options={"bf": "2"})
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 4
    version, count = data[place], struct.unpack(">I", data[place + 4 : place + 8])[0]
    assert (version, count) == (0, 1)
    (duration, media_time) = struct.unpack(">Ii", data[place + 8 : place + 16])
    with av.open(str(path)) as container:
        second = int(1 / container.streams.video[0].time_base)
    struct.pack_into(">Ii", data, place + 8, duration * 2 // 3, media_time + second)
    path.write_bytes(bytes(data))


def _overstated(path: Path) -> None:
    """Write an AVI whose headers promise three times as many frames."""
    write_video(path, codec="mpeg4")
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        struct.pack_into("<I", data, data.index(tag) + offset, 90)
    path.write_bytes(bytes(data))


def _understated(path: Path) -> None:
    write_video(path, codec="mpeg4")
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        struct.pack_into("<I", data, data.index(tag) + offset, 5)
    path.write_bytes(bytes(data))


def _joined(codec: str, size: tuple[int, int] = (64, 48), **settings: object):
    """Two recordings, one behind the other in one file."""

    def make(path: Path) -> None:
        parts = []
        for n, each in enumerate(((64, 48), size)):
            part = path.with_name(f"part-{n}-{path.name}")
            write_video(part, range(15 * n, 15 * n + 15), codec, size=each, **settings)
            parts.append(part.read_bytes())
            part.unlink()
        path.write_bytes(b"".join(parts))

    return make


def _damaged(packets: Sequence[int], share: float = 0.5, **settings: object):
    def make(path: Path) -> None:
        damage(write_video(path, range(60), **settings), packets, share=share)

    return make


def _cut(share: float, **settings: object) -> Callable[[Path], object]:
    return lambda path: cut(write_video(path, range(60), **settings), share)


def _nothing_but_raw(path: Path) -> None:
    """A film without a word on its rate: 30 raw JPEGs, one behind the other."""
    write_video(path, codec="mjpeg", pix_fmt="yuvj420p", format="mjpeg", gop=None)


_B_FRAMES = {"bf": "3", "b-pyramid": "normal", "x264-params": "open-gop=1:scenecut=0"}

VIDEOS: dict[str, Awkward] = {
    each.name: each
    for each in (
        Awkward("plain.mp4", _writer()),
        Awkward("b-frames.mp4", _writer(options=_B_FRAMES)),
        Awkward("b-frames.mkv", _writer(options=_B_FRAMES)),
        Awkward("b-frames.ts", _writer(options=_B_FRAMES)),
        Awkward("one-key-frame.mp4", _writer(gop=300)),
        Awkward("no-key-frames.mp4", _writer(options={"x264-params": "intra-refresh=1"}, gop=10)),
        Awkward("interlaced.mp4", _writer(options={"x264-params": "tff=1"})),
        Awkward("one-frame.mp4", _writer(numbers=range(1)), 1),
        # containers whose header says little, or the wrong thing
        Awkward("fragments.mp4", _writer(muxer={"movflags": "frag_keyframe"})),
        Awkward("small-fragments.mp4", _writer(muxer={"movflags": "frag_every_frame"})),
        Awkward(
            "empty-moov.mp4",
            _writer(muxer={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        ),
        Awkward("dash.mp4", _writer(muxer={"movflags": "dash+frag_keyframe"})),
        Awkward("faststart.mp4", _writer(muxer={"movflags": "faststart"})),
        Awkward("edit-list.mp4", _edited, 20, first=10),
        Awkward("overstated.avi", _overstated),
        Awkward("understated.avi", _understated),
        Awkward("live.webm", _writer(codec="libvpx-vp9", muxer={"live": "1"})),
        Awkward("live.mkv", _writer(muxer={"live": "1"})),
        # times
        Awkward("variable.mkv", _writer(numbers=range(42), stamps=VFR), 42, times=VFR),
        Awkward("variable.mp4", _writer(numbers=range(42), stamps=VFR), 42, times=VFR),
        Awkward("late.mkv", _writer(stamps=[5000 + 100 * n for n in range(30)])),
        Awkward("late.mp4", _writer(stamps=[5000 + 100 * n for n in range(30)])),
        Awkward("late.ts", _writer(stamps=[5000 + 100 * n for n in range(30)])),
        Awkward("joined.ts", _joined("libx264"), remark="run backwards"),
        Awkward("joined.h264", _joined("libx264", options={"bf": "2"})),
        Awkward("joined-b-frames.ts", _joined("libx264", options=_B_FRAMES), remark="backwards"),
        Awkward("joined-b-frames.mkv", _joined("libx264", options={"bf": "2"}), remark="backwards"),
        Awkward("joined.webm", _joined("libvpx-vp9"), remark="run backwards"),
        Awkward("joined.mpg", _joined("mpeg2video", rate=25), remark="run backwards"),
        Awkward("two-sizes.h264", _joined("libx264", (96, 80)), remark="size"),
        # what a player shows
        Awkward("portrait.mp4", _writer(turned=(90, False)), size=(64, 48)),
        Awkward("upside-down.mp4", _writer(turned=(180, False))),
        Awkward("portrait.mov", _writer(turned=(270, False)), size=(64, 48)),
        Awkward("portrait.mkv", _writer(turned=(90, False)), size=(64, 48)),
        Awkward("mirrored.mp4", _writer(turned=(0, True))),
        Awkward("mirrored-portrait.mp4", _writer(turned=(90, True)), size=(64, 48)),
        Awkward("odd.avi", _writer(codec="ffv1", size=(63, 47), gop=None), size=(47, 63)),
        Awkward("odd.mp4", _writer(pix_fmt="yuv444p", size=(63, 47)), size=(47, 63)),
        # other streams
        Awkward("preview.mkv", _two_films(1), remark="2 videos"),
        Awkward("preview.mp4", _two_films(1), remark="2 videos"),
        Awkward("trailer.mp4", _two_films(8), remark="2 videos"),
        Awkward("cover.mp4", _with_cover),
        Awkward("sound.mp4", _with_sound),
        Awkward("sound.ts", _with_sound),
        # codecs, containers, pixel formats
        Awkward(
            "vp8.webm",
            _writer(codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ),
        Awkward("vp9.webm", _writer(codec="libvpx-vp9")),
        Awkward("vp9.ivf", _writer(codec="libvpx-vp9")),
        Awkward("vp9-alpha.webm", _writer(codec="libvpx-vp9", pix_fmt="yuva420p")),
        Awkward("av1.mp4", _writer(codec="libsvtav1")),
        Awkward("av1.mkv", _writer(codec="libsvtav1")),
        Awkward("av1.obu", _writer(codec="libsvtav1")),
        Awkward("hevc.mp4", _writer(codec="libx265")),
        Awkward("hevc.ts", _writer(codec="libx265")),
        Awkward("raw.h264", _writer()),
        Awkward("raw-b-frames.h264", _writer(options={"bf": "2"})),
        Awkward("raw.hevc", _writer(codec="libx265")),
        Awkward("raw.m4v", _writer(codec="mpeg4")),
        Awkward("raw.mjpeg", _nothing_but_raw),
        Awkward("mpeg4.avi", _writer(codec="mpeg4")),
        Awkward("mpeg4-b-frames.avi", _writer(codec="mpeg4", options={"bf": "2"})),
        Awkward("h264.avi", _writer(options={"bf": "2"})),
        Awkward("mpeg2.ts", _writer(codec="mpeg2video", rate=25)),
        Awkward("mpeg2.mpg", _writer(codec="mpeg2video", rate=25)),
        Awkward("wmv2.wmv", _writer(codec="wmv2")),
        Awkward("flv.flv", _writer(codec="flv")),
        Awkward("h264.flv", _writer(options={"bf": "2"})),
        Awkward("h264.nut", _writer(options={"bf": "2"})),
        Awkward("prores.mov", _writer(codec="prores_ks", pix_fmt="yuv422p10le", gop=None)),
        Awkward("film.gif", _writer(codec="gif", pix_fmt="rgb8", gop=None)),
        Awkward("film.apng", _writer(codec="apng", pix_fmt="rgb24", gop=None)),
        Awkward("ten-bit.mp4", _writer(pix_fmt="yuv420p10le")),
        Awkward("ten-bit.mkv", _writer(codec="libx265", pix_fmt="yuv420p10le")),
        Awkward("full-range.mp4", _writer(pix_fmt="yuvj420p")),
        Awkward("alpha.mov", _writer(codec="qtrle", pix_fmt="argb", gop=None)),
        Awkward("alpha.mkv", _writer(codec="ffv1", pix_fmt="yuva444p", gop=None)),
        Awkward("grey.mkv", _writer(codec="ffv1", pix_fmt="gray", gop=None)),
        Awkward("grey16.mkv", _writer(codec="ffv1", pix_fmt="gray16le", gop=None)),
        Awkward("grey10.mp4", _writer(pix_fmt="gray10le")),
        Awkward("rgb48.mkv", _writer(codec="ffv1", pix_fmt="rgb48le", gop=None)),
        Awkward("one-bit.mov", _writer(codec="png", pix_fmt="monob", gop=None)),
        # texts that are no UTF-8
        *(
            Awkward(
                f"latin-1.{suffix}", _writer(title="Caf\xe9 \xfcber", metadata_encoding="latin-1")
            )
            for suffix in ("mp4", "mkv", "avi", "mov")
        ),
        # names that look like protocols, patterns or options
        *(
            Awkward(name, _writer(format="mp4"))
            for name in (
                "12:30 clip.mp4",
                "file:x.mp4",
                "data:x.mp4",
                "concat:a.mp4|b.mp4",
                "http:x.mp4",
                "-i.mp4",
                "%03d.mp4",
                "caf\udce9.mp4",
                "no-suffix",
                "x.txt",
                "x.png",
                "x.m3u8",
            )
        ),
        # damage
        *(
            Awkward(
                f"damaged-{codec}.{suffix}",
                _damaged(packets, codec=codec, gop=10),
                60,
                damaged=True,
                wrong=3 if codec == "libvpx" else 0,
                remark="" if codec == "libvpx" else "damaged",  # VP8 cannot tell
            )
            for codec, suffix in (
                ("mpeg4", "avi"),
                ("mpeg4", "mp4"),
                ("mpeg4", "mkv"),
                ("libx264", "mp4"),
                ("libx264", "mkv"),
                ("libx265", "mp4"),
                ("libvpx-vp9", "webm"),
                ("libvpx", "webm"),
                ("libsvtav1", "mkv"),
                ("libsvtav1", "mp4"),
            )
            for packets in [(5, 22, 23, 24, 47)]
        ),
        Awkward(
            "damaged-key.mp4", _damaged([20], 0.9, codec="mpeg4"), 60, damaged=True, remark="damag"
        ),
        Awkward(
            "damaged-end.mp4", _damaged([59], 0.9, codec="mpeg4"), 60, damaged=True, remark="damag"
        ),
        Awkward(
            "damaged-start.mp4",
            _damaged([0], 0.9, codec="mpeg4"),
            60,
            damaged=True,
            wrong=1,
            remark="damag",
        ),
        Awkward("cut.avi", _cut(0.5, codec="ffv1", gop=None), None, remark="announces 60 frames"),
        Awkward("cut.mkv", _cut(0.6), None),
        Awkward("cut.ts", _cut(0.6), None),
        Awkward("cut.webm", _cut(0.6, codec="libvpx-vp9"), None),
        Awkward("cut.mp4", _cut(0.8, muxer={"movflags": "faststart"}), None, remark="announces 60"),
    )
}


def _text(*lines: str) -> Callable[[Path], object]:
    """A text that names a file beside it which is there: a film or a secret."""

    def make(path: Path) -> None:
        film = write_video(path.with_name(f"{path.name}-film.ts"), format="mpegts")
        secret = path.with_name("secret.txt")
        secret.write_text("the secret of the house\n" * 40)
        names = {"film": film.name, "path": str(film), "secret": str(secret)}
        path.write_text("\n".join(lines).format(**names) + "\n")

    return make


_HLS = ("#EXTM3U", "#EXT-X-TARGETDURATION:3", "#EXTINF:3,", "{0}", "#EXT-X-ENDLIST")


def _playlist(entry: str) -> Callable[[Path], object]:
    return _text(*(line.replace("{0}", entry) for line in _HLS))


def _character_art(path: Path) -> None:
    """Write an XBIN, which FFmpeg renders to a picture."""
    head = b"XBIN\x1a" + struct.pack("<HHBB", 80, 25, 16, 0)
    path.write_bytes(head + b"A\x07" * 80 * 25)


def _huge(path: Path) -> None:
    """Write a GIF that says it is 65 535 pixels wide and high."""
    data = bytearray(write_video(path, codec="gif", pix_fmt="rgb8", gop=None).read_bytes())
    struct.pack_into("<HH", data, 6, 65535, 65535)
    path.write_bytes(bytes(data))


REFUSED: dict[str, Callable[[Path], object]] = {
    "relative.m3u8": _playlist("{film}"),
    "absolute.m3u8": _playlist("{path}"),
    "parent.m3u8": _playlist("../{film}"),
    "url.m3u8": _playlist("file://{path}"),
    "web.m3u8": _playlist("http://127.0.0.1:9/x.ts"),
    "playlist.mp4": _playlist("{path}"),
    "concat.mp4": _text("ffconcat version 1.0", "file '{path}'"),
    "concat-of-text.mp4": _text("ffconcat version 1.0", "file '{secret}'"),
    "concat.txt": _text("ffconcat version 1.0", "file '{film}'"),
    "dash.mpd": _text(
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet>'
        "<Representation><BaseURL>{path}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ),
    "imf.xml": _text('<?xml version="1.0"?><CompositionPlaylist>{path}</CompositionPlaylist>'),
    "session.sdp": _text(
        "v=0", "o=- 0 0 IN IP4 127.0.0.1", "c=IN IP4 127.0.0.1", "m=video 9 RTP/AVP 96"
    ),
    "text.mp4": _text("This is no video.", "{secret}"),
    "text.txt": _text("\x1b[31mred\x1b[0m", "{secret}"),
    "art.ans": _text("\x1b[31mred\x1b[0m", "{secret}"),
    "art.nfo": _text("words", "{secret}"),
    "art.xb": _character_art,
    "art.mp4": _character_art,
    "subtitles.srt": _text("1", "00:00:01,000 --> 00:00:02,000", "hello"),
    "huge.gif": _huge,
}
"""Files that are no videos, or none that may be read, whatever they are called."""
