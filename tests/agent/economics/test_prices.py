"""Are prices of one unit, and is it said which nobody has set?"""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.economics.prices import PRICES, Costs


def test_prices_are_of_one_unit() -> None:
    prices = Costs(gpu_hour=3.6, cpu_hour=0.36, stored_gb_month=30.4, input_million=1.0, output_million=2.0).prices
    assert prices.gpu_s == pytest.approx(1e-3) and prices.cpu_s == pytest.approx(1e-4)
    assert prices.byte_day == pytest.approx(1e-9) and (prices.input_token, prices.output_token) == (1e-6, 2e-6)


def test_what_is_still_a_default_is_named() -> None:
    assert Costs().unset == PRICES
    assert Costs(gpu_hour=2.5).unset == PRICES[1:]


@pytest.mark.parametrize("wrong", [{"gpu_hour": -1.0}, {"target": 0.0}, {"models_on": "tpu"}, {"watts": 3.0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Costs.model_validate(wrong)
