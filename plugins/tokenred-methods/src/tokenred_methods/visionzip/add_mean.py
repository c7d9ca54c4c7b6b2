"""The anchor plus the mean of what joins it: VisionZip's merge as released."""

import torch

from tokenred import Coupling
from tokenred.interfaces import Aggregator
from tokenred.types import MergeWeights


class AddMeanAggregator(Aggregator):
    """Add to each anchor the mean of the sources that prefer it.

    The weights of an anchor that receives anything sum to two, so merged tokens are longer than
    untouched ones (1.76 times on structured data). ``mean`` is the aggregator without this flaw. A
    source belongs to the anchor with the largest entry in its row, the first of equals.

    Shapes
    ------
    coupling.plan : (*batch, sources, anchors)

    Source
    ------
    VisionZip, arXiv 2412.04467; dvlab-research/VisionZip@3151f6d ``CLIPVisionTower_VisionZip`` and
    cokeshao/HoliTom@e9b2972 ``visionzip``. Licence of source: Apache-2.0 (written from our
    description).
    Differs: nothing with the ``nearest`` coupler; soft plans are hardened first.
    """

    averages = False

    def weights(self, coupling: Coupling) -> MergeWeights:
        """Return weight one for the anchor and one in all for its sources."""
        plan = coupling.plan
        member = torch.nn.functional.one_hot(plan.argmax(-1), plan.shape[-1]).to(plan.dtype)
        member = member * (plan.sum(-1, keepdim=True) > 0)
        count = member.sum(-2, keepdim=True)
        return MergeWeights(torch.ones_like(count[..., 0, :]), member / count.clamp_min(1))
