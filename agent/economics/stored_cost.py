"""The watch's own cost, from what the store answers to three of its questions, or from two where the third fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.config import Config
from agent.economics.measured_cost import QUESTIONS, Measured, Row, measured_cost, rows_of
from agent.errors import AgentError

Ask = Callable[[str, Mapping[str, str]], tuple[Sequence[str], Sequence[Sequence[Any]]]]
"""Name of an on-call question, its parameters -> columns and rows."""
# An account may be kept from the sizes of tables; of the two other questions nothing would be left to say.
MAY_FAIL = "stored"


@dataclass(frozen=True, slots=True)
class StoredCost:
    """missing: what is not in it, in words, "" where all is"""

    measured: Measured
    missing: str = ""


def stored_cost(config: Config, ask: Ask, days: int, now: float) -> StoredCost:
    """Of the last days of this cluster. Raises what ``ask`` raises."""
    rows: dict[str, Sequence[Row]] = {}
    missing = ""
    for question in QUESTIONS:
        params = {} if question == MAY_FAIL else {"days": str(days)}
        try:
            rows[question] = rows_of(*ask(question, params), config.cluster)
        except AgentError as error:
            if question != MAY_FAIL:
                raise
            rows[question], missing = (), f"storage: {error}"
    spent, served, stored = (rows[question] for question in QUESTIONS)
    on_gpu = config.costs.models_on == "gpu"
    return StoredCost(measured_cost(spent, served, stored, bases_of(config), on_gpu, now), missing)


def bases_of(config: Config) -> dict[str, str]:
    """Adapter, or a base whose own requests are counted under its name -> the base."""
    adapters = {own.name: model.name for model in config.models for own in model.adapters}
    return adapters | {base: base for base in config.base_requests.values()}
