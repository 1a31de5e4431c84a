"""Which golden record is each adapter compared with now? The one that the configuration pins, else the newest accepted.

A record in force stays so until another one is accepted, also while its file cannot be read. A folder that lost its
files gets them back from ClickHouse.
"""

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
from probes.golden.record import Golden, Unmonitorable, check_made_in_process
from probes.golden.smallest_loss import smallest_loss
from probes.golden.weights import accepted_adapter

log = structlog.get_logger(__name__)

Fetch = Callable[[str, str], tuple[str, bytes] | None]
# What follows where enrolment does not keep the base.
UNKEPT = "once the base has moved and the agent was restarted, no response is scored"


class Goldens:
    """The golden records of one base's adapters.

    pins: adapter -> pinned hash, "" takes the newest accepted one
    fetch: (adapter, pin) -> (hash, bytes) from the store for a folder that lost its files; may raise AgentError
    of_files: is evidence drawn from what the files answer, and not an engine? Only records made in process are in force
    then: of one that was made on an engine the one that it was measured against, and without one it is refused
    held: adapter -> the record in force since the last ``look``, or why there is none
    """

    def __init__(
        self, folder: Path, base: str, pins: Mapping[str, str], fetch: Fetch | None = None, of_files: bool = False
    ) -> None:
        self._folder, self._base, self._pins, self._fetch = folder, base, dict(pins), fetch
        self._of_files = of_files
        self._chosen: dict[str, str] = {}  # adapter -> hash of the pinned or newest record as of the last look
        self._measured_against: dict[str, Golden] = {}  # hash -> that record, of those that ``for_files`` looked up
        self.held: dict[str, Golden | Unmonitorable] = {}

    def forget(self) -> None:
        """Nothing is in force until the next ``look``, which tells of each record again."""
        self.held = {}

    def look(self) -> list[GoldenAccepted]:
        """Look for missing and for newer records; each one that is in force from now on and was not before."""
        return [accepted for adapter in self._pins if (accepted := self._look(adapter)) is not None]

    def _look(self, adapter: str) -> GoldenAccepted | None:
        before = self.held.get(adapter)
        if isinstance(before, Golden) and self._wanted(adapter) == self._chosen[adapter]:
            return None
        golden = self._find(adapter)
        self.held[adapter] = golden
        if not isinstance(golden, Golden) or (isinstance(before, Golden) and golden.hash == before.hash):
            return None
        previous = before.hash if isinstance(before, Golden) else golden.previous
        return _accepted(golden, self._base, previous, read_bytes(self._folder, golden.hash))

    def _wanted(self, adapter: str) -> str:
        """The hash to use: the last one while a damaged file hides which is newest, "" where there is none."""
        if pin := self._pins[adapter]:
            return pin
        try:
            return newest(self._folder, adapter) or ""
        except DamagedGolden as error:
            log.warning("newest_golden_unknown", adapter=adapter, held=self._chosen[adapter], why=str(error))
            return self._chosen[adapter]

    def _find(self, adapter: str) -> Golden | Unmonitorable:
        golden = self._looked_up(adapter, self._pins[adapter])
        if not isinstance(golden, Golden):
            return golden
        self._chosen[adapter] = golden.hash
        if not self._of_files:
            return golden
        try:
            made_in_process = self._made_in_process(golden)
            check_made_in_process(made_in_process)
        except Refused as error:
            return Unmonitorable(Reason.GOLDEN_REFUSED, str(error))
        return made_in_process

    def for_files(self) -> dict[str, Golden | Unmonitorable]:
        """``held``, as what the files answer is compared with it: in place of a record that was made on an engine the
        one made in process that it was measured against, where that is at hand. An engine lists a few tokens only, and
        what it does not list is counted at the last value that it lists, in its record as in its answers."""
        return {
            adapter: self._made_in_process(golden) if isinstance(golden, Golden) else golden
            for adapter, golden in self.held.items()
        }

    def _made_in_process(self, golden: Golden) -> Golden:
        name = golden.offline
        if name and name not in self._measured_against:
            offline = self._looked_up(golden.adapter, name)
            if not isinstance(offline, Golden):
                return golden
            self._measured_against[name] = offline
        return self._measured_against.get(name, golden)

    def _looked_up(self, adapter: str, pin: str) -> Golden | Unmonitorable:
        golden = look_up(self._folder, adapter, pin)
        if isinstance(golden, Golden) or golden.reason is not Reason.NO_GOLDEN or not self._restored(adapter, pin):
            return golden
        return look_up(self._folder, adapter, pin)

    def _restored(self, adapter: str, pin: str) -> bool:
        """Write the store's copy of the record into the folder; False where there is none, or it is not what its hash
        says."""
        if self._fetch is None:
            return False
        try:
            row = self._fetch(adapter, pin)
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


def _accepted(golden: Golden, base: str, previous: str, data: bytes) -> GoldenAccepted:
    loss = smallest_loss(golden)
    return GoldenAccepted(
        *(golden.adapter, base, golden.hash, previous, golden.why, golden.created_at, data),
        smallest_loss=1 - loss.strength if loss else None,
        draws=(loss.draws or 0) if loss else 0,
        tolerance=golden.tolerances.allowed_deviation(golden.adapter),
        made_on=golden.made_on,
        offline=golden.offline,
    )


def kept_before(folder: Path, golden: Golden) -> Path | None:
    """Kept files of the adapter that was accepted before this one; None where there was none, or it is not at hand."""
    try:
        earlier = adapter_before(folder, golden.previous, partial(_has_the_same_files, folder, golden))
    except Refused as error:
        log.info("version_before_unknown", adapter=golden.adapter, why=str(error))
        return None
    kept = accepted_adapter(folder, earlier) if earlier else None
    if earlier and kept is None:
        log.info("version_before_not_kept", adapter=golden.adapter, version=earlier.adapter_hash)
    return kept


def _has_the_same_files(folder: Path, golden: Golden, earlier: Golden) -> bool:
    """Were both records made from the same adapter files? Hashes of two schemes cannot tell, and the kept files can:
    where none were kept, an earlier version is of no use and is passed over."""
    if golden.hash_scheme == earlier.hash_scheme:
        return golden.adapter_hash == earlier.adapter_hash
    kept = accepted_adapter(folder, earlier)
    return kept is None or adapter_hash(kept, golden.hash_scheme) == golden.adapter_hash
