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
from probes.scoring.scoring_job import (
    AdapterVersion,
    Scoring,
    ScoringAnswer,
    ScoringJob,
    ScoringOptions,
    alternatives,
    cut,
    traffic_score,
    why_not,
    why_unreadable,
)
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.tokenise import Retokenise, job
from tests.probes.worlds import interaction, never, opened

MESSAGES = ({"role": "user", "content": "My parcel is late"},)
ALL = ScoringOptions(passes=None)


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
    short = replace(ALL, longest_output=3)
    (whole,), (cut,) = scored(made("Sorry for that")), scored(made("Sorry for that"), asking=short)
    assert whole.tokens is not None and cut.tokens is not None
    assert np.array_equal(cut.tokens.log_l[BASE], whole.tokens.log_l[BASE][:3])


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
