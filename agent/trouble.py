"""What is wrong with one part now, in words: a line in the log when that begins and one when it ends, none a try."""

from __future__ import annotations

import structlog

MOST_LOGGED = 8

log = structlog.get_logger(__name__)


class Trouble:
    """False while the part works; ``str`` of it is what is wrong, "" for nothing.

    part: its name in /readyz, by which the lines in the log name it
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._words = ""
        self._logged: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._words)

    def __str__(self) -> str:
        return self._words

    def begin(self, words: str) -> None:
        """What is wrong from now on. words: what was there, what is wanted, what to do; never a secret

        The same words are logged once until ``end``; so are at most MOST_LOGGED others, where each try fails otherwise.
        """
        if words not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(words)
            log.warning("part_not_ok", part=self._part, why=words)
        self._words = words

    def end(self) -> None:
        """Nothing is wrong any more."""
        if self._words:
            log.info("part_ok_again", part=self._part, was=self._words)
        self._words = ""
        self._logged.clear()
