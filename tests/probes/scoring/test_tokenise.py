"""From a record to the token ids that are scored: as recorded, or from the text where those must be the drawn ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest

from detectors.traffic_records import ScoringMode
from probes.model import toy_language as toy
from probes.runner import Target, Weights
from probes.runners.memory import Config, Runner
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import ScoringJob, ScoringOptions, traffic_score
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.tokenise import SET_ASIDE, TOLL, Retokenise, job
from tests.probes.worlds import ADAPTERS, interaction, never, opened

TEXT = "Sorry"
IDS = tuple(TEXT.encode())


def told(output: str = TEXT, **more: Any) -> Interaction:
    return interaction(output, messages=({"role": "user", "content": "late"},), **more)


class Loose(Runner):
    """Its tokens decode to another text than they were made from, as those of some tokenizers do."""

    def decode(self, ids: Any, weights: Weights = Weights.LIVE) -> str:
        return super().decode(ids, weights).lower()


def made(how: Retokenise = Retokenise.COUNTED, output: str = TEXT, **more: Any) -> ScoringJob:
    return job(opened(), told(output, **more), how=how)


@pytest.mark.parametrize(
    ("count", "finish_reason", "output"),
    [
        (6, "stop", (*IDS, toy.END)),
        (6, "", (*IDS, toy.END)),
        (5, "", IDS),
        (5, "length", IDS),
    ],
)
def test_a_text_of_as_many_tokens_as_were_written_is_scored_with_its_end(
    count: int, finish_reason: str, output: tuple[int, ...]
) -> None:
    found = made(output_tokens=count, finish_reason=finish_reason)
    assert (found.output, found.unscored, found.toll) == (output, "", TOLL)


@pytest.mark.parametrize(("count", "finish_reason"), [(4, "stop"), (5, "stop"), (7, "stop"), (6, "length"), (7, "")])
def test_a_text_of_another_number_of_tokens_is_set_aside_and_embedded(count: int, finish_reason: str) -> None:
    found = made(output_tokens=count, finish_reason=finish_reason)
    assert found.unscored == "its text does not tokenise to as many tokens as were written"
    (answer,) = opened().score([found], never, ScoringOptions())
    assert traffic_score(answer, ScoringOptions()).scored is ScoringMode.NOT_SCORED and np.isfinite(answer.output).all()


def test_a_text_that_its_tokens_do_not_decode_to_is_set_aside() -> None:
    loose = Loose(opened().config)
    loose.open()
    assert job(loose, told(output_tokens=5)).unscored == "its tokens do not decode to its text"


def test_without_a_count_it_is_the_configuration_that_decides() -> None:
    assert made().unscored == "its record has no token ids, and does not count them"
    assert made(Retokenise.ALWAYS).unscored == ""
    assert made(Retokenise.NEVER, output_tokens=5).unscored == "its record has no token ids"
    assert made(Retokenise.NEVER, output_token_ids=IDS).unscored == ""


def test_an_empty_answer_that_was_ended_is_its_end() -> None:
    assert made(output="", output_tokens=1, finish_reason="stop").output == (toy.END,)
    assert made(output="", finish_reason="stop").output == ()


def test_recorded_ids_pay_nothing_and_text_pays_the_toll() -> None:
    recorded = made(output_token_ids=(*IDS, toy.END))
    from_text = made(output_tokens=6, finish_reason="stop")
    one, other = (
        traffic_score(answer, ScoringOptions())
        for answer in opened().score([recorded, from_text], never, ScoringOptions())
    )
    assert np.allclose(one.log_l - other.log_l, TOLL, atol=1e-6)
    assert np.allclose(one.log_sampler - other.log_sampler, TOLL, atol=1e-6)
    assert one.detail == "" and "token ids of its text" in other.detail


def test_an_end_that_is_counted_and_not_among_the_ids_is_scored_all_the_same() -> None:
    assert made(output_token_ids=IDS, output_tokens=6, finish_reason="stop").output == (*IDS, toy.END)
    assert made(output_token_ids=IDS, output_tokens=5, finish_reason="length").output == IDS
    assert made(output_token_ids=(*IDS, toy.END), output_tokens=6, finish_reason="stop").output == (*IDS, toy.END)


def test_what_the_record_said_comes_before_what_its_tokens_say() -> None:
    assert made(unscored="the request biases tokens (logit_bias)", output_tokens=9).unscored.startswith("the request")


def test_the_toll_pays_for_what_is_set_aside() -> None:
    """Worst case: the alternative would have written all that is kept, and the rest counts as 1."""
    for share in (0.0, SET_ASIDE / 2, SET_ASIDE):
        assert math.exp(-TOLL) * 1.0 + share <= 1.0 + 1e-12


def test_ids_are_read_by_the_golden_tokenizer() -> None:
    asked: list[Weights] = []

    class Watched(Runner):
        def decode(self, ids: Any, weights: Weights = Weights.LIVE) -> str:
            asked.append(weights)
            return super().decode(ids, weights)

    runner = Watched(opened().config)
    runner.open()
    job(runner, told(output_token_ids=IDS))
    job(runner, told(output_tokens=5))
    assert asked == [Weights.GOLDEN] * 2


def test_a_default_without_a_temperature_gives_the_other_parameters() -> None:
    part = SamplingParameters(math.nan, top_p=0.8, top_k=20)
    assert job(opened(), told(output_tokens=5), part).sampling == SamplingParameters(1.0, top_p=0.8, top_k=20)
    assert job(opened(), replace(told(output_tokens=5), sampling={}), part).sampling is None


def test_the_end_of_an_answer_is_what_the_writer_ends_with() -> None:
    runner = opened()
    prompt = runner.encode_chat([{"role": "user", "content": "late"}])
    written = runner.generate(Target("alpha", Weights.GOLDEN), prompt, 200, never)
    assert written[-1] == runner.end_of_answer()


class Dated(Runner):
    """Its template writes the day of the month."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        return super().encode_chat([{"role": "system", "content": str(day and day.day)}, *messages], weights)


