"""How much a video or an image may ask for."""

from pydantic import Field

from tokenred.config import FrozenModel
from tokenred.errors import InputError


class VideoLimits(FrozenModel):
    """What is put up with; whatever goes beyond is refused, and the error names the setting."""

    max_frames: int = Field(4096, ge=1, le=2**24, description="frames sampled of one video")
    max_frame_pixels: int = Field(
        2**26,
        ge=1,
        le=2**40,
        description="pixels of one frame or image; 67 million are 8192 x 8192",
    )
    max_pixels: int = Field(
        2**31,
        ge=1,
        le=2**50,
        description="pixels of all sampled frames together, each of which takes 3 bytes",
    )
    max_source_frames: int = Field(
        2**23, ge=1, le=2**40, description="frames that a video may hold; 8.4 million are 77 hours"
    )
    max_damage: float = Field(
        0.75, ge=0, le=1, description="share of a video's frames that may be lost to damage"
    )

    def check(self, setting: str, wanted: int, what: str) -> None:
        """Refuse more than a limit allows.

        Parameters
        ----------
        setting : name of the limit
        wanted : how much it would be
        what : what it would be of, after the number

        Raises
        ------
        InputError
            If it is too much.
        """
        limit = getattr(self, setting)
        if wanted > limit:
            raise InputError(f"{wanted} {what}; the limit is {limit} ({setting})")


DEFAULT_LIMITS = VideoLimits()
