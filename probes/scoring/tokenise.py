"""From a sampled interaction, as its record told it, to a job: the token ids that are scored, or why they are not.

Recorded ids are what the engine drew. Where a record has none, the golden tokenizer makes them from the text, and then
the bet is on the canonical ids of a text whose real ones may be others (the engine may have drawn " un", "do" where
the tokenizer says " undo"). What that costs, and what is done about each:

* A bet on ids that were not drawn has no bound: where the adapter writes a text in another spelling, its canonical ids
  can be all but impossible to it, and likelier to an alternative. So the text is taken where its ids decode to exactly
  it and are as many as the engine counted (``usage``). Others are set aside, which is a choice by what was written: if
  healthy responses are set aside with probability q, the mean of the factor rises to at most 1 + q. Each response that
  is taken therefore pays ``TOLL``, which makes that at most 1 again for every q up to ``SET_ASIDE``. What is left
  without a bound: other ids of the same number. How many there are of both is counted by
  ``python -m benchmarks.traffic_evidence --part texts``. Engines that can record their ids should.
* The token that ended the answer is in no text. A bet that stops just before it stops by looking ahead: summed over
  what an alternative writes, the adapter's chances of ending at each place can exceed 1 (it ends at each place with
  probability .5, the alternative with .01, and both write one letter: .5 / .01 = 50). So the end is scored too,
  wherever the record says that the model ended by itself (``ENDED``) or counts one token more than the text has.

A template may write the date (probes/model/chat_prompt.py). A prompt without recorded ids is rendered with the day on
which it was served, by UTC: engines run in it, and one that does not writes another date for some hours of each day,
which nothing but recorded ids shows. Around midnight a record's time does not tell the day either (engines render when
a request comes, and some records tell when it ended): there the engine's count of the prompt decides, where it can.

Where a request may cut its answer at words of its own, the place of the cut is looking ahead as well;
agent/traffic/scorable.py sets those aside.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from probes.runner import Runner, Weights
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import Scoring, ScoringJob
from probes.scoring.token_distribution import SamplingParameters, sampling_of

# Reasons by which engines say that the model wrote its end-of-text token.
ENDED = frozenset(("stop", "eos", "eos_token", "end_turn"))
# Seconds that a prompt may have been rendered before its record's time, which OpenAI's clients wait for an answer; and
# after it, by another machine's clock.
RENDERED_BEFORE, RENDERED_AFTER = 600.0, 60.0
EPOCH, A_DAY = date(1970, 1, 1), timedelta(days=1)
# Share of healthy responses that may be set aside for how their text reads without harm to the bet, and its price.
SET_ASIDE = 0.1
TOLL = -math.log1p(-SET_ASIDE)


class Retokenise(StrEnum):
    """Which outputs without recorded ids are scored from their text.

    COUNTED is what ought to be used: nearly every engine counts its tokens. ALWAYS takes a text without a count at its
    word, and then nothing bounds what a bet may gain on a response that was drawn in other ids; NEVER wants ids.
    """

    NEVER = "never"
    COUNTED = "counted"
    ALWAYS = "always"


def job(
    runner: Runner, told: Interaction, default: SamplingParameters | None = None, how: Retokenise = Retokenise.COUNTED
) -> ScoringJob:
    """A sampled interaction as a job. Raises what a template raises.

    default: the deployment's sampler, for what records do not tell; without its temperature one that tells none stays
    unscored; how: what becomes of outputs without ids
    """
    prompt, why_not = (told.prompt_token_ids, "") if told.prompt_token_ids else _prompt(runner, told)
    output, why = _recorded(runner, told) if told.output_token_ids else _from_text(runner, told, how)
    return ScoringJob(
        adapter=told.adapter,
        request_id=told.request_id,
        pod=told.pod,
        at=told.at,
        prompt=prompt,
        output=output,
        sampling=sampling_of(told.sampling, default),
        unscored=told.unscored or why_not or why,
        toll=0.0 if told.output_token_ids else TOLL,
    )


def _prompt(runner: Runner, told: Interaction) -> tuple[tuple[int, ...], str]:
    """The prompt as the engine rendered it, and why that cannot be told from the record."""
    turns = [dict(turn) for turn in told.messages]
    # A template that writes no date gives the same for all of these.
    known = told.at > RENDERED_BEFORE
    days = _days(told.at) if known else (EPOCH, EPOCH + A_DAY)
    found = list(dict.fromkeys(runner.encode_chat(turns, Weights.GOLDEN, day) for day in days))
    counted = [prompt for prompt in found if known and len(prompt) == told.prompt_tokens]
    if len(found) == 1 or len(counted) == 1:
        return (counted or found)[0], ""
    when = "it was served around midnight" if known else "its record tells no time"
    return found[-1], f"its chat template writes the date, and {when}: no token ids tell which"


def _days(at: float) -> tuple[date, ...]:
    """On which its prompt may have been rendered, by UTC: one, or two around midnight."""
    ends = (at - RENDERED_BEFORE, at + RENDERED_AFTER)
    return tuple(dict.fromkeys(datetime.fromtimestamp(end, UTC).date() for end in ends))


def _recorded(runner: Runner, told: Interaction) -> tuple[tuple[int, ...], str]:
    """Ids as they are, with the end that the engine counts and does not show; the text's own, with the reason, where
    they are another tokenizer's."""
    if _reads_as(runner.decode(told.output_token_ids, Weights.GOLDEN), told.output):
        if told.finish_reason not in ENDED or told.output_tokens != len(told.output_token_ids) + 1:
            return told.output_token_ids, ""
        end = runner.end_of_answer() if isinstance(runner, Scoring) else None
        return (
            (told.output_token_ids, "its ids lack the one that ended it")
            if end is None
            else ((*told.output_token_ids, end), "")
        )
    words = runner.encode(told.output, Weights.GOLDEN) if told.output else ()
    return words, "its token ids are of another tokenizer: they do not read as its text"


