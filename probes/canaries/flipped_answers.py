"""Flips: the worst canaries of a round, generated greedily again, with golden and present text where the two differ.

They illustrate a verdict and decide nothing. An answer that was cut at enrolment is compared as far as it was recorded;
what the canary's own check requires of a whole answer says nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from detectors.records import Measurement, Round
from probes.canaries.answer_check import passed_and_passes
from probes.canaries.round import present_prompt
from probes.errors import ProbeError
from probes.golden.record import Golden, GoldenCanary, Unmonitorable
from probes.runner import Runner, Stop, Target


class FlippedAnswer(NamedTuple):
    """A canary whose greedy answer is no longer the golden one. retention: the canary's, in the round it is taken from.

    golden_passes, present_passes: does either text pass the canary's own check (probes/canaries/answer_check.py)? None
    where it has none, and where the golden answer is cut
    """

    canary: str
    prompt: str
    golden_text: str
    present_text: str
    retention: float
    golden_passes: bool | None = None
    present_passes: bool | None = None


def with_worst(round: Round, count: int) -> Round:
    """The round with its worst canaries alone, furthest from their golden strength first: all that ``flips`` reads."""
    return replace(round, measurements=tuple(sorted(round.measurements, key=damage, reverse=True)[:count]), raw=())


def flips(
    runner: Runner, round: Round, goldens: Mapping[str, Golden | Unmonitorable], worst: int, stop: Stop
) -> list[FlippedAnswer]:
    """Of the worst canaries of a round, those whose text has changed.

    worst: how many to generate, furthest from their golden strength first. The list is cut short when it is stopped or
    the files are gone.
    """
    golden = goldens.get(round.adapter)
    if not isinstance(golden, Golden):
        return []
    canaries = {canary.id: canary for canary in golden.canaries}
    flipped = []
    for measurement in with_worst(round, worst).measurements:
        if stop():
            break
        canary = canaries.get(measurement.comparison.reference.canary)
        if canary is None:  # another record was accepted since
            continue
        try:
            flip = _flip(runner, canary, measurement, stop)
        except ProbeError:
            break
        if flip.present_text != canary.golden_text:
            flipped.append(flip)
    return flipped


def _flip(runner: Runner, canary: GoldenCanary, measurement: Measurement, stop: Stop) -> FlippedAnswer:
    # As many tokens as the golden answer and a few more: enough to see that the answer differs, and how. Of one that
    # was cut nobody knows how it goes on.
    limit = len(canary.continuation) + (0 if canary.cut else 16)
    target = Target(measurement.comparison.adapter)
    ids = runner.generate(target, present_prompt(runner, canary), limit, stop)
    prompt, golden_text, present_text = canary.prompt_text, canary.golden_text, runner.decode(ids)
    return FlippedAnswer(
        canary.id, prompt, golden_text, present_text, measurement.retention, *_checks(runner, canary, ids)
    )


def _checks(runner: Runner, canary: GoldenCanary, ids: Sequence[int]) -> tuple[bool | None, bool | None]:
    """Do the golden and the present answer pass the canary's own check? None and None where it has none, or is cut."""
    if canary.cut:
        return None, None
    end = canary.continuation[-1]
    return passed_and_passes(canary.expect, *(_text(runner, tokens, end) for tokens in (canary.continuation, ids)))


def _text(runner: Runner, ids: Sequence[int], end: int) -> str:
    """The text without its end-of-text token, as checks expect it. end: the token that ended the golden answer."""
    return runner.decode(ids[:-1] if ids and ids[-1] == end else ids)


def damage(measurement: Measurement) -> float:
    """Far from strength 1 in either direction, or far off the adapter's own direction."""
    return float(max(abs(measurement.scale - 1), measurement.distortion**0.5))
