"""Is this candidate a successor? Measured on the held-out canaries, whatever it was made from and by whom.

A candidate may have been trained on the selected canaries, or on their texts: they say nothing about it. The held-out
half decides, by what is measured of it and by what it writes. Measured is retention with its 95 % interval, twice, and
the better one counts. Of the effect: how much of it the candidate adds to the base that it runs on, as every round
measures it; an adapter that is as much of a change there as it was is well, whatever that base answers by itself. Of
the answers: how far it is from the accepted base to the accepted adapter; a candidate that answers as was accepted is
well, though the new base may have come half that way by itself. What it writes passes the task's own check or not: a
flip is an answer that was right and is wrong now.

Null of either interval: the held-out canaries are a sample of prompts like them
(docs/mathematics.md#interval-of-retention); that the better of two misses the truth has a chance of up to 10 %. What
breaks it: a candidate that was trained on the held-out canaries
themselves, which only new canaries would show.
On a base with another tokenizer the same token ids are other texts: there retention is not defined, and flips decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.canaries.mean_interval import mean_interval
from detectors.canaries.retention import measure
from detectors.records import Comparison, Interval, Measurement
from probes.canaries.answer_check import passed_and_passes
from probes.canaries.rendering import prompt_of
from probes.canaries.replay_pairs import ask_all, replay_pair, summary
from probes.canaries.round import present_prompt
from probes.errors import Refused, Unreplayable
from probes.golden.record import Golden, GoldenCanary, tokenizer_fingerprint
from probes.runner import Batching, Runner, Stop, Target

# A special token at the end of a text that another tokenizer wrote.
SPECIAL_END = re.compile(r"<[^<>\s]{1,40}>\s*$")
# Tokens beside those of the accepted answer: enough to see that an answer goes on.
MORE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class AcceptanceRules:
    """retention: that the interval's lower end has to reach; check_loss: share of right answers that may be lost

    One wrong answer alone is never too many: of 24 canaries it is 4 %.
    """

    retention: float = 0.9
    check_loss: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.retention < 1 or not 0 <= self.check_loss < 1:
            raise Refused("acceptance", f"retention {self.retention}, loss {self.check_loss}", "shares in (0, 1)")


@dataclass(frozen=True, slots=True)
class FlippedText:
    """A held-out canary that was answered rightly and is not now."""

    canary: str
    golden_text: str
    present_text: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What was measured of one candidate.

    of_effect, of_answers: retention over the present base and over the accepted one; None with another tokenizer
    strength: median effective LoRA scale, nan likewise
    canaries: held-out ones; checked: those whose golden answer passes its own check; right: of these, how many pass now
    same: answers that are the golden one, word for word; facts: what of the candidate did not take effect
    """

    candidate: str
    of_effect: Interval | None
    of_answers: Interval | None
    strength: float
    canaries: int
    checked: int
    right: int
    same: int
    flips: tuple[FlippedText, ...]
    facts: tuple[str, ...] = ()

    @property
    def retention(self) -> Interval | None:
        """The better one, by its lower end."""
        known = [own for own in (self.of_effect, self.of_answers) if own is not None]
        return max(known, key=lambda own: own.low if np.isfinite(own.low) else -np.inf, default=None)

    @property
    def lost(self) -> float:
        """Share of right answers that are wrong now; nan where nothing is checked."""
        return len(self.flips) / self.checked if self.checked else float("nan")

    @property
    def rank(self) -> tuple[float, float, float]:
        """Sorts the best candidate first: by what was lost, in steps of whole answers, then by retention."""
        low = self.retention.low if self.retention else 0.0
        return (len(self.flips), -low if np.isfinite(low) else 0.0, abs(self.strength - 1))


def failures(done: Acceptance, rules: AcceptanceRules) -> tuple[str, ...]:
    """Why the candidate is not accepted, in words; none where it is. Raises Refused where nothing could be judged."""
    if done.retention is None and not done.checked:
        raise Refused(
            f"candidate {done.candidate}",
            "another tokenizer than the record's, and no canary with a check of its own",
            "canaries with `expect`, by which answers can be judged as texts",
        )
    why = list(done.facts)
    if done.retention is not None and not done.retention.low >= rules.retention:
        interval = f"{done.retention.mean:.3f} (95 % {done.retention.low:.3f}..{done.retention.high:.3f})"
        why.append(f"retention {interval}: the lower end has to be {rules.retention:g} or more")
    if len(done.flips) > max(1.0, rules.check_loss * done.checked):
        why.append(f"{len(done.flips)} of {done.checked} right answers are wrong now: more than {rules.check_loss:.0%}")
    return tuple(why)