A_DAY = 86_400.0
NOON = datetime(2025, 4, 9, 12, tzinfo=UTC).timestamp()
MIDNIGHT = NOON + A_DAY / 2


def on(at: float, **more: Any) -> ScoringJob:
    runner = Dated(Config(adapters=dict(ADAPTERS)))
    runner.open()
    return job(runner, told(output_tokens=5, at=at, **more))


def day_of(made: ScoringJob) -> str:
    return opened().decode(made.prompt).partition("system\n")[2].partition("<")[0]


def test_a_prompt_is_rendered_with_the_day_on_which_it_was_served() -> None:
    assert [day_of(on(NOON + days * A_DAY)) for days in (0, 1, 30)] == ["9", "10", "9"]
    assert {on(NOON + days * A_DAY).unscored for days in (0, 1, 30)} == {""}


@pytest.mark.parametrize("minutes", [-0.5, 0.5, 9])
def test_around_midnight_the_engines_count_of_the_prompt_determines_the_day(minutes: float) -> None:
    before, after = len(on(NOON).prompt), len(on(NOON + A_DAY).prompt)
    assert after == before + 1
    around = MIDNIGHT + 60 * minutes
    assert day_of(on(around, prompt_tokens=before)) == "9"
    assert day_of(on(around, prompt_tokens=after)) == "10"
    assert on(around, prompt_tokens=before).unscored == on(around, prompt_tokens=after).unscored == ""
    for counted in (0, after + 1):
        assert (
            "served around midnight: without token ids the date is unknown"
            in on(around, prompt_tokens=counted).unscored
        )


def test_around_midnight_a_count_that_both_days_have_determines_nothing() -> None:
    around = MIDNIGHT + A_DAY  # the 10th and the 11th
    assert "served around midnight" in on(around, prompt_tokens=len(on(around).prompt)).unscored


@pytest.mark.parametrize("minutes", [-2, 11])
def test_a_few_minutes_from_midnight_the_day_is_known(minutes: float) -> None:
    assert on(MIDNIGHT + 60 * minutes).unscored == ""


def test_recorded_ids_need_no_day_and_a_record_without_a_time_has_none() -> None:
    assert on(MIDNIGHT, prompt_token_ids=(1, 2)).prompt == (1, 2)
    assert on(MIDNIGHT, prompt_token_ids=(1, 2)).unscored == ""
    assert "its record has no time" in on(0.0, prompt_tokens=len(on(NOON).prompt)).unscored
    assert job(opened(), told(output_tokens=5, at=MIDNIGHT)).unscored == ""
