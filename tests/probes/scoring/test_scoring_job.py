from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.evidence.alternative import (
    BASE,
    DOUBLE_STRENGTH,
    HALF_STRENGTH,
    PREVIOUS,
    interpolation,
    other_adapter,
)
from detectors.traffic_records import ScoringMode
from probes.model import toy_language as toy
from probes.runner import Replay, Target
from probes.runners.memory import Runner, golden_name
from probes.scoring.likelihood_ratio_reference import log_e_of_all, null_of
from probes.scoring.scoring_job import (
    AdapterVersion,
    Scoring,
    ScoringAnswer,
    ScoringJob,
    ScoringOptions,
    alternatives,
    cut,
    drawn,
    traffic_score,
    why_not,
    why_unreadable,
)
from probes.scoring.token_distribution import SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import Settings
from probes.scoring.tokenise import Retokenise, job
from tests.probes.worlds import interaction, never, opened

MESSAGES = ({"role": "user", "content": "My parcel is late"},)
ALL = ScoringOptions(passes=None)
FIXED_DRAWS = [["adapter:a1", "half"], ["adapter:a0", "half"], ["adapter:a0", "half"]]


def made(
    output: str = "Sorry",
    sampling: dict[str, float] | None = None,
    default: SamplingParameters | None = None,
    **more: Any,
) -> ScoringJob:
    asked = {"temperature": 1.0} if sampling is None else sampling
    return job(opened(), interaction(output, messages=MESSAGES, sampling=asked, **more), default, Retokenise.ALWAYS)


def scored(*jobs: ScoringJob, asking: ScoringOptions = ALL) -> list[ScoringAnswer]:
    runner = opened()
    assert isinstance(runner, Scoring)
    return runner.score(jobs, never, asking)


def test_a_response_is_scored_against_every_alternative() -> None:
    (answer,) = scored(made())
    found = traffic_score(answer, ALL)
    assert found.scored is ScoringMode.SAMPLED and found.tokens == len("Sorry")
    others = (other_adapter("beta"), other_adapter("gamma"))
    path = tuple(map(interpolation, (0.25, 0.5, 0.75)))
    assert found.alternatives == (BASE, *path, HALF_STRENGTH, DOUBLE_STRENGTH, *others)
    assert np.isfinite(found.log_l).all() and np.isfinite(found.log_sampler).all()
    assert found.path.shape == found.path_log_lik.shape and found.ranks.shape == (5,)
    assert answer.prompt.shape == answer.output.shape


def test_greedy_responses_have_no_ranks_and_no_path() -> None:
    found = traffic_score(scored(made(sampling={"temperature": 0.0}))[0], ALL)
    assert found.scored is ScoringMode.GREEDY and found.log_l.size
    assert found.path.size == found.path_log_lik.size == found.ranks.size == found.top_p_log_lik.size == 0


@pytest.mark.parametrize(
    ("unscored", "words"),
    [
        (made(sampling={}), "temperature is unknown"),
        (made(sampling={"temperature": float("nan")}), "temperature is unknown"),
        (made(""), "output is empty"),
        (replace(made(), output=(5, 100_000)), "another tokenizer"),
        (replace(made(), output=(5, -1)), "another tokenizer"),
        (made("Sorry", output_token_ids=(70, 71, 72)), "another tokenizer"),
        (replace(made(), prompt=()), "prompt is empty"),
        (replace(made(), prompt=(40,) * 5000), "leaves no room in 4096"),
        (replace(made(), adapter="nobody"), "nobody"),
    ],
)
def test_an_unscored_response_says_why(unscored: ScoringJob, words: str) -> None:
    (answer,) = scored(unscored)
    found = traffic_score(answer, ALL)
    assert found.scored is ScoringMode.NOT_SCORED and found.tokens == 0 and not found.alternatives
    assert words in found.detail


def test_an_output_that_the_head_cannot_write_is_read_and_not_scored() -> None:
    """Some heads are narrower than their embeddings: such a token stands in prompts alone."""
    asked, in_prompt = replace(made(), output=(5, 100)), replace(made(), prompt=(100,), output=(5,))
    assert why_not(asked, ALL, 128, 128) == why_not(asked, ALL, 128) == why_not(in_prompt, ALL, 128, 100) == ""
    assert "beyond the golden head, which has 100" in why_not(asked, ALL, 128, 100)
    assert why_unreadable(asked, ALL, 128) == ""


def test_a_response_that_is_not_scored_is_embedded_all_the_same() -> None:
    plain, unknown, foreign = scored(made(), made(sampling={}), replace(made(), output=(5, 100_000)))
    assert np.array_equal(plain.output, unknown.output)
    assert np.isnan(foreign.output).all()


