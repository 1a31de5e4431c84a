"""Is anybody there who judges what this agent leaves to others? A fleet whose witnesses are all gone is as quiet as a
healthy one, and only those that judge nothing of it are left to say so."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from agent.alerting.notice import state_key
from detectors.records import Subject, SubjectKind

ASK_EVERY_S = 60.0
# A witness that starts with this agent has loaded its base by then; one that was killed is missed after three minutes.
PATIENCE_S = 300.0
# A witness that is rolled out is away for minutes: it loads its models again.
UNWATCHED_S = 900.0

AskWatched = Callable[[Collection[Subject]], Collection[str] | None]
"""State keys of those subjects that a live pod judges; None where the store gave no answer in time"""


def nobody_asked(_: Collection[Subject]) -> Collection[str] | None:
    return None


class LeftToOthers:
    """bases: base -> its adapters, of those that somebody is to judge and not this agent."""

    def __init__(self, bases: Mapping[str, Sequence[str]], ask: AskWatched = nobody_asked) -> None:
        self.bases, self._ask = dict(bases), ask
        self._since: dict[str, float] = {}  # base -> since when nobody judges one of its adapters
        self._asked_at = self._answered_at = float("-inf")

    @property
    def status(self) -> tuple[bool, str]:
        """Of the part ``bases``, by the store's last answer: does somebody judge all of them, and since when not?"""
        left = f"left to others: {', '.join(sorted(self.bases))}"
        alone = sorted(base for base, since in self._since.items() if self._answered_at - since >= PATIENCE_S)
        if not alone:
            return True, left
        wanted = "wanted one that does: a witness with this cluster name and store, or role all here"
        return False, f"{left}; no pod that is alive judges every adapter of {', '.join(alone)}, {wanted}"

    def unwatched(self, steady: float) -> dict[str, float]:
        """Base -> for how many seconds no live pod has said that it judges one of its adapters, UNWATCHED_S or more.

        steady: seconds of a clock that nobody sets. Without a fresh answer of the store nothing is known, nor said
        """
        if self.bases and steady - self._asked_at >= ASK_EVERY_S:
            self._asked_at = steady
            self._look(steady)
        if steady - self._answered_at > 2 * ASK_EVERY_S:
            return {}
        return {base: steady - since for base, since in self._since.items() if steady - since >= UNWATCHED_S}

    def _look(self, steady: float) -> None:
        adapters = {base: [(SubjectKind.ADAPTER, name) for name in names] for base, names in self.bases.items()}
        judged = self._ask([subject for subjects in adapters.values() for subject in subjects])
        if judged is None:
            return
        self._answered_at = steady
        for base, subjects in adapters.items():
            if all(state_key(*subject) in judged for subject in subjects):
                self._since.pop(base, None)
            else:
                self._since.setdefault(base, steady)
