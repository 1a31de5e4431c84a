"""Does the form take what the passport says, and name what it does not say?"""

from __future__ import annotations

from agent.economics.form import form_of
from agent.lifecycle.passport import Economics, Passport
from detectors.economics.choices import Assumptions


def test_the_form_of_the_passport_is_that_of_the_arithmetic() -> None:
    assert set(Economics.model_fields) == set(Assumptions.__dataclass_fields__)


def test_what_is_filled_in_is_taken_and_the_rest_is_named_as_a_default() -> None:
    form, defaults = form_of(Passport(adapter="router", economics=Economics(failed_runs=0.0, horizon_days=0.0)))
    assert form == Assumptions(failed_runs=0.0)
    assert "failed_runs" not in defaults and {"horizon_days", "curation_days"} <= set(defaults)
    assert form_of(None) == (Assumptions(), tuple(Assumptions.__dataclass_fields__))
