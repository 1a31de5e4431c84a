"""Of which bases was no round judged for too long? A monitor that is alive and never evaluates looks healthy.

Verdicts are made of rounds, so nothing else says it where none is judged: a feed that raises, a judge that fails on
each record, results that never come. That a model hangs or an engine is away is no such case: a blocked round says it,
and is judged (agent/worker/silence.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.records import Observation, ScoredResponses
from agent.worker.silence import STUCK_S
from detectors import on_call_text as text
from detectors.records import BaseRound, Reason, Status, Subject, SubjectKind, Verdict

LATE_ROUNDS = 3
# Rounds in a row without a measurement, of what was not judged for longer than anybody waits.
LONG = 1000

RoundKind = type[BaseRound] | type[ScoredResponses]


class RoundsDue:
    """When a round of each base was last judged, in steady seconds: a clock that is set makes nothing late.

    every_s: base -> seconds between its scheduled rounds; kind: of those rounds
    The first question about a base counts as its first round: it may still have to be loaded.
    """

    def __init__(self, every_s: Mapping[str, float], kind: RoundKind = BaseRound) -> None:
        self._every_s, self._kind = dict(every_s), kind
        self._owned = frozenset(every_s)
        self._last: dict[str, float] = {}

    def own(self, bases: frozenset[str]) -> None:
        """From now on these are this agent's; how long one that comes was another's says nothing."""
        for base in self._owned ^ bases:
            self._last.pop(base, None)
        self._owned = bases & self._every_s.keys()

    def judged(self, observation: Observation, steady: float) -> None:
        """This record has a verdict."""
        if isinstance(observation, self._kind):
            self._last[observation.base] = steady

    def overdue(self, steady: float) -> dict[str, int]:
        """Base -> how many intervals long no round of it was judged, LATE_ROUNDS or more, and longer than a model that
        hangs is waited for."""
        quiet = {base: steady - self._last.setdefault(base, steady) for base in sorted(self._owned)}
        late = {base: s for base, s in quiet.items() if s > LATE_ROUNDS * self._every_s[base] + STUCK_S}
        return {base: int(s / self._every_s[base]) for base, s in late.items()}


def not_judged(subject: Subject, base: str, missed: int, why: str, now: float) -> Verdict:
    """The verdict that nobody can tell. missed: intervals long that no round of its base was judged; why: in words"""
    fields = {"base": base, "subject": _in_words(subject), "why": why}
    return _verdict(subject, base, missed, now, _filled(text.NOT_JUDGED, fields))


def judged_by_nobody(subject: Subject, base: str, now: float) -> Verdict:
    """The same of what this agent leaves to others, when nobody has judged it for long."""
    fields = {"base": base, "subject": _in_words(subject)}
    return _verdict(subject, base, LONG, now, _filled(text.JUDGED_BY_NOBODY, fields))


def _in_words(subject: Subject) -> str:
    kind, name = subject
    return text.A_BASE.format(name=name) if kind is SubjectKind.BASE else name


def _filled(words: text.Text, fields: Mapping[str, object]) -> text.Text:
    return text.Text(words.explanation.format(**fields), words.action.format(**fields))


def _verdict(subject: Subject, base: str, silent: int, now: float, words: text.Text) -> Verdict:
    kind, name = subject
    return Verdict(
        kind,
        name,
        base,
        0,
        now,
        Status.UNMONITORABLE,
        Reason.NOT_JUDGED,
        explanation=words.explanation,
        action=words.action,
        silent_in_a_row=silent,
    )
