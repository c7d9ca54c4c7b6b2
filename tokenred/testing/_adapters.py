"""What every adapter of a model family has to satisfy, on a tiny random model of the real class."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.models import adapter_for, attach
from tokenred.pipeline import load_pipeline
from tokenred.testing._run import Check, collect, expect, expect_close
from tokenred.testing.models.common import TinyFamily, synthetic_video

PROMPTS: Mapping[str, Sequence[str]] = {
    "one video": ("Watch: <video> what is it?",),
    "one image": ("Look: <image> what is it?",),
    "padded batch": ("<video> what?", "Look at this film: <video> and then what happens?"),
    "several in one prompt": ("First <video> then <video> differ?",),
    "images and videos": ("<image> or <video>?", "no picture", "<video>, <image> and <image>!"),
}
"""Prompts on which a family is tried, by what they hold."""

RATIO = 0.25
N_FRAMES = 4
N_GENERATED = 3
SLACK = 1e-4
"""How far two ways to one result may lie apart in double precision: models norm in single."""


def adapter_checks(family: TinyFamily, *, device: str = "cpu") -> Iterator[Check]:
    """Yield the contract of a family's adapter as named checks without arguments.

    Parameters
    ----------
    family : builds tiny models; ``adapter_for`` must know their class, or ``family.adapter`` serve
    device : where the models run
    """
    checks = [check for check in CHECKS if family.views == 1 or check is not answers_equal]
    yield from collect(_Subject(family, device), checks)


class _Subject:
    """A tiny model of a family, in the forms that the checks need, each built once."""

    def __init__(self, family: TinyFamily, device: str) -> None:
        self.family, self.device = family, device
        self._built: dict[Any, Any] = {}

    def model(self, dtype: torch.dtype = torch.float32, backend: str = "sdpa") -> Any:
        """Return the model, the same weights in every form."""
        if (dtype, backend) not in self._built:
            model, tokenizer = self.family.build(attn_implementation=backend)
            self._built.setdefault("tokenizer", tokenizer)
            self._built[dtype, backend] = model.to(self.device, dtype)
        return self._built[dtype, backend]

    def inputs(self, kind: str, dtype: torch.dtype = torch.float32, side: str = "left") -> Any:
        """Return the inputs of a call, with pictures of their own for every mark."""
        return self.inputs_of(PROMPTS[kind], dtype, side)

    def inputs_of(
        self, prompts: Sequence[str], dtype: torch.dtype = torch.float32, side: str = "left"
    ) -> Any:
        """Return the inputs of a call; a family without videos, or images, gets the others."""
        (kind,) = self.family.media if len(self.family.media) == 1 else ("",)
        if kind:
            other = {"image": "<video>", "video": "<image>"}[kind]
            prompts = [prompt.replace(other, f"<{kind}>") for prompt in prompts]
        model = self.model()
        tokenizer = self._built["tokenizer"]
        height, width = self.family.frame_size
        size = max(height, width)
        marks = [sum(prompt.count(mark) for prompt in prompts) for mark in ("<video>", "<image>")]
        videos = [synthetic_video(N_FRAMES, size, seed=n) for n in range(marks[0])]
        images = [synthetic_video(1, size, seed=50 + n)[0] for n in range(marks[1])]
        tokenizer.padding_side = side
        try:
            inputs = self.family.inputs(
                model,
                tokenizer,
                prompts,
                [video[..., :height, :width] for video in videos],
                [image[..., :height, :width] for image in images],
            )
        finally:
            tokenizer.padding_side = "left"
        return {
            name: value.to(self.device, dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }


def identity_is_bit_equal(subject: _Subject) -> None:
    """The vanilla pipeline changes no bit of the logits, with images, videos and padding."""
    model = subject.model()
    for kind in PROMPTS:
        for side in ("left", "right"):
            inputs = subject.inputs(kind, side=side)
            expected = _logits(model, inputs)
            with attach(model, "vanilla"):
                found = _logits(model, inputs)
            real = inputs["attention_mask"].bool()
            expect(
                torch.equal(found[real], expected[real]), f"{kind}, padded {side}: logits differ"
            )


def identity_generates_the_same(subject: _Subject) -> None:
    """The vanilla pipeline changes no generated token."""
    model = subject.model()
    for kind in ("padded batch", "images and videos"):
        inputs = subject.inputs(kind)
        expected = _greedy(model, inputs)
        with attach(model, "vanilla"):
            expect(torch.equal(_greedy(model, inputs), expected), f"{kind}: tokens differ")


def shrinks_by_the_count(subject: _Subject) -> None:
    """The LLM reads exactly the tokens reported; callers still see their whole prompt."""
    model = subject.model()
    adapter = adapter_for(model)
    for kind in PROMPTS:
        inputs = subject.inputs(kind)
        full = inputs["attention_mask"].sum(1)
        seen: list[Tensor] = []
        with _watched(adapter.text_model, seen, "inputs_embeds"), attach(model, _random()) as done:
            output = _greedy(model, inputs)
        saved = torch.zeros_like(full)
        ids = adapter.token_ids
        for name in subject.family.media:
            clips = [
                (clip, left.realised)
                for clip, left in zip(done.clips, done.reduced, strict=True)
                if clip.layout.kind == name
            ]
            rows = (inputs["input_ids"] == ids[name]).nonzero()[:, 0].tolist()
            for clip, real in clips:
                saved[rows[0]] += clip.layout.n_placeholders - real.n_tokens - real.newline_tokens
                rows = rows[clip.layout.n_placeholders :]
                wanted = sum(-(-cells // 4) for cells in [_cells(clip)] * clip.layout.frames)
                expect(real.n_tokens == wanted, f"{kind}: kept {real.n_tokens}, not {wanted}")
        expect(
            seen[0].shape[1] == int((full - saved).max()), f"{kind}: the LLM read another number"
        )
        prompt = inputs["input_ids"]
        expect(torch.equal(output[:, : prompt.shape[1]], prompt), f"{kind}: the prompt changed")


def survivors_equal_masked_prompt(subject: _Subject) -> None:
    """At original positions, dropping tokens equals hiding them from attention, up to rounding."""
    model = subject.model(torch.float64)
    adapter = adapter_for(model)
    for kind in ("one video", "one image", "padded batch", "several in one prompt"):
        inputs = subject.inputs(kind, torch.float64)
        positions = _full_positions(model, inputs)
        with attach(model, _random(), positions="original") as done:
            found = _logits(model, inputs)
        layout = adapter.splice(inputs, done.clips, done.reduced, positions="original").layout
        mask = torch.zeros_like(inputs["attention_mask"])
        for row, columns in zip(mask, layout.source_column, strict=True):
            row[columns[columns >= 0]] = 1
        hidden = {**inputs, "attention_mask": mask}
        expected = _logits(model, hidden, position_ids=positions)
        columns = layout.source_column.clamp_min(0)[..., None].expand(-1, -1, found.shape[-1])
        real = layout.attention_mask.bool()
        expect_close(found[real], expected.gather(1, columns)[real], kind, SLACK)


def cache_equals_no_cache(subject: _Subject) -> None:
    """Greedy generation with a cache gives the tokens of generation without."""
    model = subject.model(torch.float64)
    for kind in ("padded batch", "images and videos"):
        inputs = subject.inputs(kind, torch.float64)
        for positions in ("contiguous", "original"):
            with attach(model, _random(), positions=positions):
                # By hand: with embedded prompts, generate(use_cache=False) caches all the same.
                same = torch.equal(_greedy(model, inputs), _greedy_by_hand(model, inputs))
            expect(same, f"{kind}, {positions}: whole passes give other tokens")


def batch_equals_singles(subject: _Subject) -> None:
    """A padded batch gives what its prompts give alone."""
    model = subject.model(torch.float64)
    prompts = PROMPTS["padded batch"]
    inputs = subject.inputs_of(prompts, torch.float64)
    for pipeline in (_random(), "aot-paper"):
        with attach(model, pipeline) as done:
            found, tokens = _logits(model, inputs), _greedy(model, inputs)
            reduced = list(done.reduced)
            for row, single in enumerate(_rows(subject, inputs, prompts)):
                alone = _logits(model, single)[0]
                expect_close(found[row, -len(alone) :], alone, f"row {row}", SLACK)
                index = done.reduced[0].token_index
                there = reduced[row * subject.family.views].token_index
                expect(torch.equal(index, there), f"row {row}: other tokens")
                answer = _greedy(model, single)[0, -N_GENERATED:]
                expect(torch.equal(answer, tokens[row, -N_GENERATED:]), f"row {row}: other answer")


def contiguous_positions(subject: _Subject) -> None:
    """With ``contiguous``, the rotary embedding sees 0, 1, 2, ... and then the generated tokens."""
    _check_positions(subject, "contiguous")


def original_positions(subject: _Subject) -> None:
    """With ``original``, it sees for every token what it sees in the unreduced prompt."""
    _check_positions(subject, "original")


def half_precision_is_finite(subject: _Subject) -> None:
    """Reduced runs in float16 and bfloat16 stay finite and in their dtype."""
    for dtype in (torch.float16, torch.bfloat16):
        model = subject.model(dtype)
        for kind in ("padded batch", "one image"):
            inputs = subject.inputs(kind, dtype)
            for pipeline in (_random(), load_pipeline("aot-paper", _QUARTER)):
                with attach(model, pipeline) as done:
                    found = _logits(model, inputs)
                    _greedy(model, inputs)
                expect(bool(torch.isfinite(found).all()), f"{dtype}, {kind}: not finite")
                expect(found.dtype == dtype, f"{dtype}: logits are {found.dtype}")
                expect(done.reduced[0].features.dtype == dtype, f"{dtype}: tokens changed dtype")


def backends_agree(subject: _Subject) -> None:
    """Attention backends (sdpa, eager, flash where it runs) lead to the same reduction."""
    backends = ["eager"]
    if subject.device != "cpu" and _has_flash():
        backends.append("flash_attention_2")
    reference = None
    for backend in ("sdpa", *backends):
        dtype = torch.bfloat16 if backend.startswith("flash") else torch.float32
        model = subject.model(dtype, backend)
        inputs = subject.inputs("padded batch", dtype)
        with attach(model, load_pipeline("aot-paper", _QUARTER)) as done:
            found = _logits(model, inputs)[:, -1]
        tokens = [each.token_index for each in done.reduced]
        if reference is None:
            reference = tokens, found
            continue
        if dtype == torch.float32:
            same = all(torch.equal(a, b) for a, b in zip(reference[0], tokens))
            expect(same, f"{backend} keeps other tokens than sdpa")
            expect_close(found, reference[1], backend, 1e-3)
        else:
            shared = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(reference[0], tokens)]
            expect(min(shared) > 0, f"{backend} keeps nothing of what sdpa keeps")


def nothing_is_left_behind(subject: _Subject) -> None:
    """After the context, and after an exception in it, the model is as it was."""
    model = subject.model()
    inputs = subject.inputs("images and videos")
    expected = _logits(model, inputs)
    before = _state(model)
    with attach(model, load_pipeline("aot-paper", _QUARTER)):
        _greedy(model, inputs)
        _logits(model, inputs)
    _expect_same_state(before, model)
    try:
        with attach(model, _Failing()):
            _greedy(model, inputs)
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("an exception of the pipeline was swallowed")
    _expect_same_state(before, model)
    expect(torch.equal(_logits(model, inputs), expected), "the model answers differently")


def nested_attach_refuses(subject: _Subject) -> None:
    """A second attach to the same model is a CapabilityError, and changes nothing."""
    model = subject.model()
    inputs = subject.inputs("one video")
    with attach(model, _random()) as done:
        try:
            with attach(model, "vanilla"):
                raise AssertionError("a second attach went through")
        except CapabilityError:
            pass
        _logits(model, inputs)
    expect(done.realised[0].retention_ratio < 1, "the first attach no longer reduces")


def gradients_flow(subject: _Subject) -> None:
    """A differentiable pipeline passes gradients to the pixels and to the word embeddings."""
    model = copy.deepcopy(subject.model()).train(False)
    for kind in ("one video", "one image"):
        inputs = subject.inputs(kind)
        (name,) = {"pixel_values_videos", "pixel_values"} & set(inputs)
        inputs[name].requires_grad_()
        model.zero_grad()
        with attach(model, load_pipeline("aot-paper", _QUARTER)):
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
        for what, value in (
            ("pixels", inputs[name]),
            ("word embeddings", model.get_input_embeddings().weight),
        ):
            gradient = value.grad
            expect(gradient is not None and bool(gradient.abs().sum() > 0), f"{kind}: {what}: none")


def answers_equal(subject: _Subject) -> None:
    """``answer_logits`` gives what the attached model says to each question about one clip."""
    model = subject.model(torch.float64)
    adapter = adapter_for(model)
    texts = ("Q <video> a?", "Q <video> what colour is it?")
    singles = [subject.inputs_of([text], torch.float64) for text in texts]
    pipeline = _random()
    with attach(model, pipeline) as done:
        expected = torch.stack([_logits(model, single)[0, -1] for single in singles])
    prompts = [single["input_ids"][0] for single in singles]
    found = adapter.answer_logits(done.clips[0], done.reduced[0], prompts)
    expect_close(found, expected.float(), "logits", SLACK)


def reduces_inside_the_llm(subject: _Subject) -> None:
    """A stage inside the LLM drops what it should; a padded batch gives what its prompts give."""
    model = subject.model(torch.float64)
    n_layers = len(adapter_for(model).text_model.layers)
    layer = n_layers - 1
    pipeline = load_pipeline(_fastv(layer))
    for kind in ("padded batch", "images and videos"):
        inputs = subject.inputs(kind, torch.float64)
        with attach(model, pipeline) as done:
            logits = _logits(model, inputs)
            schedule = list(done.layer_tokens)
        expect(bool(torch.isfinite(logits).all()), f"{kind}: not finite")
        n_prompts = len(inputs["input_ids"])
        expect(len(schedule) == n_prompts, f"{kind}: {len(schedule)} of {n_prompts} prompts seen")
        expect(any(row[-1] for row in schedule), f"{kind}: no visual token was seen")
        for counts in schedule:
            expect(len(counts) == n_layers, f"{kind}: {len(counts)} layers, not {n_layers}")
            expect(len(set(counts[:layer])) == 1, f"{kind}: tokens dropped too early: {counts}")
            half = round(counts[0] / 2)
            expect(counts[layer] == half, f"{kind}: {counts} is not {half} at layer {layer}")
    prompts = PROMPTS["padded batch"]
    inputs = subject.inputs_of(prompts, torch.float64)
    with attach(model, pipeline):
        found, tokens = _logits(model, inputs), _greedy(model, inputs)
        for row, single in enumerate(_rows(subject, inputs, prompts)):
            alone = _logits(model, single)[0, -1]
            expect_close(found[row, -1], alone, f"row {row}", SLACK)
            answer = _greedy(model, single)[0, -N_GENERATED:]
            expect(torch.equal(answer, tokens[row, -N_GENERATED:]), f"row {row}: other answer")


CHECKS: tuple[Callable[..., None], ...] = (
    identity_is_bit_equal,
    identity_generates_the_same,
    shrinks_by_the_count,
    survivors_equal_masked_prompt,
    cache_equals_no_cache,
    batch_equals_singles,
    contiguous_positions,
    original_positions,
    half_precision_is_finite,
    backends_agree,
    nothing_is_left_behind,
    nested_attach_refuses,
    gradients_flow,
    answers_equal,
    reduces_inside_the_llm,
)
"""In the order of the conformance matrix."""

_QUARTER = {"budget.retention_ratio": RATIO}


def _random() -> Any:
    return load_pipeline("random", _QUARTER)


def _fastv(layer: int) -> dict[str, Any]:
    reducer = {"name": "ranked", "ranker": "last-query", "schedule": {str(layer): 0.5}}
    return {
        "stages": {"pool": {"kind": "pool"}, "llm": {"kind": "llm", "reducer": reducer}},
    }


def _cells(clip: Any) -> int:
    rows, columns = clip.layout.grid
    return rows * columns


def _has_flash() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


@torch.no_grad()
def _logits(model: Any, inputs: Mapping[str, Tensor], **more: Any) -> Tensor:
    return model(**inputs, **more).logits


def _unwanted(model: Any) -> list[int]:
    """Tokens that a random model may say, but which would end or upset a dialogue."""
    ids = adapter_for(model).token_ids.values()
    return [model.generation_config.eos_token_id, *ids]


def _greedy(model: Any, inputs: Mapping[str, Tensor], **more: Any) -> Tensor:
    more = {"max_new_tokens": N_GENERATED, "suppress_tokens": _unwanted(model), **more}
    return model.generate(**inputs, do_sample=False, **more)


@torch.no_grad()
def _greedy_by_hand(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Greedy tokens, each from a whole forward pass over a prompt that grows."""
    grown = dict(inputs)
    for _ in range(N_GENERATED):
        logits = model(**grown, use_cache=False).logits[:, -1:]
        logits[..., _unwanted(model)] = -torch.inf
        token = logits.argmax(-1)
        grown["input_ids"] = torch.cat((grown["input_ids"], token), 1)
        grown["attention_mask"] = torch.cat((grown["attention_mask"], torch.ones_like(token)), 1)
        if "mm_token_type_ids" in grown:
            kinds = grown["mm_token_type_ids"]
            grown["mm_token_type_ids"] = torch.cat((kinds, torch.zeros_like(token).to(kinds)), 1)
    return grown["input_ids"]


