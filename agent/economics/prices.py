"""The section ``costs`` of the configuration: what machines, tokens and people cost, in one currency.

The defaults are round figures of public price lists, there so that a table can be made before anybody has filled them
in. Whoever decides by the table puts their own here; the table says which are still the defaults.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from detectors.economics.own_cost import Prices

HOUR_S = 3600.0
GB = 1e9
MILLION = 1e6
DAYS_A_MONTH = 30.4


class Costs(BaseModel):
    """gpu_hour, cpu_hour: of one card, of one core; stored_gb_month: of a gigabyte in ClickHouse, replicas included

    input_million, output_million: of a million tokens that the serving engine reads and writes, whoever asks for them
    models_on: what gapwatch's own models run on, whose seconds are priced; requests to an engine are priced in tokens
    person_day: of whoever curates data, trains and deploys
    target: the share of the cost of serving that the watch may have; ``gapwatch cost`` ends with 1 above it
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    currency: str = Field(default="EUR", pattern=r"^\S{1,8}$")
    gpu_hour: float = Field(default=2.0, ge=0)
    cpu_hour: float = Field(default=0.04, ge=0)
    stored_gb_month: float = Field(default=0.1, ge=0)
    input_million: float = Field(default=0.1, ge=0)
    output_million: float = Field(default=0.4, ge=0)
    models_on: Literal["cpu", "gpu"] = "cpu"
    person_day: float = Field(default=600.0, ge=0)
    target: float = Field(default=0.01, gt=0, lt=1)

    @property
    def prices(self) -> Prices:
        """Of one unit each."""
        return Prices(
            gpu_s=self.gpu_hour / HOUR_S,
            cpu_s=self.cpu_hour / HOUR_S,
            byte_day=self.stored_gb_month / GB / DAYS_A_MONTH,
            input_token=self.input_million / MILLION,
            output_token=self.output_million / MILLION,
        )

    @property
    def unset(self) -> tuple[str, ...]:
        """Prices that are still the defaults, by their names in the section."""
        return tuple(name for name in PRICES if getattr(self, name) == Costs.model_fields[name].default)


PRICES = ("gpu_hour", "cpu_hour", "stored_gb_month", "input_million", "output_million", "person_day")
