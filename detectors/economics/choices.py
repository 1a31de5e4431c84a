"""Keep, pin the old base, rebuild, prompt the new base with examples, or retire: what does each cost, and which is the
cheapest that does the task? Pure arithmetic over measured amounts and a form of assumptions; nothing is estimated here.

    total = one-off + horizon * (daily + requests a day * (1 - right) * what a wrong answer costs)

A choice is eligible where it does the task: the adapter unless it was found lost; retiring where the base was found to
pass alone (detectors/economics/worth.py, with its guarantee); a prompt with examples where it answers as many rightly,
less the margin, on the canaries that were put to it: with so few of them that is a proposal and no finding. Of eligible
choices the one with the least total is the verdict; of equal ones the one that changes least.

Break-even: the requests a day from which on the adapter costs less than the same task done by the base with examples,
    N = (its daily cost) / (what it saves a request),   saves = tokens that it spares + right answers that it adds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from detectors.economics.worth import Worth

DAYS_A_YEAR = 365.0
HOURS_A_DAY = 24.0
# Factors by which an assumption is varied: is the verdict still the same with half or with four times of it?
FACTORS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


class Kind(StrEnum):
    """What may be done. In the order of how much changes; values are read by programs: they stay."""

    KEEP = "keep"
    PIN = "pin"
    REBUILD = "rebuild"
    PROMPT = "prompt"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True)
class Assumptions:
    """The form that a manager fills in; the table says which are defaults. Days are of a person.

    curation_days: of the training data; failed_runs: trainings before the one that was used; run_gpu_hours: of one
    deployment_days: until it serves; upkeep_days_year: of whoever owns it: reviews, canaries, pages
    rebuild_days, rebuild_gpu_hours: of a successor from the golden record (``gapwatch rebuild``)
    prompt_days: to write and test a prompt with examples; removal_days: to take an adapter out of serving
    pin_gpus: cards that serve the old base beside the new one
    wrong_answer: what one costs, in the currency of the prices; 0: only whether the task is done counts
    horizon_days: over which costs are added up
    """

    curation_days: float = 5.0
    failed_runs: float = 3.0
    run_gpu_hours: float = 2.0
    deployment_days: float = 2.0
    upkeep_days_year: float = 6.0
    rebuild_days: float = 1.0
    rebuild_gpu_hours: float = 1.0
    prompt_days: float = 1.0
    removal_days: float = 0.5
    pin_gpus: float = 1.0
    wrong_answer: float = 0.0
    horizon_days: float = 365.0


@dataclass(frozen=True, slots=True)
class Examples:
    """The base with so many examples in its prompt. right: share of right answers; extra_tokens: of one request"""

    count: int
    right: float
    extra_tokens: float


@dataclass(frozen=True, slots=True)
class Situation:
    """What was measured of one adapter, with prices. Money is in one currency.

    worth: as found; *_right: shares of right answers, of the adapter as accepted, of it and of its base now
    adapter_held_out: share on the canaries that the examples were tried on, nan where none were
    requests: a day; watch_day: cost of the watch a day; input_token, gpu_hour, person_day: prices of one
    rebuildable: from the golden record; else a rebuild is a training from its data with all that belongs to it
    margin: share of right answers that may be lost
    """

    worth: Worth
    accepted_right: float
    adapter_right: float
    base_right: float
    requests: float
    watch_day: float
    input_token: float
    gpu_hour: float
    person_day: float
    examples: tuple[Examples, ...] = ()
    adapter_held_out: float = math.nan
    rebuildable: bool = True
    margin: float = 0.1


@dataclass(frozen=True, slots=True)
class Choice:
    """one_off: money once; daily: a day; right: share of right answers; eligible: does it do the task?

    examples: in the prompt, of PROMPT; total: over the horizon, wrong answers included
    """

    kind: Kind
    one_off: float
    daily: float
    right: float
    eligible: bool
    total: float
    examples: int = 0


@dataclass(frozen=True, slots=True)
class Decider:
    """An assumption that another verdict hangs on. factor: by which it may be multiplied until the verdict changes"""

    name: str
    value: float
    factor: float
    verdict: Kind


def true_cost(form: Assumptions, gpu_hour: float, person_day: float) -> float:
    """Of an adapter made from its data: curation, every run and not the last alone, deployment."""
    runs = (1.0 + form.failed_runs) * form.run_gpu_hours * gpu_hour
    return (form.curation_days + form.deployment_days) * person_day + runs


def choices(now: Situation, form: Assumptions) -> tuple[Choice, ...]:
    """All of them, in the order of ``Kind``, prompts by their examples."""
    upkeep = now.watch_day + form.upkeep_days_year * now.person_day / DAYS_A_YEAR
    removal = form.removal_days * now.person_day
    again = form.rebuild_days * now.person_day + form.rebuild_gpu_hours * now.gpu_hour
    rebuild = again if now.rebuildable else true_cost(form, now.gpu_hour, now.person_day)
    pinned = upkeep + form.pin_gpus * HOURS_A_DAY * now.gpu_hour
    made = [
        _choice(Kind.KEEP, 0.0, upkeep, now.adapter_right, now.worth is not Worth.LOST, now, form),
        _choice(Kind.PIN, 0.0, pinned, now.accepted_right, True, now, form),
        _choice(Kind.REBUILD, rebuild, upkeep, now.accepted_right, True, now, form),
    ]
    for shown in now.examples:
        if shown.count:
            daily = _times(now.requests, shown.extra_tokens * now.input_token)
            does = shown.right >= now.adapter_held_out - now.margin and now.worth is not Worth.LOST
            one_off = form.prompt_days * now.person_day + removal
            own = _choice(Kind.PROMPT, one_off, daily, shown.right, does, now, form)
            made.append(replace(own, examples=shown.count))
    does = now.worth is Worth.BASE_PASSES
    made.append(_choice(Kind.RETIRE, removal, 0.0, now.base_right, does, now, form))
    return tuple(made)


def verdict(made: tuple[Choice, ...]) -> Choice:
    """The eligible choice with the least total; of equal ones the first. One with an unknown total is none of them:
    while nobody knows how many requests there are, only what does not depend on it is compared."""
    eligible = [own for own in made if own.eligible and math.isfinite(own.total)]
    known = eligible or [own for own in made if own.eligible]
    return min(known, key=lambda own: own.total if math.isfinite(own.total) else math.inf)


def at_stake(made: tuple[Choice, ...], horizon_days: float) -> float:
    """Money a year that is lost by leaving everything as it is: its total less that of the verdict. >= 0, nan where
    one of them is not known. Of an adapter that does not do its task, all that it costs is lost."""
    keep = next(own for own in made if own.kind is Kind.KEEP)
    lost = keep.total - verdict(made).total if keep.eligible else keep.total
    return max(0.0, lost) * DAYS_A_YEAR / horizon_days


def break_even(now: Situation, form: Assumptions) -> float:
    """Requests a day from which on the adapter is cheaper than the base with the examples that do the task, or, where
    none do, than the base alone. inf where no number of them is; nan where nothing was tried."""
    made = choices(now, form)
    keep = made[0]
    others = [own for own in made if own.kind is Kind.PROMPT and own.eligible]
    rival = min(others, key=lambda own: own.examples, default=made[-1])
    tokens = next((e.extra_tokens for e in now.examples if e.count and e.count == rival.examples), 0.0)
    right = now.adapter_held_out if rival.kind is Kind.PROMPT else keep.right
    saves = tokens * now.input_token + (right - rival.right) * form.wrong_answer
    if not math.isfinite(saves):
        return math.nan
    return keep.daily / saves if saves > 0 else math.inf


def pays_back_days(now: Situation, form: Assumptions) -> float:
    """Days after which a rebuild has paid for itself against the cheapest choice that is eligible without it; inf where
    it never does. nan where one of them is not known."""
    made = choices(now, form)
    rebuilt = next(own for own in made if own.kind is Kind.REBUILD)
    others = [own for own in made if own.kind is not Kind.REBUILD and own.eligible]
    rival = min(others, key=lambda own: own.total)
    saved = _a_day(rival, now, form) - _a_day(rebuilt, now, form)
    if math.isnan(saved):
        return math.nan
    ahead = rebuilt.one_off - rival.one_off
    return max(0.0, ahead / saved) if saved > 0 else 0.0 if ahead <= 0 and saved == 0 else math.inf


def deciders(now: Situation, form: Assumptions) -> tuple[Decider, ...]:
    """Which assumption, price or measured amount decides: each is varied alone, up and down, until the verdict changes.
    The most delicate first; none where the verdict stands within ten times of everything."""
    present = verdict(choices(now, form)).kind
    delicate = [
        Decider(name, value, factor, other)
        for name, value in _amounts(now, form)
        for factor, other in _change(now, form, name, present)
    ]
    return tuple(sorted(delicate, key=lambda own: (abs(math.log(own.factor)), own.name)))


# Of a situation, what may have been measured wrongly or may change; the rest are shares and findings.
VARIED = ("requests", "watch_day", "input_token", "gpu_hour", "person_day")


def _amounts(now: Situation, form: Assumptions) -> Iterator[tuple[str, float]]:
    yield from ((name, getattr(now, name)) for name in VARIED)
    yield from ((field.name, getattr(form, field.name)) for field in fields(form))


def _change(now: Situation, form: Assumptions, name: str, present: Kind) -> Iterator[tuple[float, Kind]]:
    """The nearest factor up or down with another verdict."""
    for factor in (by for up in FACTORS for by in (up, 1.0 / up)):
        if name in VARIED:
            other = verdict(choices(replace(now, **{name: getattr(now, name) * factor}), form)).kind
        else:
            other = verdict(choices(now, replace(form, **{name: getattr(form, name) * factor}))).kind
        if other is not present:
            yield factor, other
            return


def _choice(
    kind: Kind, one_off: float, daily: float, right: float, eligible: bool, now: Situation, form: Assumptions
) -> Choice:
    made = Choice(kind, one_off, daily, right, eligible, math.nan)
    return replace(made, total=one_off + form.horizon_days * _a_day(made, now, form))


def _a_day(choice: Choice, now: Situation, form: Assumptions) -> float:
    """With what its wrong answers cost."""
    return choice.daily + _times(now.requests, _times(form.wrong_answer, 1.0 - choice.right))


def _times(first: float, second: float) -> float:
    """0 where one of them is 0, whether the other is known or not."""
    return 0.0 if 0.0 in (first, second) else first * second