def _rows(subject: _Subject, inputs: Mapping[str, Tensor], prompts: Sequence[str]) -> Iterator[Any]:
    """Yield the inputs of each prompt of a batch, with the very pictures that it has there."""
    for row, prompt in enumerate(prompts):
        single = subject.inputs_of([prompt], torch.float64)
        for name in ("pixel_values_videos", "pixel_values"):
            if name in single:  # every prompt has one picture, all of one size
                share = len(inputs[name]) // len(prompts)
                single[name] = inputs[name][row * share : (row + 1) * share]
        yield single


@contextmanager
def _watched(module: torch.nn.Module, seen: list[Tensor], name: str) -> Iterator[None]:
    """Collect what a module is given as ``name``, call by call."""
    hook = module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get(name, args[-1] if args else None)),
        with_kwargs=True,
    )
    try:
        yield
    finally:
        hook.remove()


def _rotary_positions(model: Any) -> tuple[list[Tensor], AbstractContextManager[None]]:
    seen: list[Tensor] = []
    rotary = adapter_for(model).text_model.rotary_emb
    return seen, _watched(rotary, seen, "position_ids")


def _axes(positions: Tensor) -> Tensor:
    """Return positions as (axes, rows, columns)."""
    return positions if positions.ndim == 3 else positions[None]