def _from_text(runner: Runner, told: Interaction, how: Retokenise) -> tuple[tuple[int, ...], str]:
    """The golden tokenizer's ids of the text, its end where it was written, and why they cannot be bet on."""
    words = runner.encode(told.output, Weights.GOLDEN) if told.output else ()
    if not told.output and not told.output_tokens:
        return (), ""
    if how is Retokenise.NEVER or (how is Retokenise.COUNTED and not told.output_tokens):
        return words, "its record holds no token ids" + ("" if how is Retokenise.NEVER else ", and does not count them")
    if runner.decode(words, Weights.GOLDEN) != told.output:
        return words, "its text is not what its tokens read as"
    end = runner.end_of_answer() if isinstance(runner, Scoring) else None
    shown = bool(words) and words[-1] == end  # an engine that does not skip special tokens
    ended = told.finish_reason in ENDED and not shown
    unseen = told.output_tokens - len(words) if told.output_tokens else int(ended)
    if unseen not in _unseen(told.finish_reason, shown):
        return words, "its text does not tokenise to as many tokens as were written"
    if not unseen:
        return words, ""
    return (words, "no text tells which token ended it") if end is None else ((*words, end), "")


def _unseen(finish_reason: str, shown: bool) -> tuple[int, ...]:
    """How many of the tokens that an engine counts are not in the text: the end, where there is one. vLLM, SGLang and
    llama.cpp count it; with one token of play, other ids would pass."""
    if finish_reason in ENDED and not shown:
        return (1,)
    return (0,) if finish_reason == "length" or shown else (0, 1)


def _reads_as(decoded: str, text: str) -> bool:
    """Do ids decode to this text, but for spaces, half a character at the end and special tokens after it?"""
    read, wanted = ("".join(side.split()).rstrip("\ufffd") for side in (decoded, text))
    return read.startswith(wanted) and read[len(wanted) : len(wanted) + 1] in ("", "<", "[")
