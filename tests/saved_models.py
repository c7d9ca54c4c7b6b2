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


def save_original(folder):
    """Save a tiny LLaVA-Video as the ``llava`` package does; return the model and tower's sizes.

    The tokenizer lacks the marks, as those of real checkpoints do; the vocabulary has room.
    """
    import re

    from safetensors.torch import save_file

    model, tokenizer = FAMILIES["LLaVA-Video"].build()
    model.resize_token_embeddings(len(tokenizer) + 8)
    names = {
        r"^model\.language_model\.": "model.",
        r"^model\.multi_modal_projector\.linear_1\.": "model.mm_projector.0.",
        r"^model\.multi_modal_projector\.linear_2\.": "model.mm_projector.2.",
        r"^model\.vision_tower\.(vision_model\.)?": "model.vision_tower.vision_tower.vision_model.",
    }
    weights = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = re.sub(new, old, name)
        weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = model.config.text_config.to_dict()
    config = {
        **{name: value for name, value in text.items() if not isinstance(value, dict)},
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "tiny",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "average",
        "mm_newline_position": "grid",
        "image_grid_pinpoints": model.config.image_grid_pinpoints,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<image>", "<|a|>").replace("<video>", "<|b|>"))
    return model, model.config.vision_config.to_dict()
