"""Does somebody judge the bases that this agent leaves to others, as a sidecar does where it has no engine to ask?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import structlog

from agent.clock import Clock
from agent.errors import AgentError
from agent.trouble import Trouble

# A witness that starts with this agent has loaded its base by then; one that was killed is missed after three minutes.
PATIENCE_S = 300.0
# Somebody is told later: a witness that is rolled out loads its models again, which takes minutes.
UNWATCHED_S = 900.0
# Three heartbeats: an older answer says nothing of now.
FRESH_S = 90.0

log = structlog.get_logger(__name__)


class LeftBases:
    """``look``, with each heartbeat, reads what the pods that are alive say they judge; ``status``: is that all of it?
    ``unwatched``: what of it somebody has to be told of

    left: base -> state keys of what is to be judged of it; ask: the store: state key -> the pods that judge it; may
    raise AgentError, and then the last answer holds
    """

    def __init__(
        self, left: Mapping[str, Collection[str]], ask: Callable[[], Mapping[str, Collection[str]]], clock: Clock
    ) -> None:
        self._left, self._ask, self._clock = left, ask, clock
        self._alone_since = dict.fromkeys(left, clock.steady())
        self._judged_by: tuple[str, ...] = ()
        self._answered_at = float("-inf")
        self._trouble = Trouble("bases")

    @property
    def status(self) -> tuple[bool, str]:
        """Of the part ``bases``."""
        if self._trouble:
            return False, str(self._trouble)
        by = f"judged by {', '.join(self._judged_by)}" if self._judged_by else "nobody is known yet who judges them"
        return True, f"left to others: {', '.join(sorted(self._left))}; {by}"

    @property
    def unwatched(self) -> frozenset[str]:
        """Bases of which nobody has judged every adapter for UNWATCHED_S; none while the store does not say so now."""
        now = self._clock.steady()
        if now - self._answered_at > FRESH_S:
            return frozenset()
        return frozenset(base for base, since in self._alone_since.items() if now - since >= UNWATCHED_S)

    def look(self) -> None:
        try:
            judged = self._ask()
        except AgentError as error:
            log.debug("watchers_unknown", why=str(error))
            return
        now = self._answered_at = self._clock.steady()
        for base, keys in self._left.items():
            if set(keys) <= judged.keys():
                self._alone_since.pop(base, None)
            else:
                self._alone_since.setdefault(base, now)
        self._judged_by = tuple(sorted({pod for pods in judged.values() for pod in pods}))
        self._tell(sorted(base for base, since in self._alone_since.items() if now - since >= PATIENCE_S))

    def _tell(self, alone: list[str]) -> None:
        if not alone:
            self._trouble.end()
            return
        wanted = "wanted one that does: a witness with this cluster name and store, or role all here"
        self._trouble.begin(f"no pod that is alive judges every adapter of {', '.join(alone)}, {wanted}")