def _full_positions(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the position ids of the unreduced prompt, as the model's ``forward`` takes them."""
    counted = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    seen, watching = _rotary_positions(model)
    with watching:
        _logits(model, inputs)
    if seen[0].ndim == 2:  # plain positions: counted from the first real token
        return counted
    return torch.cat((counted[None], seen[0]))


def _check_positions(subject: _Subject, policy: str) -> None:
    model = subject.model()
    adapter = adapter_for(model)
    for kind in ("one video", "one image", "several in one prompt", "padded batch"):
        inputs = subject.inputs(kind)
        full = _axes(_full_positions(model, inputs))
        full = full[1:] if len(full) == 4 else full
        seen, watching = _rotary_positions(model)
        with attach(model, _random(), positions=policy) as done, watching:
            _greedy(model, inputs)
        layout = adapter.splice(inputs, done.clips, done.reduced, positions=policy).layout
        real = layout.attention_mask.bool()
        if policy == "contiguous":
            expected = (layout.attention_mask.cumsum(-1) - 1)[None].expand(len(full), -1, -1)
        else:
            expected = torch.stack([layout.take(axis, 0) for axis in full])
        found = _axes(seen[0])
        expect(
            all(torch.equal(axis[real], wanted[real]) for axis, wanted in zip(found, expected)),
            f"{kind}: other positions in the prompt",
        )
        expect(len(seen) == N_GENERATED, f"{kind}: {len(seen)} passes for {N_GENERATED} tokens")
        last = expected.amax((0, 2)) if policy == "original" else expected[0, :, -1]
        for step, later in enumerate(seen[1:], start=1):
            following = (last + step)[None, :, None].expand_as(_axes(later))
            expect(torch.equal(_axes(later), following), f"{kind}: other positions at step {step}")


class _Failing:
    """A pipeline that fails at work."""

    needs: frozenset[str] = frozenset()

    def run(self, tokens: Any, *, generator: Any = None, trace: bool = False) -> Any:
        raise ZeroDivisionError


def _state(model: Any) -> dict[str, Any]:
    """Everything that attach could leave behind on a model."""
    modules = dict(model.named_modules())
    return {
        "attributes": {name: set(vars(module)) for name, module in modules.items()},
        "hooks": {
            name: [len(each) for key, each in vars(module).items() if key.endswith("_hooks")]
            for name, module in modules.items()
        },
        "attention": {
            name: module.config._attn_implementation
            for name, module in modules.items()
            if hasattr(module, "config")
        },
        "methods": (model.forward, model.generate),
        "generation": model.generation_config.to_dict(),
        "rope_deltas": getattr(model.model, "rope_deltas", None),
    }


def _expect_same_state(before: Mapping[str, Any], model: Any) -> None:
    after = _state(model)
    for what, value in before.items():
        same = value is after[what] if isinstance(value, Tensor) else value == after[what]
        expect(bool(same), f"{what} differ from before")
