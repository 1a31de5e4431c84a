"""The result of one check of gapwatch doctor, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.errors import AgentError
from probes.errors import ProbeError


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check, in words. wanted: what to do where it is not ok

    is_known: False where nobody can say whether it is; it is then not ok
    """

    part: str
    ok: bool
    result: str
    wanted: str = ""
    is_known: bool = True

    @property
    def as_row(self) -> dict[str, str | bool]:
        """As --json prints it: its keys are read by programs."""
        return {"part": self.part, "ok": self.ok, "seen": self.result, "wanted": self.wanted}


def tried(part: str, attempt: Callable[[], str], wanted: str) -> Check:
    """What the attempt says; where it raises, that in words. wanted: what to do then"""
    try:
        return Check(part, True, attempt())
    except OSError as error:  # without its path: the secret itself may stand where its file should be named
        return Check(part, False, error.strerror or type(error).__name__, wanted)
    except (AgentError, ProbeError, ValueError) as error:
        return Check(part, False, str(error), wanted)
    except Exception as error:
        return Check(part, False, f"{type(error).__name__}: {error}", wanted)
