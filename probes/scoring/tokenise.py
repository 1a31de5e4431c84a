"""From a sampled interaction to a job: the token ids that are scored, or why they are not.

Recorded ids are what the engine drew. Where a record has none, the golden tokenizer makes them from the text. The bet
is then on the canonical ids of a text that the engine may have drawn in others (" un", "do" where the tokenizer says
" undo"). What that costs, and what is done about it (docs/mathematics.md#traffic-likelihood-ratio):

* A bet on ids that were not drawn has no bound: where the adapter writes a text in other ids, the canonical ones can be
  nearly impossible to it and likelier to an alternative. So a text is taken only where its ids decode to exactly it and
  are as many as the engine counted (``usage``). Others are set aside, which is a choice by what was written: if healthy
  responses are set aside with probability q, the mean of the factor rises to at most 1 + q. Each response that is taken
  therefore pays ``TOLL``, which makes that at most 1 again for every q up to ``SET_ASIDE``. Without a bound remain
  other ids of the same number. How many there are of both is counted by
  ``python -m benchmarks.traffic_evidence --part texts``. Engines that can record their ids should.
* The token that ended the answer is in no text. A bet that stops just before it has looked ahead to decide where to
  stop: summed over what an alternative writes, the adapter's chances of ending at each place can exceed 1 (it ends at
  each place with probability .5, the alternative with .01, and both write one letter: .5 / .01 = 50). So the end is
  scored too, wherever the record says that the model ended by itself (``ENDED``) or counts one token more than the text
  has.

A template may write the date (probes/model/chat_prompt.py). A prompt without recorded ids is rendered with the day on
which it was served, by UTC, in which engines run. An engine in another time zone writes another date for some hours of
each day, which only recorded ids would show. Around midnight a record's time does not determine the day (engines render
when a request comes, and some records have the time at which it ended): there the engine's count of prompt tokens
decides, where it can.

Where a request may cut its answer at stop strings, the place of the cut is a look ahead as well;
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
# Seconds before its record's time that a prompt may have been rendered (OpenAI's clients wait as long for an answer),
# and seconds after it (another machine's clock).
RENDERED_BEFORE, RENDERED_AFTER = 600.0, 60.0
EPOCH, A_DAY = date(1970, 1, 1), timedelta(days=1)
# Share of healthy responses that may be set aside because of their text without making the bet unfair, and its price.
SET_ASIDE = 0.1
TOLL = -math.log1p(-SET_ASIDE)


class Retokenise(StrEnum):
    """Which outputs without recorded ids are scored from their text.

    COUNTED is the right one nearly always, because nearly every engine counts its tokens. ALWAYS takes texts without a
    count too, and then nothing bounds what a bet may gain on a response that was drawn in other ids. NEVER takes none.
    """

    NEVER = "never"
    COUNTED = "counted"
    ALWAYS = "always"


def job(
    runner: Runner,
    interaction: Interaction,
    default: SamplingParameters | None = None,
    how: Retokenise = Retokenise.COUNTED,
) -> ScoringJob:
    """A sampled interaction as a job. Raises what a template raises.

    default: the deployment's sampler, for parameters that records leave out; where neither has a temperature the
    response stays unscored; how: which outputs without ids are scored from their text
    """
    prompt, why_not = (
        (interaction.prompt_token_ids, "") if interaction.prompt_token_ids else _prompt(runner, interaction)
    )
    output, why = (
        _recorded(runner, interaction) if interaction.output_token_ids else _from_text(runner, interaction, how)
    )
    return ScoringJob(
        adapter=interaction.adapter,
        request_id=interaction.request_id,
        pod=interaction.pod,
        at=interaction.at,
        prompt=prompt,
        output=output,
        sampling=sampling_of(interaction.sampling, default),
        unscored=interaction.unscored or why_not or why,
        toll=0.0 if interaction.output_token_ids else TOLL,
    )


def _prompt(runner: Runner, interaction: Interaction) -> tuple[tuple[int, ...], str]:
    """The prompt as the engine rendered it, and why that cannot be determined; "" where it can."""
    turns = [dict(turn) for turn in interaction.messages]
    # A template that writes no date gives the same for all of these.
    has_time = interaction.at > RENDERED_BEFORE
    days = _days(interaction.at) if has_time else (EPOCH, EPOCH + A_DAY)
    rendered = list(dict.fromkeys(runner.encode_chat(turns, Weights.GOLDEN, day) for day in days))
    counted = [prompt for prompt in rendered if has_time and len(prompt) == interaction.prompt_tokens]
    if len(rendered) == 1 or len(counted) == 1:
        return (counted or rendered)[0], ""
    when = "it was served around midnight" if has_time else "its record has no time"
    return rendered[-1], f"its chat template writes the date, and {when}: without token ids the date is unknown"


def _days(at: float) -> tuple[date, ...]:
    """Days by UTC on which its prompt may have been rendered: one, or two around midnight."""
    ends = (at - RENDERED_BEFORE, at + RENDERED_AFTER)
    return tuple(dict.fromkeys(datetime.fromtimestamp(end, UTC).date() for end in ends))


def _recorded(runner: Runner, interaction: Interaction) -> tuple[tuple[int, ...], str]:
    """The recorded ids, with the end token that the engine counts and does not record. Where they are another
    tokenizer's: the golden one's ids of the text, for the embedding, and the reason."""
    if _reads_as(runner.decode(interaction.output_token_ids, Weights.GOLDEN), interaction.output):
        if interaction.finish_reason not in ENDED or interaction.output_tokens != len(interaction.output_token_ids) + 1:
            return interaction.output_token_ids, ""
        end = runner.end_of_answer() if isinstance(runner, Scoring) else None
        return (
            (interaction.output_token_ids, "its token ids lack the one that ended it")
            if end is None
            else ((*interaction.output_token_ids, end), "")
        )
    ids = runner.encode(interaction.output, Weights.GOLDEN) if interaction.output else ()
    return ids, "its token ids are of another tokenizer: they do not decode to its text"


def _from_text(runner: Runner, interaction: Interaction, how: Retokenise) -> tuple[tuple[int, ...], str]:
    """The golden tokenizer's ids of the text, with the end token where one was written; why they cannot be scored."""
    ids = runner.encode(interaction.output, Weights.GOLDEN) if interaction.output else ()
    if not interaction.output and not interaction.output_tokens:
        return (), ""
    if how is Retokenise.NEVER or (how is Retokenise.COUNTED and not interaction.output_tokens):
        return ids, "its record has no token ids" + ("" if how is Retokenise.NEVER else ", and does not count them")
    if runner.decode(ids, Weights.GOLDEN) != interaction.output:
        return ids, "its tokens do not decode to its text"
    end = runner.end_of_answer() if isinstance(runner, Scoring) else None
    in_text = bool(ids) and ids[-1] == end  # an engine that does not skip special tokens
    ended = interaction.finish_reason in ENDED and not in_text
    missing = interaction.output_tokens - len(ids) if interaction.output_tokens else int(ended)
    if missing not in _possibly_missing(interaction.finish_reason, in_text):
        return ids, "its text does not tokenise to as many tokens as were written"
    if not missing:
        return ids, ""
    return (ids, "the token that ended it is unknown") if end is None else ((*ids, end), "")


def _possibly_missing(finish_reason: str, in_text: bool) -> tuple[int, ...]:
    """How many of the tokens that an engine counts may be missing in the text: the end token, where there is one. vLLM,
    SGLang and llama.cpp count it; a tolerance of one token would let other ids pass. in_text: is the end in it?"""
    if finish_reason in ENDED and not in_text:
        return (1,)
    return (0,) if finish_reason == "length" or in_text else (0, 1)


def _reads_as(decoded: str, text: str) -> bool:
    """Do ids decode to this text, apart from spaces, half a character at the end and special tokens after it?"""
    read, wanted = ("".join(side.split()).rstrip("\ufffd") for side in (decoded, text))
    return read.startswith(wanted) and read[len(wanted) : len(wanted) + 1] in ("", "<", "[")
