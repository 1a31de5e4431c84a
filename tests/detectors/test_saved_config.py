"""Which saved evidence still counts: settings of then beside those of today."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from enum import Enum

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.registry import load, names
from detectors.saved_config import config_json, same_config

# Of a detector whose saved evidence once meant something else; all others have the first.
LAYOUTS = {"adapter_gap": 2, "base_shift": 2, "embedding_drift": 2}


class Kind(Enum):
    ONE = 1
    OTHER = 2


@dataclass(frozen=True)
class Inner:
    share: float = 0.05
    per_adapter: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    inner: Inner = field(default_factory=Inner)
    pairs: tuple[tuple[float, float], ...] = ((0.1, 32.0), (1.0, math.inf))
    bets: int = 8
    kinds: tuple[Kind, ...] = (Kind.ONE,)
    cap: float = field(default=21.5, compare=False)


def saved(config: object) -> object:
    """As a file holds it."""
    return json.loads(json.dumps(config_json(config), allow_nan=False))


@pytest.mark.parametrize("name", names())
def test_every_detectors_settings_are_known_again(name: str) -> None:
    config = load(name).Config()
    assert same_config(saved(config), config)
    assert same_config(repr(config), config), "as files of earlier versions hold them"
    assert load(name).State().layout == LAYOUTS.get(name, 1)


@pytest.mark.parametrize(
    "other",
    [
        Config(bets=4),
        Config(kinds=(Kind.OTHER,)),
        Config(inner=Inner(share=0.1)),
        Config(inner=Inner(per_adapter={"router": 0.1})),
        Config(pairs=((0.1, 32.0), (1.0, 430.0))),
    ],
)
def test_another_promise_is_another_one(other: Config) -> None:
    assert not same_config(saved(other), Config()) and not same_config(saved(Config()), other)
    assert not same_config(repr(other), Config())


def test_a_field_that_is_not_compared_is_no_promise() -> None:
    assert same_config(saved(Config(cap=15.0)), Config())


def test_a_field_newer_than_the_file_counts_as_its_default_and_one_that_is_gone_as_a_difference() -> None:
    file = {"inner": {}, "pairs": [[0.1, 32.0], [1.0, "inf"]]}
    assert same_config(file, Config())
    assert not same_config(file, Config(bets=4))
    assert not same_config(file, Config(inner=Inner(share=0.1)))
    assert not same_config(file | {"gone": 1}, Config())


def test_an_adapters_own_tolerance_is_part_of_the_promise() -> None:
    adapter_gap = load("adapter_gap").Config
    strict = adapter_gap(replace(Tolerances(), per_adapter={"router": 0.01}))
    assert same_config(saved(strict), strict) and not same_config(saved(strict), adapter_gap())
