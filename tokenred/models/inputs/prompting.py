"""Format a question as the prompt that a model expects, with a mark for every video or image."""

from collections.abc import Collection
from typing import Any

from tokenred.errors import InputError
from tokenred.models.inputs.preparing import MARKS


def chat_prompt(
    tokenizer: Any,
    question: str,
    kind: str,
    placeholder: str,
    around: Collection[tuple[str, str]] = (),
    n_media: int = 1,
) -> str:
    """Return a prompt with a mark for every video or image, by the chat template if there is one.

    The placeholder that a template puts there, and marks around it, are replaced by the mark. A
    template for text alone gets the mark as text. Without a template the question follows the mark
    on its own line.

    Parameters
    ----------
    kind : ``image`` or ``video``
    placeholder : the token that stands for the video or image
    around : tokens before and after the placeholder that come with it, not with the prompt
    n_media : number of videos or images, all of one kind, before the question

    Raises
    ------
    InputError
        If the question holds a mark or placeholder itself, or the template leaves no place for the
        video or image.
    """
    mark, question = MARKS[kind], question.strip()
    for each in (*MARKS.values(), placeholder):
        if each in question:
            raise InputError(f"a question cannot hold the mark {each}")
    in_text = f"{mark}\n" * n_media + question
    if not tokenizer.chat_template:
        return in_text
    parts = [*({"type": kind} for _ in range(n_media)), {"type": "text", "text": question}]
    text = _rendered(tokenizer, parts)
    if text is None or (n_media and placeholder not in text):
        placeholder = mark
        text = _rendered(tokenizer, in_text)
    if text is None or text.count(placeholder) != n_media or question not in text:
        wanted = f"one {kind}" if n_media == 1 else f"{n_media} {kind}s"
        raise InputError(f"the chat template of this model has no place for {wanted}")
    for before, after in around:
        text = text.replace(f"{before}{placeholder}{after}", placeholder)
    return _without_start(tokenizer, text.replace(placeholder, mark))


def _rendered(tokenizer: Any, content: Any) -> str | None:
    """Render one user message by the template; None if it does not take such content."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError):
        return None


def _without_start(tokenizer: Any, text: str) -> str:
    """Drop the start token that the tokenizer adds itself."""
    start = tokenizer.bos_token
    if start and text.startswith(start) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        return text.removeprefix(start)
    return text
