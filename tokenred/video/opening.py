"""Open one file for FFmpeg, and nothing but this file.

FFmpeg takes names for protocols (``data:x.mp4``), and files for lists of other files (playlists).
It is therefore handed an open file without a name, a list of the formats that are videos, and no
way to open anything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenred.errors import LONGEST_NAME, InputError, shown
from tokenred.texts import cannot_open, check_file

READ_BYTES = 2**18
VIDEO_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,vvc,evc,av1,obu,ivf,"
    "m4v,h261,h263,vc1,vc1test,dirac,cavsvideo,avs2,avs3,mjpeg,mjpeg_2000,flv,live_flv,kux,asf,asf_o,"
    "rm,ogg,nut,nuv,nsv,gif,apng,dv,mxf,gxf,wtv,ty,swf,yuv4mpegpipe,pva,ipu,smk,bink,flic,roq,amv,"
    "film_cpk,mv,thp,dhav,rl2,jpegxl_anim,webp_pipe,png_pipe,jpeg_pipe,bmp_pipe,tiff_pipe,gif_pipe,"
    "j2k_pipe,jpegls_pipe,jpegxl_pipe,pgm_pipe,ppm_pipe,pbm_pipe,pam_pipe,qoi_pipe,exr_pipe,dpx_pipe,"
    "sgi_pipe,sunrast_pipe"
)
"""Formats that hold pictures themselves: no playlist, no renderer of text, no device."""
SOUND_FORMATS = "wav,w64,mp3,aac,flac,aiff,caf,au,ac3,eac3,dts,amr,ape,wv,tta,mpc,mpc8,truehd"
"""Formats that are let in so that the error can say what they are; a cover is no video."""
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<SMIL", b"<smil", b"[playlist]", b"v=0")


class _Nameless:
    """An open file without its name, for whoever would read something into that."""

    def __init__(self, file: Any) -> None:
        self.read, self.tell = file.read, file.tell
        self._file = file

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place; -1 if there is no such place, as damaged files ask for."""
        try:
            return int(self._file.seek(offset, whence))
        except (OSError, ValueError, OverflowError):
            return -1


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a video as a container of PyAV; every fault becomes one sentence.

    Raises
    ------
    InputError
        If PyAV is missing, the file is none or cannot be opened, or whatever is done with the
        container fails in FFmpeg.
    """
    try:
        import av
    except ImportError as error:
        raise InputError("reading video needs PyAV: pip install 'tokenred[video]'") from error
    check_file(path, "a video file")
    # PyAV passes on what a binding may raise on damaged data: bad indices, texts, sizes.
    faults = (
        *(av.FFmpegError, OSError, ValueError, LookupError),
        *(ArithmeticError, MemoryError, RuntimeError),
    )
    try:
        with (
            _file(path) as file,
            av.open(
                _Nameless(file),
                "r",
                container_options={
                    "format_whitelist": f"{VIDEO_FORMATS},{SOUND_FORMATS}",
                    "protocol_whitelist": "none",
                },
                metadata_errors="replace",
                buffer_size=READ_BYTES,
                io_open=_refuse,
            ) as container,
        ):
            yield container
    except InputError:
        raise
    except faults as error:
        raise InputError(f"{shown(path)} {_reason(path, error)}") from error


def _file(path: Path) -> Any:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise cannot_open(path, error) from None


def _refuse(name: str, *_: Any) -> Any:
    raise PermissionError(f"it names another file, {shown(name)}")


def _reason(path: Path, error: Exception) -> str:
    head = b""
    try:
        with open(path, "rb") as file:
            head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    except OSError:
        pass
    if head.startswith(_PLAYLISTS):
        return "is a list of other files, not a video"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"cannot be decoded as video: {' '.join(text.split())[:LONGEST_NAME]}"
