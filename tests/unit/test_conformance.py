"""The conformance suite accepts the built-ins (tests/property) and refuses what is broken."""

from dataclasses import replace

import pytest
import torch
from hypothesis import Phase
from profiles import examples

from tokenred import PluginError
from tokenred.interfaces import (
    Aggregator,
    AnchorSelector,
    BudgetAllocator,
    CostTerm,
    Coupler,
    FrameReference,
    KeepDecision,
    KeepScore,
    StaticRule,
    TemporalSegmenter,
    TokenGrouper,
)
from tokenred.slots import build, strategy_config
from tokenred.strategies.couplers import ExactCoupler, SinkhornConfig, SinkhornCoupler
from tokenred.testing import (
    _run,
    anchor_mask,
    known_problems,
    parametrize_checks,
    strategy_checks,
    video_tokens,
)
from tokenred.types import Coupling, Grouping, MergeWeights, Segments


@pytest.fixture(autouse=True)
def any_example_will_do(monkeypatch):
    """Nobody reads the examples that break what is broken, so they need not be small."""
    monkeypatch.setattr(_run, "PHASES", (Phase.generate,))
    monkeypatch.setattr(_run, "EXAMPLES", examples(40))


def broken(checks, like=""):
    """Return the names of the checks that do not hold, among those whose name contains ``like``."""
    names = set()
    for check in checks:
        if like not in check.name:
            continue
        try:
            check()
        except AssertionError:
            names.add(check.name)
    return names


class Nearest(Coupler):
    marginals = "source"

    def couple(self, cost, source_mass, anchor_mass):
        dtype = torch.promote_types(cost.dtype, torch.float32)
        real = cost.masked_fill((anchor_mass <= 0)[..., None, :], torch.inf)
        choice = torch.nn.functional.one_hot(real.argmin(-1), cost.shape[-1]).to(dtype)
        plan = choice * source_mass.to(dtype)[..., :, None]
        return Coupling.direct(self._change(plan, source_mass), cost, source_mass, anchor_mass)

    def _change(self, plan, source_mass):
        return plan


def coupler(change, **facts):
    return type("Broken", (Nearest,), {"_change": change, **facts})()


def test_the_unbroken_ones_are_accepted():
    assert broken(strategy_checks(Nearest())) == set()
    assert broken(strategy_checks(First())) == set()
    assert broken(strategy_checks(Average())) == set()
    assert broken(strategy_checks(Halves())) == set()
    assert broken(strategy_checks(CutsTokens())) == set()
    assert broken(strategy_checks(Previous())) == set()
    assert broken(strategy_checks(Still())) == set()
    assert broken(strategy_checks(ByNorm())) == set()
    assert broken(strategy_checks(FramesInOne())) == set()


def first_row_only(self, plan, mass):
    index = torch.arange(plan.shape[-2])
    return plan * (index == 0)[:, None]


def batch_mean(self, plan, mass):
    return plan.mean(0, keepdim=True).expand_as(plan) if plan.ndim == 3 else plan


def fill_padding(self, plan, mass):
    return torch.where((mass <= 0)[..., None], torch.full_like(plan, 0.1), plan)


@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        (coupler(lambda s, p, m: p - 0.01), "plan_is_non_negative_and_finite"),
        (coupler(lambda s, p, m: p / 0.0), "plan_is_non_negative_and_finite"),
        (coupler(lambda s, p, m: p * 0.9), "declared_marginals_hold_within_the_residual"),
        (
            coupler(lambda s, p, m: p, marginals="both"),
            "declared_marginals_hold_within_the_residual",
        ),
        (coupler(lambda s, p, m: p * 1.1, marginals="none"), "total_mass_is_kept"),
        (coupler(first_row_only), "permuting_sources_permutes_rows"),
        (coupler(lambda s, p, m: p.flip(-1)), "permuting_anchors_permutes_columns"),
        (coupler(batch_mean), "batch_equals_loop"),
        (coupler(lambda s, p, m: p.half()), "half_precision_is_computed_in_float32"),
        (coupler(lambda s, p, m: p.float()), "float64_stays_float64"),
        (coupler(fill_padding), "padding_neither_sends_nor_receives"),
        (coupler(lambda s, p, m: m.mul_(0.5)[..., None] * p), "inputs_are_left_alone"),
        (coupler(lambda s, p, m: p * torch.rand(())), "inputs_are_left_alone"),
        (coupler(lambda s, p, m: p * 0.5), "one_anchor_receives_what_is_sent"),
    ],
)
def test_a_broken_coupler_is_refused(subject, fault):
    assert fault in broken(strategy_checks(subject), fault)


