"""What every frame reference has to satisfy."""

from collections.abc import Iterator

from tokenred.errors import InputError
from tokenred.interfaces import FrameReference
from tokenred.testing._run import Check, collect, expect

MAX_FRAMES = 40


def reference_checks(reference: FrameReference, *, released: bool = False) -> Iterator[Check]:
    """Yield the contract of a frame reference as named checks without arguments.

    Parameters
    ----------
    released : True for one that repeats released code, which may lose frames and refuse lengths
    """
    return collect(reference, _BODIES, released=released)


def is_a_reference(reference: FrameReference, *, released: bool) -> None:
    """The object has the interface."""
    expect(isinstance(reference, FrameReference), f"{reference!r} has no `references`")


def answers_for_every_frame(reference: FrameReference, *, released: bool) -> None:
    """Segments of 1 to 40 frames get one answer a frame: an index, or None."""
    for frames in range(1, MAX_FRAMES + 1):
        found = _references(reference, frames, released)
        if found is None:
            continue
        expect(len(found) == frames, f"{frames} frames, {len(found)} answers")
        kinds = {type(each) for each in found} - {int, type(None)}
        expect(not kinds, f"answers of {kinds}, expected int or None")


def looks_back(reference: FrameReference, *, released: bool) -> None:
    """No frame is compared with a later one, so the first is kept whole."""
    for frames in range(1, MAX_FRAMES + 1):
        for frame, other in enumerate(_references(reference, frames, released) or ()):
            inside = other is None or 0 <= other <= frame
            expect(inside, f"of {frames} frames, frame {frame} is compared with frame {other}")


def loses_no_frame(reference: FrameReference, *, released: bool) -> None:
    """A frame is lost only where released code does so."""
    for frames in range(1, MAX_FRAMES + 1):
        found = _references(reference, frames, released)
        lost = [] if released else [t for t, other in enumerate(found or ()) if other is None]
        expect(not lost, f"of {frames} frames, frames {lost} are lost")


def is_reproducible(reference: FrameReference, *, released: bool) -> None:
    """The same number of frames gets the same answers."""
    for frames in range(1, MAX_FRAMES + 1):
        first, second = (_references(reference, frames, released) for _ in range(2))
        expect(first == second, f"{frames} frames: {first}, then {second}")


def _references(reference: FrameReference, frames: int, released: bool) -> list[int | None] | None:
    try:
        return list(reference.references(frames))
    except InputError:
        if released:
            return None
        raise AssertionError(f"a segment of {frames} frames is refused") from None


_BODIES = (
    is_a_reference,
    answers_for_every_frame,
    looks_back,
    loses_no_frame,
    is_reproducible,
)
