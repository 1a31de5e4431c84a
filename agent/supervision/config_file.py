"""The configuration in force, and what its file says now: read again when it changes, refused where it is wrong.

A file is compared by the hash of its content, read through symbolic links: Kubernetes replaces a mounted ConfigMap by
swapping the link ``..data``, which changes neither the path nor, seen from here, anything else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from agent import yaml_document
from agent.clock import Clock
from agent.config import Config, Telemetry, missing_files
from agent.errors import Refused

log = structlog.get_logger(__name__)

LOOK_S = 2.0
RETRY_S = 30.0
# Seconds for which a file may change at each look before that is told.
RESTLESS_S = 30.0
NO_FILE = "no regular file"


class ConfigFile:
    """``look`` reads the file where it has changed; ``config`` is the configuration in force, None before the first
    that is sound.

    load: reads and checks the file; whatever it raises is a state, with its reason in ``status``
    ports: public and control port that the file asked for at the start, None for one that it does not decide; others
    take a restart
    beside: of what else the configuration depends on, some text that changes with it: adapters that are retired
    A change is read once two looks in a row agree on it, so that no half of a file is put in force; the first is read
    at once. A refused file is read again when it changes, and every RETRY_S seconds. One that goes on changing at each
    look for RESTLESS_S seconds is never read, and ``status`` says so.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], Config],
        clock: Clock,
        ports: tuple[int | None, int | None] = (None, None),
        beside: Callable[[Config], str] = lambda _: "",
    ) -> None:
        self._path, self._load, self._clock, self._ports, self._beside = path, load, clock, ports, beside
        self.config: Config | None = None
        self.loaded_at = float("nan")
        self._former: tuple[Config | None, float] = None, float("nan")
        self._unusable: Config | None = None
        self._refusal = ""
        self._logged = ("", "")
        self._missing: tuple[str, ...] = ()
        self._digest = self._digest_read = ""
        self._next_look = self._retry_at = float("-inf")
        self._restless_since: float | None = None

    def look(self) -> None:
        """At most every LOOK_S seconds; never raises an Exception."""
        now = self._clock.steady()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        digest = _digest(self._path) + (self._beside(self.config) if self.config else "")
        at_rest, self._digest = digest == self._digest, digest
        self._note_rest(at_rest, now)
        has_changed = digest != self._digest_read and (at_rest or self.config is None)
        if has_changed or (self._refusal and now >= self._retry_at):
            self._digest_read, self._retry_at = digest, now + RETRY_S
            self._read()
        self._look_for_files()

    def refuse_in_force(self, error: Refused) -> None:
        """The agent cannot be assembled from the configuration in force: back to the former one, None without one."""
        self._unusable = self.config
        self.config, self.loaded_at = self._former
        self._former = None, float("nan")
        self._refuse(error)

    @property
    def status(self) -> tuple[bool, str]:
        states = self._refusal, self._restless(), *self._missing, *self._moved_ports()
        problems = [problem for problem in states if problem]
        if problems:
            return False, "; ".join(problems)
        if self.config is None:
            return False, "not read yet"
        return True, f"{self._path}, read at {_shown(self.loaded_at)}"

    def _note_rest(self, at_rest: bool, now: float) -> None:
        if at_rest or self.config is None:
            self._restless_since = None
        elif self._restless_since is None:
            self._restless_since = now

    def _restless(self) -> str:
        since = self._restless_since
        if since is None or self._clock.steady() - since < RESTLESS_S:
            return ""
        return (
            f"{self._path} has changed at each look for {self._clock.steady() - since:.0f} s, so it is not read: "
            f"whatever writes it has to leave it alone for {2 * LOOK_S:.0f} s; the one read at "
            f"{_shown(self.loaded_at)} stays in force"
        )

    def _read(self) -> None:
        try:
            config = self._load(self._path)
        except Exception as error:
            self._refuse(error)
            return
        if self.config is not None and config == self._unusable:
            return  # still refused: to try it again would stop the agent that runs by the former one
        self._refusal, self._unusable = "", None
        if config != self.config:
            self._former = self.config, self.loaded_at
            self.config = config
        self.loaded_at = self._clock.now()
        log.info("configuration_read", path=str(self._path))

    def _refuse(self, error: Exception) -> None:
        why = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        if (self._digest_read, why) != self._logged:  # once, and not for each try
            self._logged = self._digest_read, why
            log.error("configuration_refused", why=why, exc_info=None if isinstance(error, Refused) else error)
        if why not in self._refusal:
            self._refusal = self._in_words(why)

    def _in_words(self, why: str) -> str:
        if self.config is None:
            return f"{why}; read again when it changes, and every {RETRY_S:.0f} s"
        now, former = _shown(self._clock.now()), _shown(self.loaded_at)
        return f"changed at {now} and is refused: {why}; the former one, of {former}, stays in force"

    def _moved_ports(self) -> list[str]:
        if self.config is None:
            return []
        telemetry = self.config.telemetry
        wanted = {"prometheus_port": telemetry.prometheus_port, "control_port": telemetry.control_port}
        return [
            f"telemetry.{name}: {port} takes a restart of the container; {at_start}, as at the start, stays"
            for (name, port), at_start in zip(wanted.items(), self._ports, strict=True)
            if at_start not in (None, port)
        ]

    def _look_for_files(self) -> None:
        try:
            missing = tuple(map(str, missing_files(self.config))) if self.config is not None else ()
        except OSError as error:  # a folder on the way that cannot be entered
            missing = (f"a file that the configuration names: {error.strerror}",)
        if missing and missing != self._missing:
            log.warning("configured_files_missing", missing=missing)
        elif missing != self._missing:
            log.info("configured_files_found")
        self._missing = missing


def configured_ports(path: Path) -> tuple[int, int]:
    """The public and the control port that the file asks for, as far as they can be read of it, else the defaults.

    Of a file that is no YAML too: the health servers are up before anything is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    except OSError:
        text = ""
    try:
        section = yaml_document.read(path).get("telemetry") if text else None
    except Exception:  # whatever a parser may raise: /livez comes first, and ``look`` will tell
        section = _lines_of(text)
    ports = section if isinstance(section, dict) else {}
    default = Telemetry()
    return (
        _port(ports.get("prometheus_port"), default.prometheus_port),
        _port(ports.get("control_port"), default.control_port),
    )


def _lines_of(text: str) -> dict[str, int]:
    """``prometheus_port: 9464`` and the like, wherever it stands in front of a comment."""
    plain = re.sub(r"#.*", "", text)
    named = re.finditer(r"\b(prometheus_port|control_port)\b[\"']?[ \t]*:[ \t]*(\d{1,5})\b", plain)
    return {match[1]: int(match[2]) for match in named}


def _port(value: object, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535 else default


def _digest(path: Path) -> str:
    """Of the file's content, or what is there instead. A pipe is read once, by ``load`` alone."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else NO_FILE
    except OSError as error:
        return str(error.strerror)


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")