def test_copies_are_fine_for_a_coupler_that_says_so():
    def copy(self, plan, mass):
        return (
            (mass > 0)[..., None]
            * mass[..., None].expand_as(plan)
            * (plan.sum(-2) > 0)[..., None, :]
        )

    assert broken(strategy_checks(coupler(copy, marginals="none")), "total_mass")
    assert not broken(strategy_checks(coupler(copy, marginals="none", copies=True)), "total_mass")
    twice = coupler(lambda s, p, m: 2 * p, marginals="none", copies=True)
    assert broken(strategy_checks(twice), "total_mass")
    assert broken(strategy_checks(coupler(copy, copies=True)), "total_mass")


def test_an_overstated_residual_is_refused():
    class Modest(SinkhornCoupler):
        def couple(self, cost, source_mass, anchor_mass, forbidden=None):
            found = super().couple(cost, source_mass, anchor_mass, forbidden)
            return type(found)(**{**vars(found), "residual": found.residual + 0.5})

    assert broken(strategy_checks(Modest(SinkhornConfig())), "marginals")


class First(AnchorSelector):
    """Select the first tokens that are alive."""

    needs = frozenset()

    def select(self, tokens, n_anchors, *, generator):
        return (~tokens.keep).float().argsort(dim=-1, stable=True)[:, :n_anchors]


def by_first_frame(tokens):
    """Rank the tokens of every frame by what they look like in the first one."""
    score = tokens.features[:1].sum(-1).expand_as(tokens.keep)
    return score.masked_fill(~tokens.keep, -torch.inf).argsort(dim=-1, descending=True, stable=True)


def by_distance_to_all(tokens):
    """Rank by the distance to the mean of all tokens, dropped ones among them."""
    score = (tokens.features - tokens.features.mean(1, keepdim=True)).norm(dim=-1)
    return score.masked_fill(~tokens.keep, -torch.inf).argsort(dim=-1, descending=True, stable=True)


def selector(choose):
    return type("Broken", (First,), {"select": choose})()


def first(self, tokens, n_anchors, *, generator):
    return First.select(self, tokens, n_anchors, generator=generator)


@pytest.mark.parametrize(
    ("choose", "fault"),
    [
        (lambda s, t, n, generator: first(s, t, n, generator=generator)[:, :1], "number"),
        (lambda s, t, n, generator: 0 * first(s, t, n, generator=generator), "number"),
        (lambda s, t, n, generator: first(s, t, n, generator=generator) - 1, "number"),
        (lambda s, t, n, generator: torch.arange(n).expand(len(t.keep), -1), "dropped"),
        (lambda s, t, n, generator: torch.rand(t.keep.shape).argsort(-1)[:, :n], "reproducible"),
        (lambda s, t, n, generator: torch.rand(t.keep.shape).argsort(-1)[:, :n], "generator"),
        (lambda s, t, n, generator: first(s, t, n, generator=generator).float(), "number"),
        (lambda s, t, n, generator: by_first_frame(t)[:, :n], "across"),
        (lambda s, t, n, generator: by_distance_to_all(t)[:, :n], "have_no_say"),
        (lambda s, t, n, generator: t.features.mul_(2).sum(-1).argsort(-1)[:, :n], "reproducible"),
    ],
)
def test_a_broken_selector_is_refused(choose, fault):
    assert broken(strategy_checks(selector(choose)), fault)