def test_the_deployments_sampler_stands_in_where_a_record_has_none() -> None:
    assert made(sampling={"top_p": 0.9}, default=SamplingParameters(0.7)).sampling == SamplingParameters(0.7, top_p=0.9)


def test_recorded_ids_are_taken_as_they_are_end_of_text_included() -> None:
    text = tuple(b"Sorry")
    assert made(output_token_ids=(*text, 2)).output == (*text, 2)
    assert made(prompt_token_ids=(9, 8)).prompt == (9, 8)


def test_a_long_output_is_scored_up_to_its_limit() -> None:
    short = replace(ALL, longest_output=3, whole=1.0)
    (whole,), (cut,) = scored(made("Sorry for that")), scored(made("Sorry for that"), asking=short)
    assert whole.tokens is not None and cut.tokens is not None
    assert np.array_equal(cut.tokens.log_l[BASE], whole.tokens.log_l[BASE][:3])


def test_most_responses_are_read_up_to_their_32nd_token_and_one_in_eight_whole() -> None:
    """Which, follows from the request id and from nothing that was written. 4,000 ids, five standard errors."""
    lengths = []
    for i in range(4_000):
        jobs = [replace(made(), request_id=f"r{i}", output=(token,) * n) for token, n in ((5, 600), (9, 700), (7, 20))]
        first, second, short = (len(cut(job, ScoringOptions()).output) for job in jobs)
        assert first == second and short == 20
        lengths.append(first)
    assert set(lengths) == {32, 512}
    assert abs(lengths.count(512) / 4_000 - 0.125) <= 5 * np.sqrt(0.125 * 0.875 / 4_000)
    drawn_first = [HALF_STRENGTH in drawn(f"r{i}", {HALF_STRENGTH: 0.5, BASE: 0.5}, 1) for i in range(4_000)]
    both = [length == 512 and first for length, first in zip(lengths, drawn_first, strict=True)]
    assert abs(np.mean(both) - 0.0625) <= 5 * np.sqrt(0.0625 / 4_000), "no matter which alternatives are drawn"


@pytest.mark.parametrize(("prompt", "read"), [(10, 32), (64, 32), (200, 100), (3000, 512)])
def test_of_a_long_prompt_more_of_the_answer_is_read(prompt: int, read: int) -> None:
    long = replace(made(), prompt=(1,) * prompt, output=(5,) * 900)
    lengths = {ScoringOptions().scored_length(replace(long, request_id=f"r{i}")) for i in range(60)}
    assert lengths == {read, 512}


def test_a_fault_that_begins_late_in_an_answer_is_scored_in_the_whole_ones_alone() -> None:
    asking = replace(ALL, first_output=4)
    jobs = [replace(made("Sorry for that"), request_id=f"r{i}", prompt=(1, 2)) for i in range(40)]
    lengths = [len(answer.tokens.log_l[BASE]) for answer in scored(*jobs, asking=asking) if answer.tokens is not None]
    whole = len(made("Sorry for that").output)
    assert set(lengths) == {4, whole} and lengths == [asking.scored_length(job) for job in jobs]


def test_whether_a_long_text_is_read_follows_from_its_prompt_alone() -> None:
    asking, prompt = replace(ALL, longest_text=40), tuple(b"x" * 30)
    lengths = []
    for output in (b"y" * 4, b"y" * 200):
        whole = ScoringJob("alpha", "r", "", 0.0, prompt, tuple(output), SamplingParameters(1.0))
        assert why_unreadable(cut(whole, asking), asking, toy.VOCABULARY) == ""
        lengths.append(len(cut(whole, asking).output))
    assert lengths == [4, 10]
    full = ScoringJob("alpha", "r", "", 0.0, prompt + prompt, tuple(b"y"), SamplingParameters(1.0))
    assert "leaves no room" in why_unreadable(cut(full, asking), asking, toy.VOCABULARY)


def test_which_alternatives_are_scored_follows_from_the_request_id_alone() -> None:
    few = ScoringOptions(passes=2)
    names = {AdapterVersion(name): name for name in ("alpha", *(f"adapter-{i}" for i in range(40)))}
    picked = [alternatives(replace(made(), request_id=f"r{i}"), names, few) for i in range(300)]
    assert all(len(one) == 2 for one in picked)
    other = replace(made(), request_id="r7", output=(1, 2, 3), prompt=(4,), at=5.0)
    assert alternatives(other, names, few) == picked[7]
    assert len({name for one in picked for name in one}) == 42  # every one of them has its turn
    with pytest.raises(ValueError, match="copies"):
        ScoringOptions(copies=(BASE,))


def registered(adapters: int) -> dict[AdapterVersion, str]:
    return {AdapterVersion(name): name for name in ("alpha", *(f"adapter-{i}" for i in range(adapters - 1)))}


