"""Which golden record is each adapter compared with now? The pinned one, else the newest accepted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog

from agent.errors import AgentError
from agent.records import GoldenAccepted
from detectors.records import Reason
from probes.artefacts.identity import adapter_hash
from probes.errors import DamagedGolden, Refused
from probes.golden.archive import adapter_before, look_up, newest, read_bytes, save_bytes
from probes.golden.codec import content_hash
from probes.golden.record import Golden, Unmonitorable
from probes.golden.weights import accepted_adapter

log = structlog.get_logger(__name__)

Fetch = Callable[[str, str], tuple[str, bytes] | None]
# What follows where enrolment does not keep the base.
UNKEPT = "once the base has moved and the agent was restarted, no response is scored"


class Goldens:
    """Looks before each round; what it finds stays until another record is accepted.

    pins: adapter -> pinned hash, "" takes the newest accepted one
    fetch: (adapter, pin) -> (hash, bytes) from the store for a folder that lost its files; may raise AgentError
    """

    def __init__(self, folder: Path, base: str, pins: Mapping[str, str], fetch: Fetch | None = None) -> None:
        self._folder, self._base, self._pins, self._fetch = folder, base, dict(pins), fetch
        self.held: dict[str, Golden | Unmonitorable] = {}

    def look(self) -> list[GoldenAccepted]:
        """Find what is missing or newer; gives each record that is used from now on and was not before."""
        return [told for adapter in self._pins if (told := self._look(adapter)) is not None]

    def _look(self, adapter: str) -> GoldenAccepted | None:
        before = self.held.get(adapter)
        if isinstance(before, Golden) and self._wanted(adapter, before) == before.hash:
            return None
        found = self._find(adapter)
        self.held[adapter] = found
        if not isinstance(found, Golden):
            return None
        previous = before.hash if isinstance(before, Golden) else found.previous
        data = read_bytes(self._folder, found.hash)
        return GoldenAccepted(adapter, self._base, found.hash, previous, found.why, found.created_at, data)

    def _wanted(self, adapter: str, held: Golden) -> str:
        """The hash to use: the one held while a damaged file hides which is newest, "" where there is none."""
        if pin := self._pins[adapter]:
            return pin
        try:
            return newest(self._folder, adapter) or ""
        except DamagedGolden as error:
            log.warning("newest_golden_unknown", adapter=adapter, held=held.hash, why=str(error))
            return held.hash

    def _find(self, adapter: str) -> Golden | Unmonitorable:
        found = look_up(self._folder, adapter, self._pins[adapter])
        if isinstance(found, Golden) or found.reason is not Reason.NO_GOLDEN or not self._restored(adapter):
            return found
        return look_up(self._folder, adapter, self._pins[adapter])

    def _restored(self, adapter: str) -> bool:
        """Bring the record back from the store, if it is there and its content has its hash."""
        if self._fetch is None:
            return False
        try:
            row = self._fetch(adapter, self._pins[adapter])
        except AgentError as error:
            log.info("golden_not_fetched", adapter=adapter, why=str(error))
            return False
        if row is None or content_hash(row[1]) != row[0]:
            return False
        try:
            save_bytes(row[1], self._folder)
        except OSError as error:
            log.warning("golden_not_restored", adapter=adapter, why=str(error))
            return False
        return True


def kept_before(folder: Path, golden: Golden) -> Path | None:
    """Kept files of the adapter that was accepted before this one; None where there was none, or it is not at hand."""
    try:
        before = adapter_before(folder, golden.previous, partial(_is_of_the_same, folder, golden))
    except Refused as error:
        log.info("version_before_unknown", adapter=golden.adapter, why=str(error))
        return None
    found = accepted_adapter(folder, before) if before else None
    if before and found is None:
        log.info("version_before_not_kept", adapter=golden.adapter, version=before.adapter_hash)
    return found


def _is_of_the_same(folder: Path, golden: Golden, earlier: Golden) -> bool:
    """Were both records made of the same adapter files? Hashes of two schemes cannot tell, and the kept files can:
    where there are none an earlier version is of no use, and is passed over."""
    if golden.hash_scheme == earlier.hash_scheme:
        return golden.adapter_hash == earlier.adapter_hash
    kept = accepted_adapter(folder, earlier)
    return kept is None or adapter_hash(kept, golden.hash_scheme) == golden.adapter_hash
