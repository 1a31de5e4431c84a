"""The part "desired state": what should be served beside what is watched, asked now and then on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.clock import Clock
from agent.config import Config, Model
from agent.desired_state.kserve import Service, Source, differences, read_service
from agent.errors import AgentError
from agent.trouble import Trouble

PART = "desired state"
NOT_YET = "not read yet"
Read = Callable[[Source], Service]


@dataclass(frozen=True, slots=True)
class Compared:
    """One model. words: how desired and watched differ, () for not at all"""

    service: str
    words: tuple[str, ...] = ()


def source_of(model: Model) -> Source | None:
    """None where no desired state is configured."""
    wanted = model.desired
    return None if wanted is None else Source(wanted.api_url, wanted.llm_inference_service, wanted.api_dir)


def compared(model: Model, source: Source, read: Read = read_service) -> Compared:
    """Raises Retryable."""
    names = list(dict.fromkeys(adapter.served_as for adapter in model.adapters))
    return Compared(source.service, differences(read(source), model.requested_as, names, "watched"))


class DesiredState:
    """A status alone: nothing that it says reaches a detector, and nothing waits for it.

    sources: models, each with where its desired state is read; every_s: the shortest time between two looks
    """

    def __init__(
        self, sources: Sequence[tuple[Model, Source]], every_s: float, clock: Clock, read: Read = read_service
    ) -> None:
        self._sources, self._every_s, self._clock, self._read = tuple(sources), every_s, clock, read
        self._trouble, self._words = Trouble(PART), NOT_YET
        self._asked_at = float("-inf")
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> tuple[bool, str]:
        """Whether it is what is watched, and in words; begins another look where the last one is old."""
        answer = not self._trouble, str(self._trouble) or self._words
        is_asking = self._thread is not None and self._thread.is_alive()
        if self._clock.steady() - self._asked_at >= self._every_s and not is_asking:
            self._asked_at = self._clock.steady()
            self._thread = threading.Thread(target=self.look, name=PART, daemon=True)
            self._thread.start()
        return answer

    def look(self) -> None:
        """Read every source now."""
        try:
            looks = [compared(model, source, self._read) for model, source in self._sources]
        except AgentError as error:
            self._trouble.begin(str(error))
            return
        if words := _in_words(looks):
            self._trouble.begin(words)
        else:
            self._words = f"as watched: {', '.join(look.service for look in looks)}"
            self._trouble.end()


def desired_state(config: Config, clock: Clock) -> DesiredState | None:
    """None where no model has one."""
    sources = [(model, source) for model in config.models if (source := source_of(model)) is not None]
    every = [model.desired.every for model in config.models if model.desired is not None]
    return DesiredState(sources, min(every), clock) if sources else None


def _in_words(looks: Sequence[Compared]) -> str:
    return "; ".join(f"{look.service}: {', '.join(look.words)}" for look in looks if look.words)