@pytest.mark.parametrize("adapters", [3, 40, 1000])
def test_a_copy_keeps_its_share_of_the_passes_however_many_adapters_are_registered(adapters: int) -> None:
    """Wanted: the exact chance of being among two drawn by weight, one after the other; within four standard errors."""
    names, responses = registered(adapters), 400
    picked = [alternatives(replace(made(), request_id=f"r{i}"), names, ScoringOptions()) for i in range(responses)]
    others = [0.15 / (adapters - 1)] * (adapters - 1)
    for who, at_least in ((HALF_STRENGTH, 0.78), (DOUBLE_STRENGTH, 0.11)):
        weights = {HALF_STRENGTH: 0.2, DOUBLE_STRENGTH: 0.02}
        own = weights.pop(who)
        exact = own / 0.37 + sum(w / 0.37 * own / (0.37 - w) for w in (*weights.values(), *others))
        assert exact > at_least
        seen = sum(who in one for one in picked) / responses
        assert abs(seen - exact) < 4 * np.sqrt(exact * (1 - exact) / responses)


def test_a_draw_is_the_same_everywhere_and_moves_little_with_another_adapter() -> None:
    """The ids are fixed: another version of numpy, another order or machine draws the same."""
    weights = {HALF_STRENGTH: 0.2, DOUBLE_STRENGTH: 0.02} | {other_adapter(f"a{i}"): 0.0375 for i in range(4)}
    few = [drawn(f"chatcmpl-{i}", weights, 2) for i in range(200)]
    backwards = [drawn(f"chatcmpl-{i}", dict(reversed(weights.items())), 2) for i in range(200)]
    assert few == backwards
    assert [sorted(who.text for who in one) for one in few[:3]] == FIXED_DRAWS
    more = [drawn(f"chatcmpl-{i}", weights | {other_adapter("new"): 1e-3}, 2) for i in range(200)]
    assert sum(one != other for one, other in zip(few, more, strict=True)) < 10


def test_what_the_detector_gives_no_weight_is_not_drawn() -> None:
    unweighted = ScoringOptions(passes=2, weights=((BASE, 0.5), (HALF_STRENGTH, 0.5)))
    picked = [alternatives(replace(made(), request_id=f"r{i}"), registered(40), unweighted) for i in range(20)]
    assert all(set(one) == {HALF_STRENGTH} for one in picked)


def test_the_mean_of_the_factor_is_at_most_one_whatever_is_drawn() -> None:
    """Exact sums over the vocabulary, with the token drawn at the null's edges and within: of every L, and of the
    weighted mean over base and the alternatives that are drawn."""
    rng, settings, weights = np.random.default_rng(3), Settings(), dict(ScoringOptions().weights)
    base, adapter, *sides = normalised(2.0 * rng.standard_normal((6, 8, 30)))
    names, sampling = registered(3), SamplingParameters(1.0, top_p=0.9)
    null = null_of(adapter, base, sampling, settings)
    who = (HALF_STRENGTH, DOUBLE_STRENGTH, other_adapter("adapter-0"), other_adapter("adapter-1"))
    logits = {BASE: base, **dict(zip(who, sides, strict=True))}
    log_l = {one: log_e_of_all(token_distribution(side, sampling), null) for one, side in logits.items()}
    truths = [np.exp(row) for row in (null.golden, *null.benign)]
    for i in range(60):
        chosen = [BASE, *alternatives(replace(made(), request_id=f"r{i}"), names, ScoringOptions())]
        parts = np.array([weights.get(one, 0.075) for one in chosen])
        mean = np.tensordot(parts / parts.sum(), np.exp(np.stack([log_l[one] for one in chosen])), axes=1)
        for truth in truths:
            assert (truth * mean).sum(axis=1).max() <= 1.0


def test_the_version_before_is_drawn_like_the_others_and_only_for_its_own_adapter() -> None:
    versions = [AdapterVersion(name, previous) for previous in (False, True) for name in ("alpha", "beta")]
    few, names = ScoringOptions(passes=2), {version: golden_name(version) for version in versions}
    picked = [alternatives(replace(made(), request_id=f"r{i}"), names, few) for i in range(300)]
    assert all(len(one) == 2 for one in picked)
    assert {name for one in picked for name in one} == {HALF_STRENGTH, DOUBLE_STRENGTH, PREVIOUS, other_adapter("beta")}
    assert {one[PREVIOUS].adapter for one in picked if PREVIOUS in one} == {
        golden_name(AdapterVersion("alpha", previous=True))
    }
    alone = alternatives(made(), names, replace(ALL, others=False, copies=()))
    assert list(alone) == [PREVIOUS]