def test_fewer_anchors_are_fine_for_a_selector_that_says_so():
    half = selector(lambda s, t, n, generator: first(s, t, n, generator=generator)[:, : n // 2])
    assert broken(strategy_checks(half), "number")
    type(half).adaptive = True
    assert broken(strategy_checks(half)) == set()


def test_what_looks_across_frames_is_fine_if_it_says_so():
    def choose(self, tokens, n, *, generator):
        alive = replace(tokens, features=tokens.features * tokens.keep[..., None])
        return by_first_frame(alive)[:, :n]

    across = selector(choose)
    assert broken(strategy_checks(across)) == {"says_that_it_looks_across_frames"}
    type(across).looks_across_frames = True
    assert broken(strategy_checks(across)) == set()


def test_a_selector_may_keep_half_at_the_least():
    def choose(self, tokens, n, *, generator):
        if 2 * n < int(tokens.keep.sum(-1).max()):
            raise AssertionError("asked for too few")
        return first(self, tokens, n, generator=generator)

    half = selector(choose)
    assert broken(strategy_checks(half), "number")
    type(half).keeps_at_least = 0.5
    assert broken(strategy_checks(half)) == set()


def test_ragged_choices_are_padded_behind():
    tokens = video_tokens(2, (2, 3))
    answers = iter([[[3, 1], [5, -1]], [[3, 1], [-1, 5]], [[-1, -1], [-1, -1]]])
    ragged = selector(lambda s, t, n, generator: torch.tensor(next(answers)))
    assert anchor_mask(ragged, tokens, 2).nonzero().tolist() == [[0, 1], [0, 3], [1, 5]]
    with pytest.raises(AssertionError, match="padding before an index"):
        anchor_mask(ragged, tokens, 2)
    assert not anchor_mask(ragged, tokens, 2).any()


def test_anchor_mask_reads_indices_and_masks_alike():
    from tokenred.types import VisualTokens

    tokens = VisualTokens.of(torch.randn(2, 6, 3), (2, 3))
    by_index = anchor_mask(First(), tokens, 2)
    masks = selector(lambda s, t, n, generator: by_index)
    assert by_index.tolist() == [[True, True, False, False, False, False]] * 2
    assert torch.equal(anchor_mask(masks, tokens, 2), by_index)


class Average(Aggregator):
    merges = True

    def weights(self, coupling):
        total = 1 + coupling.plan.sum(-2)
        return MergeWeights(*self._change(1 / total, coupling.plan / total[..., None, :]))

    def _change(self, anchor, source):
        return anchor, source


@pytest.mark.parametrize(
    ("change", "merges", "fault"),
    [
        (lambda s, a, w: (a, 2 * w), True, "averages_stay_in_the_convex_hull"),
        (lambda s, a, w: (a + 0.1, w), True, "constant_features_stay_constant"),
        (lambda s, a, w: (a, w[..., :-1, :]), True, "weights_fit_the_coupling"),
        (lambda s, a, w: (a, w + 0.01), True, "massless_sources_do_not_count"),
        (lambda s, a, w: (a, w), False, "without_merging_anchors_stay"),
        (lambda s, a, w: (a * 0 + 1, w * 0), True, "without_merging_anchors_stay"),
    ],
)
def test_a_broken_aggregator_is_refused(change, merges, fault):
    subject = type("Broken", (Average,), {"_change": change, "merges": merges})()
    assert fault in broken(strategy_checks(subject), fault)


def test_sums_are_fine_for_an_aggregator_that_says_so():
    subject = type("Sum", (Average,), {"_change": lambda s, a, w: (a * 0 + 1, w)})()
    assert broken(strategy_checks(subject), "convex_hull")
    type(subject).averages = False
    assert broken(strategy_checks(subject)) == set()
    honest = type("Honest", (Average,), {"averages": False})()
    assert broken(strategy_checks(honest)) == {"weights_are_seen_not_to_sum_to_one"}


class Halves(TemporalSegmenter):
    static = True

    def segment(self, descriptors, *, frame_times=None):
        frames = len(descriptors)
        return Segments((0, frames) if frames == 1 else (0, frames // 2, frames))


class CutsTokens(Halves):
    """Cut before the first frame whose first token turns round."""

    static, reads = False, "tokens"

    def segment(self, descriptors, *, frame_times=None):
        frames = len(descriptors)
        same = (descriptors[1:, 0] * descriptors[:-1, 0]).sum(-1) > 0
        cuts = (~same).nonzero()[:1, 0].tolist()
        return Segments((0, *(cut + 1 for cut in cuts), frames))


def test_a_broken_segmenter_is_refused():
    class ShortByOne(Halves):
        def segment(self, descriptors, *, frame_times=None):
            return Segments((0, max(1, len(descriptors) - 1)))

    class SaysStatic(Halves):
        def segment(self, descriptors, *, frame_times=None):
            cut = 1 + int(descriptors.abs().sum() * 1000) % max(1, len(descriptors) - 1)
            return Segments(
                (0, len(descriptors)) if len(descriptors) == 1 else (0, cut, len(descriptors))
            )

    assert broken(strategy_checks(ShortByOne()), "every_length")
    assert broken(strategy_checks(SaysStatic())) == {"static_ignores_content"}


def test_a_broken_cost_term_is_refused():
    class Dot(CostTerm):
        def cost(self, sources, anchors):
            return sources.features @ anchors.features.mT

    class Cosine(CostTerm):
        def cost(self, sources, anchors):
            left, right = sources.features, anchors.features
            return (
                left @ right.mT / (left.norm(dim=-1)[..., None] * right.norm(dim=-1)[..., None, :])
            )

    class ByRank(CostTerm):
        needs = frozenset({"keys@-1"})

        def cost(self, sources, anchors):
            gap = (sources.rank[..., :, None] - anchors.rank[..., None, :]).abs()
            keys = torch.cdist(sources.cues["keys@-1"].float(), anchors.cues["keys@-1"].float())
            return self._change(gap + keys)

        def _change(self, cost):
            return cost

    class Sorted(ByRank):
        def _change(self, cost):
            return cost.sort(-1).values

    class Undeclared(ByRank):
        needs = frozenset({"pooler"})

    class SaysPairwise(ByRank):
        pairwise = True

        def _change(self, cost):
            return cost - cost.amin((-2, -1), keepdim=True)

    class SaysRepeats(ByRank):
        allows_repeats = True

        def _change(self, cost):
            return cost - cost.mean((-2, -1), keepdim=True)

    assert broken(strategy_checks(ByRank())) == set()
    assert broken(strategy_checks(SaysRepeats())) == {"repeats_change_no_price"}
    assert broken(strategy_checks(SaysPairwise())) == {"pairwise_prices_do_not_see_other_pairs"}
    assert broken(strategy_checks(Sorted())) == {"permuting_tokens_permutes_prices"}
    assert broken(strategy_checks(Undeclared()), "needs_cues_of_tokens")
    assert broken(strategy_checks(Dot()), "half_precision")
    assert broken(strategy_checks(Cosine()), "empty_features")


def test_a_broken_keep_rule_is_refused():
    class WrongEnd(KeepDecision):
        exact = True

        def decide(self, score, *, keep, n_keep):
            order = score.argsort(dim=-1, descending=keep == "low", stable=True)[..., :n_keep]
            return torch.zeros_like(score, dtype=torch.bool).scatter(-1, order, True)

    class Raw(KeepScore):
        keep = "low"

        def score(self, coupling):
            return coupling.plan.amax(-1) / coupling.plan.sum(-1)

    class BesideTheMean(KeepScore):
        keep = "low"

        def score(self, coupling):
            most = coupling.plan.amax(-1)
            return most - most.mean(-1, keepdim=True)

    assert broken(strategy_checks(WrongEnd())) == {"keeps_the_right_end"}
    assert "scores_padding_finitely" in broken(strategy_checks(Raw()))
    assert broken(strategy_checks(BesideTheMean())) == {"padding_changes_no_score"}


class Previous(FrameReference):
    def references(self, n_frames):
        return [max(0, t - 1) for t in range(n_frames)]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (lambda s, n: [0] * (n - 1), "answers_for_every_frame"),
        (lambda s, n: [0.0] * n, "answers_for_every_frame"),
        (lambda s, n: [min(t + 1, n - 1) for t in range(n)], "looks_back"),
        (lambda s, n: [0] * (n - 1) + [None], "loses_no_frame"),
        (lambda s, n: [int(torch.randint(0, t + 1, ())) for t in range(n)], "is_reproducible"),
    ],
)
def test_a_broken_reference_is_refused(answer, fault):
    assert fault in broken(strategy_checks(type("Broken", (Previous,), {"references": answer})()))


def test_a_released_reference_may_lose_frames_and_refuse_lengths():
    from tokenred import InputError

    class Pairs(FrameReference):
        def references(self, n_frames):
            if n_frames < 4:
                raise InputError("too short")
            return [t - t % 2 if t < n_frames - n_frames % 2 else None for t in range(n_frames)]

    assert broken(strategy_checks(Pairs()), "loses")
    Pairs.released = True
    assert broken(strategy_checks(Pairs())) == set()


class Still(StaticRule):
    def static(self, features):
        wide = features.float()
        gap = (wide[1:] - wide[:-1]).norm(dim=-1).amax(0)
        return self._change(gap <= 0.5 * wide.norm(dim=-1).amax(0), features)

    def _change(self, static, features):
        return static


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s, a, x: a.float(), "answers_for_every_place"),
        (lambda s, a, x: a[:-1], "answers_for_every_place"),
        (lambda s, a, x: a | (x.mul_(2) > 0).any(0).any(-1), "answers_for_every_place"),
        (lambda s, a, x: a & False, "stills_are_static"),
        (lambda s, a, x: a | True, "what_turns_round_is_not_static"),
        (lambda s, a, x: a & (torch.rand(a.shape) < 0.5), "is_reproducible"),
        (lambda s, a, x: a & (x.dtype == torch.float32), "works_in_half_precision"),
        (lambda s, a, x: a & ~(x == 0).all(-1).any(), "empty_features_are_accepted"),
    ],
)
def test_a_broken_static_rule_is_refused(change, fault):
    subject = type("Broken", (Still,), {"_change": change})()
    assert fault in broken(strategy_checks(subject), fault)


