"""What every frame reference has to satisfy."""

from tokenred.errors import InputError
from tokenred.interfaces import FrameReference
from tokenred.testing._run import Bodies, expect

MAX_FRAMES = 40


def answers_for_every_frame(reference: FrameReference) -> None:
    """Segments of 1 to 40 frames get one answer a frame: an index, or None."""
    for frames in range(1, MAX_FRAMES + 1):
        found = _references(reference, frames)
        if found is None:
            continue
        expect(len(found) == frames, f"{frames} frames, {len(found)} answers")
        kinds = {type(each) for each in found} - {int, type(None)}
        expect(not kinds, f"answers of {kinds}, expected int or None")


def looks_back(reference: FrameReference) -> None:
    """No frame is compared with a later one, so the first is kept whole."""
    for frames in range(1, MAX_FRAMES + 1):
        for frame, other in enumerate(_references(reference, frames) or ()):
            inside = other is None or 0 <= other <= frame
            expect(inside, f"of {frames} frames, frame {frame} is compared with frame {other}")


def loses_no_frame(reference: FrameReference) -> None:
    """A frame is lost only where released code does so."""
    for frames in range(1, MAX_FRAMES + 1):
        found = _references(reference, frames)
        lost = [t for t, other in enumerate(found or ()) if other is None]
        expect(reference.released or not lost, f"of {frames} frames, frames {lost} are lost")


def is_reproducible(reference: FrameReference) -> None:
    """The same number of frames gets the same answers."""
    for frames in range(1, MAX_FRAMES + 1):
        first, second = (_references(reference, frames) for _ in range(2))
        expect(first == second, f"{frames} frames: {first}, then {second}")


def _references(reference: FrameReference, frames: int) -> list[int | None] | None:
    try:
        return list(reference.references(frames))
    except InputError:
        if reference.released:
            return None
        raise AssertionError(f"a segment of {frames} frames is refused") from None


_BODIES = (
    answers_for_every_frame,
    looks_back,
    loses_no_frame,
    is_reproducible,
)


def contract(reference: FrameReference) -> Bodies:
    """Return what holds for it."""
    return _BODIES
