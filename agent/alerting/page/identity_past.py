"""What was another one before a page: hashes of files and what an engine says of itself, as rounds showed them. Pure.

Kept beside what was last reported of a subject, so that its page says itself what changed in the day before, while the
store cannot be asked. How it is stored is part of the saved state: names of ``to_json`` stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from detectors import on_call_text as text
from detectors.records import Identity, SubjectKind, Verdict

# Seconds before a page within which a change is said; a past that is shorter than the least says nothing.
DAY_S, LEAST_S = 86_400.0, 60.0
# Changes that are kept of a subject, and those that its page says.
KEPT, SHOWN = 8, 3
# Part -> the fields of an identity that hold what is accepted, and what is in place.
PARTS = {
    "base": ("golden_base", "live_base"),
    "tokenizer": ("golden_tokenizer", "live_tokenizer"),
    "chat template": ("golden_template", "live_template"),
    "engine": ("golden_engine", "live_engine"),
    "adapter": ("golden_adapter", "live_adapter"),
    "source in the engine": ("golden_source", "live_source"),
}
# Of a base an identity holds that of one of its adapters.
OF_AN_ADAPTER = ("adapter", "source in the engine")


@dataclass(frozen=True, slots=True)
class Change:
    """at: seconds since the epoch, of the first round that showed it; before, after: first digits of hashes, or the
    engine's words"""

    at: float
    part: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class IdentityPast:
    """scheme: of the hashes in ``present``, which has what the latest rounds showed of each part

    since: seconds, of the first round that showed any, None before it; changes: the latest ones, in order
    """

    scheme: int = 0
    present: Mapping[str, str] = field(default_factory=dict)
    since: float | None = None
    changes: tuple[Change, ...] = ()

    def after(self, verdict: Verdict) -> IdentityPast:
        """With one more round. What it does not show is as it was; hashes of two schemes are never compared."""
        identity = verdict.identity
        parts = [p for p in PARTS if verdict.subject_kind is SubjectKind.ADAPTER or p not in OF_AN_ADAPTER]
        shown = {part: live for part in parts if (live := _short(getattr(identity, PARTS[part][1])))}
        before = self.present if identity.scheme == self.scheme else {}
        if not shown or (identity.scheme == self.scheme and shown.items() <= before.items()):
            return self
        changed = tuple(
            Change(verdict.at, part, before[part], live)
            for part, live in shown.items()
            if before.get(part, live) != live
        )
        since = verdict.at if self.since is None else self.since
        return IdentityPast(identity.scheme, {**before, **shown}, since, (*self.changes, *changed)[-KEPT:])

    def in_words(self, identity: Identity, now: float) -> str:
        """The changes of the day before ``now``, the latest first; that there was none; "" where that is not known."""
        # The round that pages may be later than ``now``: by a millisecond's rounding, or by a clock that was set back.
        recent = [change for change in reversed(self.changes) if now - change.at <= DAY_S]
        if not recent:
            is_known = self.since is not None and now - self.since >= LEAST_S
            since = max(self.since or 0.0, now - DAY_S)
            return text.NOTHING_MOVED.format(since=_second(since)) if is_known else ""
        lines = [_line(change, _short(getattr(identity, PARTS[change.part][0]))) for change in recent[:SHOWN]]
        more = len(recent) - SHOWN
        return "; ".join([*lines, *([text.MOVED_MORE.format(n=more)] if more > 0 else [])])

    def to_json(self) -> dict[str, Any]:
        changes = [[change.at, change.part, change.before, change.after] for change in self.changes]
        return {"scheme": self.scheme, "present": dict(self.present), "since": self.since, "changes": changes}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> IdentityPast:
        """Files of earlier versions hold none. A part that this version does not know is left out."""
        if not stored:
            return cls()
        changes = tuple(Change(*each) for each in stored["changes"])
        known = tuple(change for change in changes if change.part in PARTS)
        return replace(cls(), scheme=stored["scheme"], present=stored["present"], since=stored["since"], changes=known)


def _line(change: Change, accepted: str) -> str:
    is_accepted = text.MOVED_ACCEPTED if change.after == accepted else ""
    names = {"part": change.part, "before": change.before, "after": change.after}
    return text.MOVED.format(at=_second(change.at), accepted=is_accepted, **names)


def _second(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def _short(identity: str) -> str:
    """``sha256:3f21260595ad``, which tells any two apart; what is no hash as it is."""
    return identity[:19] if identity.startswith("sha256:") else identity