class ByNorm(BudgetAllocator):
    """Give frames with long tokens more."""

    needs = frozenset()
    rounding = "nearest"

    def allocate(self, tokens, n_anchors):
        norms = tokens.features.float().norm(dim=-1) * tokens.keep
        weight = norms.sum(-1) + 1e-6
        return self._change(n_anchors * weight / weight.mean(), tokens, n_anchors)

    def _change(self, given, tokens, n_anchors):
        return given


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s, g, t, n: g[:, None], "divides_what_there_is"),
        (lambda s, g, t, n: g + 1, "divides_what_there_is"),
        (lambda s, g, t, n: g.round().long(), "divides_what_there_is"),
        (lambda s, g, t, n: torch.cat([g[:1] + 2 * g.sum(), g[1:] - 2 * g.sum()]), "divides"),
        (
            lambda s, g, t, n: n * (w := t.features.float().norm(dim=-1).sum(-1)) / w.mean(),
            "dropped_tokens_have_no_say",
        ),
        (lambda s, g, t, n: g / t.keep.any(-1), "frames_without_tokens_are_accepted"),
        (lambda s, g, t, n: g * torch.rand(()), "is_reproducible"),
        (lambda s, g, t, n: g.to(t.features.dtype), "works_in_half_precision"),
    ],
)
def test_a_broken_allocator_is_refused(change, fault):
    subject = type("Broken", (ByNorm,), {"_change": change})()
    assert broken(strategy_checks(subject), fault)


