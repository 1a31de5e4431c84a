"""What of a passport runs out, and when is it said? Pure: dates in, what is due out.

A warning comes once at each of a few distances before the day and then once a month: a name of its own for each, by
which a fleet sends it once (agent/alerting/changes.py). It never pages: nothing is degraded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from agent.lifecycle.passport import Passport

# Days before the day at which a warning is given, the earliest first; afterwards one every REPEATED_DAYS.
WARNED_DAYS = (60, 30, 14, 7, 1)
REPEATED_DAYS = 30
# A name without its decorations: people write "Ada <ada@example.org>" and "ada@example.org".
BRACKETS = "<>"


class ClockKind(StrEnum):
    """What runs out. Values are stored: they stay."""

    BASE_END_OF_LIFE = "base_end_of_life"
    DATA_EXPIRY = "data_expiry"
    OWNER_GONE = "owner_gone"
    GOLDEN_STALE = "golden_stale"
    NO_REBUILD = "no_rebuild"
    BASE_PASSES = "base_passes"  # measured by gapwatch worth, and no field of the passport


# While the day is ahead, and once it is over. when: the day and how far it is.
WORDS = {
    ClockKind.BASE_END_OF_LIFE: (
        "its base {base} reaches its end of life {when}",
        "its base {base} reached its end of life {when}",
    ),
    ClockKind.DATA_EXPIRY: (
        "its training data expires {when}: it cannot be retrained from {data} after that",
        "its training data expired {when}: it cannot be retrained from {data} any more",
    ),
    ClockKind.OWNER_GONE: ("its owner {owner} is not on the list of active people",) * 2,
    ClockKind.GOLDEN_STALE: (
        "its golden record gets older than alerts.clocks.golden_after allows {when}",
        "its golden record got older than alerts.clocks.golden_after allows {when}",
    ),
    ClockKind.NO_REBUILD: (
        "it should be rebuilt, by alerts.clocks.rebuild_after, {when}",
        "it should have been rebuilt, by alerts.clocks.rebuild_after, {when}",
    ),
}


@dataclass(frozen=True, slots=True)
class Clock:
    """One thing that runs out. due: the day; stage: the warning that is in force, "" while the day is far

    words: what runs out and when, for people
    """

    adapter: str
    kind: ClockKind
    due: date
    stage: str
    words: str

    @property
    def name(self) -> str:
        """By which a warning is known: the same clock, the same day, the same stage."""
        return f"{self.kind.value} {self.due.isoformat()} {self.stage}"

    def days_left(self, today: date) -> int:
        """Below 0 once it is over."""
        return (self.due - today).days


@dataclass(frozen=True, slots=True)
class Horizons:
    """golden_after, rebuild_after: days after which a golden record is stale and a rebuild is due."""

    golden_after: int = 365
    rebuild_after: int = 365


def clocks(
    passport: Passport,
    accepted: date | None,
    people: Collection[str] | None,
    today: date,
    horizons: Horizons = Horizons(),
) -> tuple[Clock, ...]:
    """All clocks of one adapter, the first to run out first, near or far.

    accepted: when the golden record in force was, None without one; people: names of those who are still there, None
    where no list is configured, and then nobody is taken for gone
    """
    return tuple(
        sorted(_clocks(passport, accepted, people, today, horizons), key=lambda clock: (clock.due, clock.kind))
    )


def warned(all_clocks: Collection[Clock]) -> tuple[Clock, ...]:
    """Those of which a warning is in force."""
    return tuple(clock for clock in all_clocks if clock.stage)


def stage_of(due: date, today: date) -> str:
    """The warning in force, "" while the day is more than 60 days away."""
    left = (due - today).days
    if left <= 0:
        return f"over {-left // REPEATED_DAYS}"
    return next((f"{days} days" for days in reversed(WARNED_DAYS) if left <= days), "")


def is_active(owner: str, people: Collection[str]) -> bool:
    """Is one of the owner's names on the list? Case, and what stands around an address, do not count."""
    listed = {_plain(name) for person in people for name in _names(person)}
    return any(_plain(name) in listed for name in _names(owner))


def _clocks(
    passport: Passport, accepted: date | None, people: Collection[str] | None, today: date, horizons: Horizons
) -> Iterator[Clock]:
    if passport.base.end_of_life:
        yield _clock(passport, ClockKind.BASE_END_OF_LIFE, passport.base.end_of_life, today)
    if passport.data.expires:
        yield _clock(passport, ClockKind.DATA_EXPIRY, passport.data.expires, today)
    if passport.owner and people is not None and not is_active(passport.owner, people):
        # Of the day on which a person left, nothing is known: it is said in the month that begins, and in each later.
        yield _clock(passport, ClockKind.OWNER_GONE, today.replace(day=1), today)
    if accepted:
        yield _clock(passport, ClockKind.GOLDEN_STALE, accepted + timedelta(days=horizons.golden_after), today)
    built = passport.last_rebuild
    if built:
        yield _clock(passport, ClockKind.NO_REBUILD, built + timedelta(days=horizons.rebuild_after), today)


def _clock(passport: Passport, kind: ClockKind, due: date, today: date) -> Clock:
    ahead, over = WORDS[kind]
    words = (ahead if due > today else over).format(
        base=passport.base.name or "of unknown name",
        data=passport.data.location or "it",
        owner=passport.owner,
        when=_when(due, today),
    )
    return Clock(passport.adapter, kind, due, stage_of(due, today), words)


def _when(due: date, today: date) -> str:
    days = abs((due - today).days)
    count = f"{days} {'day' if days == 1 else 'days'}"
    return f"on {due}, {f'in {count}' if due > today else f'{count} ago' if days else 'today'}"


def _names(person: str) -> list[str]:
    """The whole, and the parts inside and outside of angle brackets."""
    outside, _, inside = person.partition(BRACKETS[0])
    return [part for part in (person, outside, inside.rstrip(BRACKETS[1])) if part.strip()]


def _plain(name: str) -> str:
    return " ".join(name.strip(f" {BRACKETS}").casefold().split())
