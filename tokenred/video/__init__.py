"""Read frames of video files, and images, as a player shows them.

``opening`` lets FFmpeg see one file and nothing else, ``scanning`` finds out what the file holds,
``sampling`` picks frames by index, time or rate, ``decoding`` fetches them, ``pictures`` turns them
upright, ``images`` reads image files.
"""

from tokenred.video.images import is_image, read_image, to_rgb
from tokenred.video.limits import VideoLimits
from tokenred.video.reading import VideoClip, read_video
from tokenred.video.sampling import BY, SAMPLINGS, sample_indices

__all__ = [
    "BY",
    "SAMPLINGS",
    "VideoClip",
    "VideoLimits",
    "is_image",
    "read_image",
    "read_video",
    "sample_indices",
    "to_rgb",
]