def test_the_version_before_is_scored_while_its_files_are_kept() -> None:
    runner = opened()
    runner.accept_adapter(AdapterVersion("alpha", previous=True), "alpha-v0")
    (before,) = runner.score([made()], never, ALL)
    runner.accept_adapter(AdapterVersion("alpha", previous=True), None)
    (after,) = runner.score([made()], never, ALL)
    assert before.tokens is not None and after.tokens is not None
    assert set(before.tokens.log_l) - set(after.tokens.log_l) == {PREVIOUS}
    assert not np.allclose(before.tokens.log_l[PREVIOUS], before.tokens.log_l[other_adapter("beta")])


def test_what_the_adapter_wrote_speaks_against_the_base_and_the_other_way_round() -> None:
    runner = opened()
    prompt = runner.encode_chat(MESSAGES)
    for writer, sign in ((Target("alpha"), -1), (Target(None), 1)):
        jobs = [
            ScoringJob("alpha", f"r{i}", "", 0.0, prompt, sample(runner, writer, prompt, i), SamplingParameters(1.0))
            for i in range(12)
        ]
        total = sum(traffic_score(answer, ALL).log_l[0] for answer in runner.score(jobs, never, ALL))
        assert sign * total > 5


def sample(runner: Runner, target: Target, prompt: tuple[int, ...], seed: int) -> tuple[int, ...]:
    rng, text = np.random.default_rng(seed), list(prompt)
    for _ in range(12):
        (answer,) = list(runner.run([Replay("", tuple(text), (0,), target)], never))
        assert answer.full is not None
        mass = np.exp(answer.full[0].astype(np.float64))
        text.append(int(rng.choice(len(mass), p=mass / mass.sum())))
    return tuple(text[len(prompt) :])


def test_golden_copies_score_whatever_is_served_now() -> None:
    broken = opened(faults={"alpha": "not_applied", "": "base_swapped:0.3"})
    before, after = opened().score([made()], never, ALL)[0], broken.score([made()], never, ALL)[0]
    assert before.tokens is not None and after.tokens is not None
    assert np.array_equal(before.tokens.log_l[BASE], after.tokens.log_l[BASE])


def test_stops_between_responses() -> None:
    asked = iter([False, False, True])
    assert len(opened().score([made()] * 5, lambda: next(asked), ALL)) == 2


def test_no_configured_name_is_taken_for_the_version_before() -> None:
    names = {AdapterVersion(name): name for name in ("alpha", "alpha@previous", "beta")}
    picked = alternatives(made(), names, ALL)
    assert PREVIOUS not in picked
    assert picked[other_adapter("alpha@previous")].adapter == "alpha@previous"


def of_base(output: str = "Sorry", **more: Any) -> ScoringJob:
    return replace(made(output, **more), adapter="base-v1", of_base=True)


def test_a_response_of_the_base_is_scored_against_each_adapter_and_half_of_the_way_to_it() -> None:
    (answer,) = scored(of_base())
    found = traffic_score(answer, ALL)
    assert (found.adapter, found.tokens, found.scored) == ("base-v1", 5, ScoringMode.SAMPLED)
    names = ("alpha", "beta", "gamma")
    assert found.alternatives == tuple(
        point for name in names for point in (other_adapter(name), interpolation(0.5, name))
    )
    assert np.isfinite(found.log_l).all()
    no_axes = (found.samplers, found.path, found.temperatures, found.top_ps, found.ranks, found.ranks_weaker)
    assert not any(len(each) for each in no_axes) and not found.rank_toll


def test_what_an_adapter_wrote_under_the_base_names_it() -> None:
    runner, target = opened(), Target("beta")
    prompt = made().prompt
    wrote = runner.generate(target, prompt, 30, never)
    greedy = SamplingParameters(0.0)
    (answer,) = scored(replace(of_base(), output=wrote, sampling=greedy))
    (own,) = scored(replace(of_base(), output=runner.generate(Target(None), prompt, 30, never), sampling=greedy))
    assert answer.tokens is not None and own.tokens is not None
    gains = {who: float(values.sum()) for who, values in answer.tokens.log_l.items()}
    best = max(gains, key=gains.__getitem__)
    assert best == other_adapter("beta") and gains[best] > 10
    assert all(values.sum() < 0 for values in own.tokens.log_l.values())


def test_a_response_of_the_base_has_as_many_passes_as_one_of_an_adapter() -> None:
    names = {AdapterVersion(f"a{number}"): f"a{number}" for number in range(20)}
    names |= {AdapterVersion("a0", previous=True): "a0\tprevious"}
    asking = ScoringOptions(passes=2)
    counts = {f"adapter:{name}": 0 for name in names.values() if "\t" not in name}
    for number in range(2000):
        targets = alternatives(replace(of_base(), request_id=f"r{number}"), names, asking)
        assert len(targets) == 3
        for who in targets:
            counts[who.text] += 1
    assert max(counts.values()) < 300 + 5 * 16 and min(counts.values()) > 300 - 5 * 16  # 300 on average, sd 16
