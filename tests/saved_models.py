"""Tiny models of every family as folders, and a world without network."""

import json
import socket

from tokenred.testing.models import FAMILIES

# In the words of Qwen's templates and of LLaVA's; both are ours.
MARKS_AROUND = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}"
    "{% else %}<|vision_start|><|{{ part.type }}_pad|><|vision_end|>{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARK_ALONE = (
    "{% for message in messages %}{{ message.role | upper }}: "
    "{% for part in message.content | selectattr('type', 'ne', 'text') %}"
    "<{{ part.type }}>\n{% endfor %}"
    "{% for part in message.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def template_of(family):
    """Return a chat template in the manner of a family's checkpoints."""
    return MARKS_AROUND if "Qwen" in family.name else MARK_ALONE


def save(name, folder, **settings):
    """Save a tiny model of a family, its tokenizer and its settings; return it, too."""
    family = FAMILIES[name]
    model, tokenizer = family.build()
    model.save_pretrained(folder)
    tokenizer.chat_template = template_of(family)
    tokenizer.save_pretrained(folder)
    settings = {**family.settings, **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return model, tokenizer


def block_network(monkeypatch):
    """Let every attempt to reach another machine fail loudly."""

    def refused(*_, **__):
        raise AssertionError("something wants to use the network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refused)
