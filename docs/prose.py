"""A griffe extension: ``name : what it is`` in our docstrings describes, it does not type.

Signatures carry the types already, so the text after the colon becomes the description.
"""

from typing import Any

import griffe

DESCRIBED = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)


class Prose(griffe.Extension):
    """Move free text from the type column to the description column."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the parsed sections of one docstring."""
        if obj.docstring is None:
            return
        for section in obj.docstring.parsed:
            if section.kind in DESCRIBED:
                for item in section.value:
                    _describe(item, obj)


def _describe(item: Any, owner: griffe.Object) -> None:
    text = " ".join(str(item.annotation or "").split())
    item.description = f"{text} {item.description}".strip()
    item.annotation = None
    if isinstance(owner, griffe.Function) and item.name in owner.parameters:
        item.annotation = owner.parameters[item.name].annotation
