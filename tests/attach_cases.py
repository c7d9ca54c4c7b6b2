"""Prompts, inputs and runs that the tests of ``attach`` share."""

import torch

from tokenred.testing.models import llava_onevision_inputs, synthetic_video

CELLS, N_FRAMES = 9, 4
QUARTER = {"budget.retention_ratio": 0.25}
KEPT = 3 * N_FRAMES  # ceil(9 * 0.25) a frame

CASES = {
    "single": ("Watch: <video> what is it?",),
    "padded": ("<video> what?", "Look at this film: <video> and then what happens?"),
    "two-videos": ("First <video> then <video> differ?",),
    "adjacent": ("<video><video> same?",),
    "mixed": ("a <video> b <video> c", "no film here", "<video> one?"),
}


def make_inputs(loaded, *prompts, n_images=0, padding="left", size=24, n_frames=N_FRAMES):
    """Inputs of prompts, each ``<video>`` and ``<image>`` in them a picture of its own."""
    model, tokenizer = loaded
    n_videos = sum(prompt.count("<video>") for prompt in prompts)
    videos = [synthetic_video(n_frames, size, seed=seed) for seed in range(n_videos)]
    images = [synthetic_video(1, size, seed=50 + seed)[0] for seed in range(n_images)]
    tokenizer.padding_side = padding
    try:
        return llava_onevision_inputs(model, tokenizer, prompts, videos, images)
    finally:
        tokenizer.padding_side = "left"


@torch.no_grad()
def logits_of(model, inputs, **kwargs):
    return model(**inputs, **kwargs).logits


def unwanted(model):
    """Tokens that a random model may say, but which would end or upset a dialogue."""
    config = model.config
    return [model.generation_config.eos_token_id, config.image_token_id, config.video_token_id]


def greedy(model, inputs, **kwargs):
    kwargs = {"max_new_tokens": 6, "suppress_tokens": unwanted(model), **kwargs}
    return model.generate(**inputs, do_sample=False, **kwargs)


@torch.no_grad()
def greedy_without_cache(model, inputs, n_tokens):
    """Greedy tokens, each from a whole forward pass over a prompt that grows."""
    inputs = dict(inputs)
    for _ in range(n_tokens):
        logits = model(**inputs, use_cache=False).logits[:, -1:]
        logits[..., unwanted(model)] = -torch.inf
        token = logits.argmax(-1)
        inputs["input_ids"] = torch.cat((inputs["input_ids"], token), 1)
        inputs["attention_mask"] = torch.cat(
            (inputs["attention_mask"], torch.ones_like(token)), dim=1
        )
    return inputs["input_ids"]


@torch.no_grad()
def forced(model, inputs, text):
    """Return the log-likelihood of a text that a model is made to write, token by token."""
    inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
    output, total = model(**inputs, use_cache=True), 0.0
    for token in text.tolist():
        total += float(output.logits[0, -1].log_softmax(-1)[token])
        output = model(input_ids=torch.tensor([[token]]), past_key_values=output.past_key_values)
    return total
