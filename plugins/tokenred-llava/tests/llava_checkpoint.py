"""A tiny checkpoint in the format of the original llava package, the same on every machine.

Needs torch alone, so that the package itself can read the same weights in its own environment.
"""

import json
from pathlib import Path

import torch

VOCABULARY, WIDTH, CHANNELS, FRAMES, SIDE, PATCH = 40, 24, 16, 2, 27, 2
IMAGE_ID, VIDEO_ID = VOCABULARY - 2, VOCABULARY - 1
BEFORE, AFTER = (3, 14, 15), (9, 26, 5, 35)
VISION = {
    "hidden_size": CHANNELS,
    "intermediate_size": 32,
    "num_hidden_layers": 3,  # as the package runs it, its last layer removed
    "num_attention_heads": 2,
    "image_size": SIDE * PATCH,
    "patch_size": PATCH,
}


def original_config(**settings):
    """``config.json`` as the package writes it."""
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava_qwen",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "mm_vision_tower": "siglip-tiny",
        "mm_hidden_size": CHANNELS,
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_vision_select_layer": -2,
        "mm_spatial_pool_mode": "average",
        "mm_newline_position": "grid",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": [[54, 54], [108, 54], [162, 54]],  # width and height
        **settings,
    }


def _shapes():
    tower = "model.vision_tower.vision_tower.vision_model."
    yield tower + "embeddings.patch_embedding.weight", (CHANNELS, 3, PATCH, PATCH)
    yield tower + "embeddings.patch_embedding.bias", (CHANNELS,)
    yield tower + "embeddings.position_embedding.weight", (SIDE * SIDE, CHANNELS)
    for index in range(VISION["num_hidden_layers"]):
        layer = f"{tower}encoder.layers.{index}."
        for name in ("layer_norm1", "layer_norm2"):
            yield from _linear(layer + name, CHANNELS)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{layer}self_attn.{name}", CHANNELS, CHANNELS)
        yield from _linear(layer + "mlp.fc1", VISION["intermediate_size"], CHANNELS)
        yield from _linear(layer + "mlp.fc2", CHANNELS, VISION["intermediate_size"])
    yield from _linear(tower + "post_layernorm", CHANNELS)
    yield from _linear("model.mm_projector.0", WIDTH, CHANNELS)
    yield from _linear("model.mm_projector.2", WIDTH, WIDTH)
    yield "model.image_newline", (WIDTH,)
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for index in range(2):
        layer = f"model.layers.{index}."
        yield from _linear(layer + "self_attn.q_proj", WIDTH, WIDTH)
        yield from _linear(layer + "self_attn.k_proj", WIDTH // 2, WIDTH)
        yield from _linear(layer + "self_attn.v_proj", WIDTH // 2, WIDTH)
        yield layer + "self_attn.o_proj.weight", (WIDTH, WIDTH)
        yield layer + "mlp.gate_proj.weight", (40, WIDTH)
        yield layer + "mlp.up_proj.weight", (40, WIDTH)
        yield layer + "mlp.down_proj.weight", (WIDTH, 40)
        yield layer + "input_layernorm.weight", (WIDTH,)
        yield layer + "post_attention_layernorm.weight", (WIDTH,)
    yield "model.norm.weight", (WIDTH,)
    yield "lm_head.weight", (VOCABULARY, WIDTH)


def _linear(name, *shape):
    yield name + ".weight", shape
    yield name + ".bias", shape[:1]


def _numbers(shape, seed, scale):
    """Numbers that look random: a sine of steps far longer than its period."""
    count = torch.Size(shape).numel()
    steps = torch.arange(count, dtype=torch.float64) * 12.9898 + seed * 78.233
    return (scale * torch.sin(steps * steps % 1e4)).float().reshape(shape)


def original_weights():
    """The state dict, under the package's names."""
    weights = {}
    for seed, (name, shape) in enumerate(_shapes(), 1):
        norm = "norm" in name and name.endswith("weight")
        weights[name] = _numbers(shape, seed, 0.35) + (1.0 if norm else 0.0)
    return weights


def pixels(n_frames=FRAMES):
    return _numbers((n_frames, 3, SIDE * PATCH, SIDE * PATCH), 1000, 1.0)


def tiles():
    """An image of 150x50 pixels as the package cuts it: squeezed whole, then three tiles."""
    return _numbers((4, 3, SIDE * PATCH, SIDE * PATCH), 2000, 1.0), (150, 50)


def write_original(folder: Path, n_shards=1, **settings):
    """Write the checkpoint as the package saves it."""
    from safetensors.torch import save_file

    weights = original_weights()
    (folder / "config.json").write_text(json.dumps(original_config(**settings)))
    if n_shards == 1:
        save_file(weights, folder / "model.safetensors")
        return
    places = {}
    names = sorted(weights)
    for shard in range(n_shards):
        file = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::n_shards]}
        save_file(part, folder / file)
        places.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
