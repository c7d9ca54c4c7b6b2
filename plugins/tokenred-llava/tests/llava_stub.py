"""A small stand-in for the models of the original ``llava`` package.

It has the public methods that tokenred touches, with the same names, arguments and results, and
nothing else of that package: a tower of plain attention layers, a projector, and a causal "LLM"
that answers from everything that it has read.
"""

import math
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

IMAGE_TOKEN_INDEX, IGNORE_INDEX = -200, -100
VOCABULARY, DIM, CHANNELS, PATCH = 32, 16, 24, 2


class Attention(nn.Module):
    """Eager attention that also returns its weights, projections under the usual names."""

    def __init__(self, num_heads=3):
        super().__init__()
        self.num_heads, self.scale = num_heads, (CHANNELS // num_heads) ** -0.5
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))

    def forward(self, hidden):
        query, key, value = (
            projection(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = (query @ key.transpose(-1, -2) * self.scale).softmax(-1)
        return (weights @ value).transpose(1, 2).flatten(2), weights


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()

    def forward(self, hidden):
        attended, weights = self.self_attn(hidden)
        return hidden + attended, weights


class Tower(nn.Module):
    """``class_token`` puts one token in front of the patches, as CLIP does, and drops it again."""

    def __init__(self, side, depth=3, class_token=False):
        super().__init__()
        self.num_patches_per_side = side
        self.embed = nn.Conv2d(3, CHANNELS, PATCH, PATCH)
        self.place = nn.Parameter(torch.randn(side * side, CHANNELS))
        self.class_token = nn.Parameter(torch.randn(CHANNELS)) if class_token else None
        self.layers = nn.ModuleList(Layer() for _ in range(depth))
        self.weights = []

    def forward(self, images):
        hidden = self.embed(images).flatten(2).transpose(1, 2) + self.place
        if self.class_token is not None:
            hidden = torch.cat((self.class_token.expand(len(hidden), 1, -1), hidden), 1)
        self.weights = []
        for layer in self.layers:
            hidden, weights = layer(hidden)
            self.weights.append(weights)
        return hidden if self.class_token is None else hidden[:, 1:]


class Body(nn.Module):
    def __init__(self, tower):
        super().__init__()
        self.vision_tower = tower
        self.mm_projector = nn.Linear(CHANNELS, DIM)
        self.image_newline = nn.Parameter(torch.randn(DIM))
        self.embed_tokens = nn.Embedding(VOCABULARY, DIM)


class LlavaMetaForCausalLM:
    __module__ = "llava.stub"  # as the package's own: no version of transformers is asked for
    pool_arguments = ()

    def get_vision_tower(self):
        return self.get_model().vision_tower

    def get_2dPool(self, image_feature, stride=2):
        side = self.get_vision_tower().num_patches_per_side
        image = image_feature.unflatten(1, (side, side)).permute(0, 3, 1, 2).contiguous()
        mode = self.config.mm_spatial_pool_mode
        if mode == "bilinear":
            size = [math.ceil(side / stride)] * 2
            image = F.interpolate(image, size=size, mode="bilinear")
        else:
            image = {"average": F.avg_pool2d, "max": F.max_pool2d}[mode](image, stride)
        return image.permute(0, 2, 3, 1).flatten(1, 2)

    def encode_images(self, images):
        return self.get_model().mm_projector(self.get_vision_tower()(images))

    def prepare_inputs_labels_for_multimodal(
        self,
        input_ids,
        position_ids,
        attention_mask,
        past_key_values,
        labels,
        images,
        modalities=["image"],  # noqa: B006
        image_sizes=None,
    ):
        if images is None or input_ids.shape[1] == 1:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        modalities = [modalities] if isinstance(modalities, str) else modalities
        images = [each if each.ndim == 4 else each[None] for each in images]
        encoded = self._encode(torch.cat(images)).split([len(each) for each in images])
        features = []
        for index, feature in enumerate(encoded):
            if index < len(modalities) and modalities[index] == "video":
                features.append(
                    self._video_features(self.get_2dPool(feature, *self.pool_arguments))
                )
            else:
                features.append(torch.cat((feature.flatten(0, 1), self._newline())))
        rows = []
        for ids in input_ids:
            row = []
            for token in ids:
                if token == IMAGE_TOKEN_INDEX:
                    row.append(features.pop(0))
                else:
                    row.append(self.get_model().embed_tokens(token)[None])
            rows.append(torch.cat(row))
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return None, position_ids, attention_mask, past_key_values, embeds, labels

    def _encode(self, images):
        return self.encode_images(images)

    def _newline(self):
        return self.get_model().image_newline[None]

    def _video_features(self, video):
        frames, cells, dim = video.shape
        flat = video.flatten(0, 1)
        merge_type = getattr(self.config, "mm_patch_merge_type", "flat")
        layout = getattr(self.config, "mm_newline_position", "one_token")
        if merge_type == "flat" or layout == "no_token":
            return flat
        if layout == "one_token":
            return torch.cat((flat, self._newline())) if "unpad" in merge_type else flat
        lines = frames * math.isqrt(cells) if layout == "grid" else frames
        newlines = self._newline().expand(lines, 1, dim)
        return torch.cat((flat.reshape(lines, -1, dim), newlines), 1).flatten(0, 1)


class LlavaStubForCausalLM(nn.Module, LlavaMetaForCausalLM):
    def __init__(self, *, side=7, class_token=False, seed=0, **config):
        super().__init__()
        config = {
            "mm_patch_merge_type": "spatial_unpad",
            "mm_spatial_pool_mode": "bilinear",
            "mm_newline_position": "one_token",
            **config,
        }
        self.config = SimpleNamespace(**{k: v for k, v in config.items() if v is not None})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = Body(Tower(side, class_token=class_token))
            self.mix, self.lm_head = nn.Linear(DIM, DIM), nn.Linear(DIM, VOCABULARY)
        self.eval()

    def get_model(self):
        return self.model

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        labels=None,
        images=None,
        image_sizes=None,
        modalities=["image"],  # noqa: B006
        inputs_embeds=None,
    ):
        if inputs_embeds is None:
            prepared = self.prepare_inputs_labels_for_multimodal(
                input_ids, None, attention_mask, None, labels, images, modalities, image_sizes
            )
            inputs_embeds = prepared[4]
            if inputs_embeds is None:
                inputs_embeds = self.model.embed_tokens(input_ids)
        place = torch.arange(1, inputs_embeds.shape[1] + 1)[:, None]
        read = self.mix(inputs_embeds * place.cos().to(inputs_embeds)).tanh().cumsum(1)
        return SimpleNamespace(logits=self.lm_head(read), inputs_embeds=inputs_embeds)

    @torch.no_grad()
    def generate(
        self,
        inputs=None,
        images=None,
        image_sizes=None,
        modalities=["image"],  # noqa: B006
        max_new_tokens=4,
    ):
        """Greedy; like the package's, it returns the new tokens alone."""
        embeds = self.forward(
            inputs, images=images, modalities=modalities, image_sizes=image_sizes
        ).inputs_embeds
        answer = []
        for _ in range(max_new_tokens):
            token = self.forward(inputs_embeds=embeds).logits[:, -1:].argmax(-1)
            answer.append(token)
            embeds = torch.cat((embeds, self.model.embed_tokens(token)), 1)
        return torch.cat(answer, 1)
