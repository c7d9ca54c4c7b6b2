"""With which earlier frame a frame is compared."""

from collections.abc import Sequence

from tokenred.interfaces import FrameReference


class FirstReference(FrameReference):
    """Compare every frame of a segment with the first one, which stays whole.

    Shapes
    ------
    returns : one index for each frame of the segment

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3, where later frames meet the anchors of the first.
    Licence of source: written from the paper.
    Differs: nothing is updated between the comparisons; AOT's own stage does that.
    """

    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return 0 for every frame."""
        return [0] * n_frames


class PreviousReference(FrameReference):
    """Compare every frame with the one before it, whatever became of that; the first stays whole.

    Shapes
    ------
    returns : one index for each frame of the segment

    Source
    ------
    yaolinli/TimeChat-Online@25a1578 ``token_drop`` (DTD) and vllm-project/vllm@926c71f
    ``compute_retention_mask`` (EVS). Licence of source: BSD-3-Clause and Apache-2.0 (written from
    our description).
    Differs: nothing.
    """

    def references(self, n_frames: int) -> Sequence[int | None]:
        """Return 0, 0, 1, 2, ..."""
        return [0, *range(n_frames - 1)][:n_frames]
