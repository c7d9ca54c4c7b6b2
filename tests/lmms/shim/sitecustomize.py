"""Let torchvision from PyPI, which is built for CUDA, be imported beside a torch for the CPU.

Its operators cannot be loaded there, and its import ends on two of them that it takes for granted.
Declaring those is enough. Python imports this module when it starts if its folder is on PYTHONPATH;
nothing happens until somebody imports torchvision.
"""

import sys
from importlib.metadata import PackageNotFoundError, version

_kept = []


class _DeclareFirst:
    """Stands in front of the import of torchvision, finds nothing, and steps aside."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare()
        return None


def declare():
    """Declare the two operators, unless torchvision brings them along."""
    import torch

    try:
        fits = "+cpu" in version("torchvision")
    except PackageNotFoundError:
        return
    if torch.version.cuda is None and not fits:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)  # what is declared lasts as long as this


sys.meta_path.insert(0, _DeclareFirst())
