"""What the status page shows of this process: the latest findings of each kind, bounded, and nothing that is asked for.

Written by the loop, read by the threads of the health server. What was before this process began is read from the store
(agent/status_page/lookback.py).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.records import Finding, Flip, GoldenAccepted, Heartbeat, Notice, NoticeKind
from detectors.records import Evidence, Identity, ShareOf, Subject, SubjectKind, Verdict

BUCKET_S = 1800.0
DAY_S = 86_400.0
MOST_FLIPS, MOST_NOTICES, MOST_CHANGES = 40, 200, 60
PARTS = {"base": "base", "adapter": "adapter", "tokenizer": "tokenizer", "template": "chat template"}

Points = tuple[tuple[float, float], ...]
"""(when a stretch of BUCKET_S began, mean retention in it), in order of time"""


@dataclass(frozen=True, slots=True)
class SentNotice:
    """One notice, as a line of a timeline. key: of its incident; of a change event that of its subject"""

    at: float
    kind: NoticeKind
    reason: str
    key: str
    subject: Subject
    cause: str
    summary: str


@dataclass(frozen=True, slots=True)
class Moved:
    """Files or names under a subject are others than a moment ago. parts: what, with the first digits of the hashes"""

    at: float
    subject: Subject
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The golden record in force: when and why it was accepted.

    smallest_loss: the smallest loss of strength that pages in time, None where none does or it is not known
    draws: that this takes
    """

    at: float
    why: str
    smallest_loss: float | None
    draws: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of it at one moment. bases: as configured, base -> its adapters; evidence: the latest of each stream
    roll_back: how the team does it, of what is degraded
    """

    cluster: str
    pod: str
    bases: Mapping[str, Sequence[str]]
    verdicts: Mapping[Subject, Verdict] = field(default_factory=dict)
    evidence: Mapping[Subject, tuple[Evidence, ...]] = field(default_factory=dict)
    retention: Mapping[str, Points] = field(default_factory=dict)
    flips: tuple[Flip, ...] = ()
    sent: tuple[SentNotice, ...] = ()
    moved: tuple[Moved, ...] = ()
    accepted: Mapping[str, Accepted] = field(default_factory=dict)
    heartbeat: Heartbeat | None = None
    roll_back: Mapping[Subject, str] = field(default_factory=dict)


def nobody_says_how(_verdict: Verdict) -> str:
    """Where the configuration does not say how the team rolls back."""
    return ""


@dataclass(slots=True)
class Mean:
    """Of one stretch of time."""

    began: float
    total: float
    n: int

    @property
    def point(self) -> tuple[float, float]:
        """Rounded to what a plot shows."""
        return self.began, round(self.total / self.n, 3)


@dataclass(slots=True)
class Board:
    """``submit`` takes a finding, ``snapshot`` is what the page is made of. Both may be called from any thread."""

    cluster: str = ""
    pod: str = ""
    bases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    roll_back: Callable[[Verdict], str] = nobody_says_how
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _verdicts: dict[Subject, Verdict] = field(default_factory=dict)
    _evidence: dict[Subject, dict[tuple[str, str], Evidence]] = field(default_factory=dict)
    _retention: dict[str, deque[Mean]] = field(default_factory=dict)
    _points: dict[str, Points] = field(default_factory=dict)
    _flips: deque[Flip] = field(default_factory=lambda: deque(maxlen=MOST_FLIPS))
    _sent: deque[SentNotice] = field(default_factory=lambda: deque(maxlen=MOST_NOTICES))
    _moved: deque[Moved] = field(default_factory=lambda: deque(maxlen=MOST_CHANGES))
    _accepted: dict[str, Accepted] = field(default_factory=dict)
    _heartbeat: Heartbeat | None = None

    def submit(self, finding: Finding) -> None:
        with self._lock:
            match finding:
                case Verdict():
                    self._judged(finding)
                case Evidence(replica=""):
                    streams = self._evidence.setdefault((finding.subject_kind, finding.subject), {})
                    streams[finding.detector, finding.stream] = finding
                case Flip():
                    self._flips.append(finding)
                case Notice():
                    self._sent.append(sent_notice(finding))
                case GoldenAccepted():
                    self._accepted[finding.adapter] = accepted_of(finding)
                case Heartbeat():
                    self._heartbeat = finding

    def snapshot(self) -> Snapshot:
        with self._lock:
            return Snapshot(
                self.cluster,
                self.pod,
                self.bases,
                dict(self._verdicts),
                {subject: tuple(streams.values()) for subject, streams in self._evidence.items()},
                {name: self._points_of(name) for name in self._retention},
                tuple(self._flips),
                tuple(self._sent),
                tuple(self._moved),
                dict(self._accepted),
                self._heartbeat,
                {subject: how for subject, verdict in self._verdicts.items() if (how := self.roll_back(verdict))},
            )

    def _points_of(self, name: str) -> Points:
        """Made again when a verdict has added to them: several looks at the page fall between two rounds."""
        if name not in self._points:
            self._points[name] = tuple(mean.point for mean in self._retention[name])
        return self._points[name]

    def _judged(self, verdict: Verdict) -> None:
        subject = verdict.subject_kind, verdict.subject
        before = self._verdicts.get(subject)
        self._verdicts[subject] = verdict
        if before is not None and (parts := moved_parts(before.identity, verdict.identity)):
            self._moved.append(Moved(verdict.at, subject, parts))
        is_measured = verdict.retention is not None and verdict.share_of is not ShareOf.RESPONSES
        if is_measured and verdict.retention is not None and verdict.subject_kind is SubjectKind.ADAPTER:
            means = self._retention.setdefault(verdict.subject, deque(maxlen=int(DAY_S / BUCKET_S) + 1))
            _add(means, verdict.at, verdict.retention.mean)
            self._points.pop(verdict.subject, None)


def _add(means: deque[Mean], at: float, retention: float) -> None:
    began = at - at % BUCKET_S
    if not means or means[-1].began != began:
        means.append(Mean(began, 0.0, 0))
    means[-1].total += retention
    means[-1].n += 1


def sent_notice(notice: Notice) -> SentNotice:
    verdict = notice.verdict
    subject = verdict.subject_kind, verdict.subject
    return SentNotice(
        notice.at, notice.kind, notice.reason.value, notice.dedup_key, subject, verdict.cause.value, notice.summary
    )


def moved_parts(before: Identity, after: Identity) -> tuple[str, ...]:
    """What lies under a subject now and did not before, each with both hashes; what is not known has not moved."""
    pairs = {words: (getattr(before, f"live_{name}"), getattr(after, f"live_{name}")) for name, words in PARTS.items()}
    return tuple(f"{words} {short(a)} → {short(b)}" for words, (a, b) in pairs.items() if a and b and a != b)


def short(digest: str) -> str:
    """``3f2a9c01`` of ``sha256:3f2a9c01...``."""
    return digest.removeprefix("sha256:")[:8]


def accepted_of(accepted: GoldenAccepted) -> Accepted:
    return Accepted(accepted.accepted_at, accepted.why, accepted.smallest_loss, accepted.draws)