def test_a_flag_that_depends_on_settings_is_checked_when_it_is_known():
    with pytest.raises(PluginError, match="rounding is one of 'nearest', 'floor', got 'up'"):
        type("Broken", (ByNorm,), {"rounding": "up"})
    subject = type("Broken", (ByNorm,), {"rounding": property(lambda self: "up")})()
    with pytest.raises(PluginError, match="rounding is one of"):
        next(iter(strategy_checks(subject)))()


class FramesInOne(TokenGrouper):
    """Average the living tokens of each frame into the first of them."""

    needs = frozenset()

    def group(self, tokens, *, generator):
        frames, n = tokens.keep.shape
        head = tokens.keep.int().argmax(-1) + torch.arange(frames) * n
        weights = torch.zeros(frames, frames, n)
        rows = torch.arange(frames)
        weights[rows, rows] = tokens.keep.float() / tokens.keep.sum(-1, keepdim=True)
        return Grouping(*self._change(head, weights.flatten(1), tokens, generator))

    def _change(self, head, weights, tokens, generator):
        return head, weights.to_sparse()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s, h, w, t, g: (h * 0 + h[0], w.to_sparse()), "heads_are_distinct_and_alive"),
        (lambda s, h, w, t, g: (h - h % t.keep.shape[1], w.to_sparse()), "heads_are_distinct"),
        (lambda s, h, w, t, g: (h + t.keep.numel(), w.to_sparse()), "heads_are_distinct"),
        (lambda s, h, w, t, g: (h[:0], w[:0].to_sparse()), "heads_are_distinct_and_alive"),
        (lambda s, h, w, t, g: (h, w), "map_is_finite_and_of_living_tokens"),
        (lambda s, h, w, t, g: (h, w[:, 1:].to_sparse()), "map_is_finite"),
        (lambda s, h, w, t, g: (h, (w + 0.01).to_sparse()), "map_is_finite_and_of_living_tokens"),
        (lambda s, h, w, t, g: (h, (w * torch.nan).to_sparse()), "map_is_finite"),
        (lambda s, h, w, t, g: turned(h, w, t.features.sum() > 0), "dropped_tokens_have_no_say"),
        (lambda s, h, w, t, g: (h, (w * torch.rand(())).to_sparse()), "is_reproducible"),
        (lambda s, h, w, t, g: turned(h, w, torch.rand(()) < 0.5), "draws_from_its_generator"),
        (lambda s, h, w, t, g: (h, w.to(t.features.dtype).to_sparse()), "half_precision"),
        (
            lambda s, h, w, t, g: (h, (w / t.features.var()).to_sparse()),
            "equal_tokens_are_accepted",
        ),
        (lambda s, h, w, t, g: (h, (2 * w).to_sparse()), "weights_of_a_group_sum_to_one"),
    ],
)
def test_a_broken_grouper_is_refused(change, fault):
    subject = type("Broken", (FramesInOne,), {"_change": change})()
    assert broken(strategy_checks(subject), fault)


