"""What a pipeline does inside the LLM; whatever runs the model does it (``tokenred.models``)."""

from dataclasses import dataclass

from tokenred.interfaces import CachePruner, LayerReducer


@dataclass(frozen=True)
class InsideLlm:
    """What a pipeline does inside the LLM, by the labels of its stages; false if nothing."""

    reducers: tuple[tuple[str, LayerReducer], ...] = ()
    pruners: tuple[tuple[str, CachePruner], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.reducers or self.pruners)
