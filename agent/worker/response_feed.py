"""The feed of scored responses: what the worker scored and embedded of each base since the last time, as one round.

It belongs to the loop's thread and waits for no canary: its interval, its round numbers and its watch for silence are
its own. All of one round is handed out together, so that a saved state holds all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.records import GoldenAccepted, PartitionAdapter, ScoredResponses
from agent.worker.response_scorer import ResponseResults
from agent.worker.silence import Blocked, Silence
from detectors.on_call_text import NOT_READ
from detectors.records import Identity
from detectors.traffic_records import Embedding, TrafficRound, TrafficScore
from probes.canaries.schedule import due
from probes.scoring.scoring_job import not_scored

# A round that is due waits so many seconds for the worker's turn to end, so that what was scored by then is in it.
GRACE_S = 5.0
# Beyond so many the embeddings do not wait for the round: 64 MB of them where a hidden state has 4,096 numbers.
MOST_EMBEDDINGS = 4096


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """What one batch of sampled responses of one base gave."""

    base: str
    results: ResponseResults


@dataclass(frozen=True, slots=True)
class LiveIdentities:
    """What was accepted and what lies there now for the adapters of one base, when the worker last looked."""

    base: str
    identities: Mapping[str, Identity]


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The worker gave each base its turn.

    began: when that turn did, seconds since the epoch; failure: what went wrong in it, "" where nothing did
    done: adapter -> how many of its interactions were dealt with in it, scored or not
    """

    began: float
    done: Mapping[str, int] = field(default_factory=dict)
    failure: str = ""


@dataclass(slots=True)
class _Waiting:
    """What has come of one base since its last round.

    number: of its next round; last: when the last one was handed out
    had_turn: the worker has ended one since the base came; duration_s: that its responses took
    """

    adapters: tuple[str, ...]
    scores: list[TrafficScore] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)
    upto: dict[PartitionAdapter, int] = field(default_factory=dict)
    identities: Mapping[str, Identity] = field(default_factory=dict)
    number: int = 0
    last: float | None = None
    had_turn: bool = False
    duration_s: float = 0.0


class ResponseFeed:
    """bases: base -> its adapters; every_s: seconds between two rounds of one base

    scored: False where responses are embedded and no more: what is handed out then has no TrafficRound
    not_read: why no record is read of those that may be there, "" while all are (``TrafficFeed.not_read``): a round
    without a response then says so, and not that there was no request. assemble.py sets it once there is such a feed

    A round without a response is handed out as well, so that silence is seen; but only after a turn of the worker that
    began when the round was due: while the worker is busy or hangs nobody knows whether responses came. What was
    scored before then comes out after GRACE_S, however long the worker's turn takes. A base that gave no round for
    ``every_s`` and STUCK_S more gives one in which no adapter was scored, with the reason; after a ``Blocked`` it gives
    one at its usual interval, until the worker has had a turn again.
    """

    def __init__(self, bases: Mapping[str, Sequence[str]], every_s: float, scored: bool) -> None:
        self._bases = {base: _Waiting(tuple(adapters)) for base, adapters in bases.items()}
        self._every_s, self._scored = every_s, scored
        self._silence = Silence(every_s)
        self._turn_began: float | None = None
        self._owned = frozenset(self._bases)
        self.not_read: Callable[[], str] = lambda: ""

    def own(self, bases: frozenset[str]) -> None:
        """From now on these are this agent's: what has come of others is dropped, and none of them is overdue."""
        for base in self._owned ^ bases:
            self._silence.forget(base)
            before = self._bases[base]
            self._bases[base] = _Waiting(before.adapters, number=before.number)
        self._owned = bases

    def receive(self, result: object) -> None:
        """One result of the worker, in the order in which they came; those of other kinds are not for this feed."""
        match result:
            case ScoredBatch(base=base) | LiveIdentities(base=base) | GoldenAccepted(base=base) if (
                base not in self._owned
            ):
                return
            case ScoredBatch():
                waiting = self._bases[result.base]
                waiting.scores += result.results.scores
                waiting.embeddings += result.results.embeddings
                waiting.upto |= result.results.upto
                waiting.duration_s += result.results.duration_s
            case LiveIdentities():
                self._bases[result.base].identities = result.identities
            case GoldenAccepted():
                # What waits was scored against the former record, and would be judged with the new one's evidence. So
                # was what answered for the base: the adapter is one of its alternatives.
                waiting, former = self._bases[result.base], (result.adapter, result.base)
                waiting.scores = [score for score in waiting.scores if score.adapter not in former]
            case TurnEnded():
                self._turn_began = result.began
                for waiting in self._bases.values():
                    waiting.had_turn = True
                self._silence.unblock(self._bases)
            case Blocked():
                self._silence.block(self._owned, result)

    def poll(self, now: float) -> list[ScoredResponses]:
        """The round of each base that is due; never waits."""
        return [given for base in self._bases if base in self._owned and (given := self._of(base, now)) is not None]

    def _of(self, base: str, now: float) -> ScoredResponses | None:
        waiting = self._bases[base]
        if self._is_ready(waiting, now):
            waiting.last = now
            self._silence.end(base, now)
            if self._scored and not (waiting.scores or waiting.embeddings) and (why := self.not_read()):
                return self._silent(base, now, NOT_READ.format(why=why))
            return self._round(base, now)
        if blocked := self._silence.reason(base, now):
            waiting.last = now
            return self._silent(base, now, blocked.why) if self._scored else None
        if len(waiting.embeddings) >= MOST_EMBEDDINGS:
            return self._surplus(base, now)
        return None

    def _is_ready(self, waiting: _Waiting, now: float) -> bool:
        if not due(now, waiting.last, self._every_s):
            return False
        if self._turn_began is None or not waiting.had_turn:
            return False
        if waiting.last is None or now < waiting.last:  # the first one, or the clock was set back
            return True
        due_at = waiting.last + self._every_s
        has_results = bool(waiting.scores or waiting.embeddings)
        return self._turn_began >= due_at or (has_results and now >= due_at + GRACE_S)

    def _round(self, base: str, now: float) -> ScoredResponses:
        """All that came since the last round, in the order in which it was scored."""
        waiting, at = self._bases[base], round(now, 3)  # as rows keep it
        taken = ScoredResponses(
            base=base,
            at=at,
            embeddings=tuple(waiting.embeddings),
            round=self._traffic_round(base, at, waiting.scores) if self._scored else None,
            upto=waiting.upto,
        )
        waiting.scores, waiting.embeddings, waiting.upto = [], [], {}
        return taken

    def _silent(self, base: str, now: float, reason: str) -> ScoredResponses:
        at = round(now, 3)
        scores = [not_scored(name, "", "", at, reason) for name in self._bases[base].adapters]
        return ScoredResponses(base, at, (), self._traffic_round(base, at, scores), {})

    def _surplus(self, base: str, now: float) -> ScoredResponses:
        """Embeddings that are too many to wait for their scores: a crash may then cost those scores, and still nothing
        counts twice."""
        waiting = self._bases[base]
        surplus, waiting.embeddings = tuple(waiting.embeddings), []
        return ScoredResponses(base, now, surplus, None, dict(waiting.upto))

    def _traffic_round(self, base: str, at: float, scores: Sequence[TrafficScore]) -> TrafficRound:
        waiting = self._bases[base]
        number, waiting.number = waiting.number, waiting.number + 1
        took_s, waiting.duration_s = waiting.duration_s, 0.0
        return TrafficRound(base, number, at, waiting.adapters, tuple(scores), waiting.identities, took_s)