def turned(head, weights, turn):
    return (head.flip(0), weights.flip(0).to_sparse()) if turn else (head, weights.to_sparse())


def test_sums_are_fine_for_a_grouper_that_says_so():
    facts = {"_change": lambda s, h, w, t, g: (h, (2 * w).to_sparse()), "averages": False}
    assert broken(strategy_checks(type("Sum", (FramesInOne,), facts)())) == set()


def test_video_tokens_bring_what_is_asked_for():
    needs = {
        "pooler",
        "keys@-1",
        "tower",
        "attention@0.2",
        "class-attention@3",
        "salience@-1",
        "mine",
    }
    tokens = video_tokens(3, (2, 4), needs=needs, cues={"mine": 2}, seed=4)
    assert {name: tuple(cue.shape[1:]) for name, cue in tokens.cues.items()} == {
        "pooler": (4,),
        "keys@-1": (8, 3),
        "tower": (8, 6),
        "attention@0.2": (8,),
        "class-attention@3": (8,),
        "salience@-1": (8,),
        "mine": (8, 2),
    }
    again = video_tokens(3, (2, 4), needs=["attention@0.2"], seed=4)
    assert torch.equal(again.cues["attention@0.2"], tokens.cues["attention@0.2"])
    assert not torch.equal(tokens.cues["attention@0.2"], tokens.cues["class-attention@3"])
    with pytest.raises(ValueError, match="name its width"):
        video_tokens(needs=["mine"])


@parametrize_checks(build(Coupler, strategy_config("coupler", "nearest")))
def test_the_decorator_gives_one_named_test_for_each_check(check, request):
    assert check.name in request.node.name
    check()


@pytest.mark.parametrize("problem", known_problems(), ids=lambda problem: problem.name)
def test_known_problems_know_their_answers(problem):
    exact = ExactCoupler().couple(problem.cost, problem.source_mass, problem.anchor_mass)
    assert float((exact.plan * problem.cost).sum()) == pytest.approx(problem.value, abs=1e-12)
    if problem.exact_plan is not None:
        torch.testing.assert_close(exact.plan, problem.exact_plan)
    if problem.entropic_plan is not None:
        config = SinkhornConfig(epsilon=0.3, max_iter=2000, tolerance=1e-12)
        plan = (
            SinkhornCoupler(config)
            .couple(problem.cost, problem.source_mass, problem.anchor_mass)
            .plan
        )
        torch.testing.assert_close(plan, problem.entropic_plan(0.3), atol=1e-9, rtol=1e-7)
