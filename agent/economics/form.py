"""Assumptions of one adapter: what its passport says, and the default of what nobody filled in."""

from __future__ import annotations

from agent.lifecycle.passport import Passport
from detectors.economics.choices import Assumptions


def form_of(passport: Passport | None) -> tuple[Assumptions, tuple[str, ...]]:
    """The form, and the names of its fields that are defaults. A horizon of no days is none: the default."""
    if passport is None:
        return Assumptions(), tuple(Assumptions.__dataclass_fields__)
    given = {name: value for name, value in passport.economics.model_dump().items() if value is not None}
    if not given.get("horizon_days", 1.0):
        del given["horizon_days"]
    return Assumptions(**given), tuple(name for name in Assumptions.__dataclass_fields__ if name not in given)