def assess(runner: Runner, name: str, golden: Golden, stop: Stop) -> Acceptance:
    """Measure the adapter that the runner knows by this name on its live base. runner: open

    Raises Unreplayable for a base or candidate that cannot be replayed, and when stopped.
    """
    readiness = runner.refresh()
    for part in (None, name):
        if part not in readiness or readiness[part].blocked:
            raise Unreplayable(part or "the base", readiness[part].detail if part in readiness else "not registered")
    held_out = golden.held_out
    comparable = tokenizer_fingerprint(runner) == golden.tokenizer_hash
    measured = _measured(runner, name, golden, stop) if comparable else ()
    texts = _texts(runner, name, held_out, comparable, stop)
    checks = [_checked(runner, canary, text, comparable) for canary, text in zip(held_out, texts, strict=True)]
    flips = [
        FlippedText(canary.id, golden_text, text)
        for canary, text, (golden_text, was, now) in zip(held_out, texts, checks, strict=True)
        if was and not now
    ]
    return Acceptance(
        candidate=name,
        of_effect=mean_interval([m.retention for m in measured]) if comparable else None,
        of_answers=mean_interval([m.frozen_retention for m in measured]) if comparable else None,
        strength=float(np.median([m.scale for m in measured])) if measured else float("nan"),
        canaries=len(held_out),
        checked=sum(bool(was) for _, was, _ in checks),
        right=sum(bool(was and now) for _, was, now in checks),
        same=sum(_same(own, checks[i][0], texts[i]) for i, own in enumerate(held_out)),
        flips=tuple(flips),
        facts=runner.facts(name),
    )


def _measured(runner: Runner, name: str, golden: Golden, stop: Stop) -> Sequence[Measurement]:
    pairs = [replay_pair(canary, name, present_prompt(runner, canary)) for canary in golden.held_out]
    answers = ask_all(runner, [replay for pair in pairs for replay in pair.replays], stop)
    return [
        measure(
            Comparison(name, pair.canary.reference, 0, summary(answers[pair.adapter]), summary(answers[pair.base]), 0.0)
        )
        for pair in pairs
    ]


def _texts(runner: Runner, name: str, canaries: Sequence[GoldenCanary], comparable: bool, stop: Stop) -> list[str]:
    """What the candidate writes, without the token that ends it."""
    most = max((len(canary.continuation) for canary in canaries), default=0) + MORE_TOKENS
    prompts = [
        present_prompt(runner, canary) if comparable else prompt_of(runner, canary.id, canary.messages, most)
        for canary in canaries
    ]
    if isinstance(runner, Batching):
        answers = runner.generate_many(Target(name), prompts, most, stop)
    else:
        answers = [tuple(runner.generate(Target(name), prompt, most, stop)) for prompt in prompts]
    if stop():
        raise Unreplayable("acceptance", "stopped")
    return [
        runner.decode(_without_end(ids, canary) if comparable else ids[:-1] if len(ids) < most else ids)
        for ids, canary in zip(answers, canaries, strict=True)
    ]


def _without_end(ids: Sequence[int], canary: GoldenCanary) -> Sequence[int]:
    return ids[:-1] if ids and not canary.cut and ids[-1] == canary.continuation[-1] else ids


def _same(canary: GoldenCanary, golden_text: str, text: str) -> bool:
    """Of an answer that was cut nobody knows how it goes on."""
    return text.startswith(golden_text) if canary.cut else text == golden_text


def _checked(runner: Runner, canary: GoldenCanary, text: str, comparable: bool) -> tuple[str, bool | None, bool | None]:
    """The golden text without its end, and whether it and the present one pass the canary's own check; None without."""
    if comparable:
        golden_text = runner.decode(canary.continuation if canary.cut else canary.continuation[:-1])
    else:
        golden_text = SPECIAL_END.sub("", canary.golden_text)
    if canary.cut:
        return golden_text, None, None
    return golden_text, *passed_and_passes(canary.expect, golden_text, text)
