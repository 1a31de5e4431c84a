"""What was measured of an adapter's worth, as a file beside its passport: ``GOLDEN_DIR/passports/ADAPTER/worth.yaml``.

Written by ``gapwatch worth``, read by ``gapwatch portfolio``, the status page and the agent, which stores it and says
once, as a change event and never as a page, that the base alone passes.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent import config_errors, yaml_document
from agent.lifecycle.clocks import Clock, ClockKind, stage_of
from agent.lifecycle.passport_file import folder_of, write_whole
from detectors.economics.worth import Difference, Worth

FILE = "worth.yaml"
WORDS = (
    "its base {base} alone passes {right} of {checked} checks of its canaries (accepted with {accepted}; measured on "
    "{on}): it may be retired. Nothing is broken"
)


class Prompted(BaseModel):
    """The base with examples in its prompt, on the held-out canaries. examples: k; right of checked pass

    extra_tokens: of one request, more than without examples
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    examples: int = Field(ge=0)
    checked: int = Field(ge=0)
    right: int = Field(ge=0)
    extra_tokens: float = Field(ge=0)

    @property
    def share(self) -> float:
        """Of right answers; nan of none."""
        return self.right / self.checked if self.checked else float("nan")


class MeasuredWorth(BaseModel):
    """See ``detectors.economics.worth.Assessment``. at: when; golden: hash of the record whose canaries were asked

    base, base_hash: that answered; original_*: of the accepted adapter over the accepted base, None where that was not
    at hand; adapter_held_out: right answers of the adapter on the canaries that ``prompted`` is about
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    adapter: str
    base: str
    at: datetime
    golden: str
    base_hash: str = ""
    worth: Worth
    checked: int
    accepted_right: int
    adapter_right: int
    base_right: int
    gain: float | None
    gain_low: float
    gain_high: float
    base_loss: float | None
    base_loss_high: float
    original_gain: float | None = None
    original_low: float | None = None
    original_high: float | None = None
    adapter_held_out: int = 0
    prompted: tuple[Prompted, ...] = ()

    @property
    def original(self) -> Difference | None:
        if self.original_gain is None or self.original_low is None or self.original_high is None:
            return None
        return Difference(self.original_gain, self.original_low, self.original_high, self.checked)

    @property
    def left(self) -> float | None:
        """Share of the original gain that is left, None where that is not known or may be 0."""
        before = self.original
        return self.gain / before.mean if before and before.low > 0 and self.gain is not None else None

    @property
    def words(self) -> str:
        """That it may be retired; for people."""
        return WORDS.format(
            base=self.base, right=self.base_right, checked=self.checked, accepted=self.accepted_right, on=self.on
        )

    @property
    def on(self) -> date:
        return self.at.astimezone(UTC).date()

    def clock(self, today: date) -> Clock | None:
        """What is said of it like anything else that runs out: from the day on which it was measured, once a month."""
        if self.worth is not Worth.BASE_PASSES:
            return None
        return Clock(self.adapter, ClockKind.BASE_PASSES, self.on, stage_of(self.on, today), self.words)


def read(golden_dir: Path, adapter: str) -> MeasuredWorth | None:
    """None where it was never measured. Raises Refused for a file that cannot be read."""
    path = folder_of(golden_dir, adapter) / FILE
    if not path.is_file():
        return None
    try:
        return MeasuredWorth.model_validate(yaml_document.read(path))
    except ValidationError as error:
        raise config_errors.refused(path, error.errors()[0]) from None


def write(golden_dir: Path, measured: MeasuredWorth) -> Path:
    """Whole or not at all, in place of the measurement before."""
    path = folder_of(golden_dir, measured.adapter) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(measured.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    return path
