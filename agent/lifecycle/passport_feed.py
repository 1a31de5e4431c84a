"""What of the passports runs out, and what was measured of worth, read again once an hour and handed to the judge as a
record. The loop never waits for the files: they are read on a thread of their own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, time
from pathlib import Path

import structlog

from agent.config import Config
from agent.economics import worth_file
from agent.economics.worth_file import MeasuredWorth
from agent.errors import AgentError
from agent.lifecycle import passport_file
from agent.lifecycle.clocks import Clock, clocks
from agent.lifecycle.settings import active_people, horizons
from agent.records import AdapterClock, AdapterWorth, PassportClocks
from probes.errors import ProbeError
from probes.golden.archive import accepted_times

EVERY_S = 3600.0

log = structlog.get_logger(__name__)


class PassportFeed:
    """See ``agent.app.Feed``. config: whose adapters are judged here; nothing comes while none has a passport"""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="passports")
        self._reading: Future[PassportClocks] | None = None
        self._next = float("-inf")
        self._had_any = False

    def poll(self, now: float) -> Sequence[PassportClocks]:
        if self._reading is None and now >= self._next:
            self._next = now + EVERY_S
            self._reading = self._reader.submit(read_clocks, self._config, now)
        if self._reading is None or not self._reading.done():
            return ()
        reading, self._reading = self._reading, None
        read = reading.result()
        for words in read.troubles:
            log.warning("passport_not_read", why=words)
        has_any = bool(read.clocks or read.troubles or read.worth)
        # Once more where there is none any more: what was said to run out does not.
        is_news, self._had_any = has_any or self._had_any, has_any
        return (read,) if is_news else ()


def read_clocks(config: Config, now: float) -> PassportClocks:
    """Of every adapter that is judged here and has a passport or a measured worth; a file that cannot be read is a
    trouble, and no error."""
    golden_dir, today = config.probes.golden_dir, datetime.fromtimestamp(now, UTC).date()
    troubles: list[str] = []
    wanted = {own.name for model in config.models for own in model.adapters}
    names = [name for name in passport_file.with_passport(golden_dir) if name in wanted]
    measured = list(_worth(golden_dir, sorted(wanted), troubles))
    accepted: Mapping[str, float] = {}
    people: tuple[str, ...] | None = None
    if names:
        try:
            accepted = accepted_times(golden_dir)
            people = active_people(config)
        except (AgentError, ProbeError) as error:
            troubles.append(str(error))
    running = [own for name in names for own in _of(config, name, accepted, people, today, troubles)]
    running += [clock for own in measured if (clock := own.clock(today))]
    return PassportClocks(now, tuple(map(_record, running)), tuple(troubles), tuple(map(_worth_record, measured)))


def _of(
    config: Config,
    name: str,
    accepted: Mapping[str, float],
    people: tuple[str, ...] | None,
    today: date,
    troubles: list[str],
) -> Iterator[Clock]:
    try:
        passport = passport_file.read(config.probes.golden_dir, name)
    except AgentError as error:
        troubles.append(str(error))
        return
    if passport is not None:
        day = datetime.fromtimestamp(accepted[name], UTC).date() if name in accepted else None
        yield from clocks(passport, day, people, today, horizons(config))


def _record(clock: Clock) -> AdapterClock:
    due = datetime.combine(clock.due, time(), UTC).timestamp()
    return AdapterClock(clock.adapter, clock.kind.value, due, clock.stage, clock.name, clock.words)


def _worth(golden_dir: Path, names: Sequence[str], troubles: list[str]) -> Iterator[MeasuredWorth]:
    for name in names:
        try:
            measured = worth_file.read(golden_dir, name)
        except AgentError as error:
            troubles.append(str(error))
            continue
        if measured is not None:
            yield measured


def _worth_record(own: MeasuredWorth) -> AdapterWorth:
    return AdapterWorth(
        adapter=own.adapter,
        base=own.base,
        at=own.at.timestamp(),
        golden=own.golden,
        base_hash=own.base_hash,
        worth=own.worth.value,
        checked=own.checked,
        accepted_right=own.accepted_right,
        adapter_right=own.adapter_right,
        base_right=own.base_right,
        gain=own.gain if own.gain is not None else math.nan,
        gain_low=own.gain_low,
        gain_high=own.gain_high,
        base_loss_high=own.base_loss_high,
        gain_left=own.left if own.left is not None else math.nan,
        right_with_examples={shots.examples: shots.share for shots in own.prompted},
        extra_tokens={shots.examples: shots.extra_tokens for shots in own.prompted},
    )
