"""Whether an adapter differs from its base at all: the chance of saying so wrongly, and that it is said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from detectors.canaries.first_difference import first_difference
from detectors.errors import ShapeMismatch
from detectors.records import Floats

PROMPTS = 8


def drawn(rng: np.random.Generator, gap: float, noise: float, tokens: int = 16) -> list[tuple[Floats, Floats]]:
    """Heavy-tailed noise on both names, the adapter's answers moved by a constant."""
    shape = (2, tokens)
    return [
        (
            np.asarray(gap + noise * rng.standard_t(2, shape), np.float32),
            np.asarray(noise * rng.standard_t(2, shape), np.float32),
        )
        for _ in range(PROMPTS)
    ]


def test_seven_of_eight_prompts_are_needed_which_chance_gives_in_one_of_380() -> None:
    compared = first_difference(drawn(np.random.default_rng(1), 0.0, 1.0))
    assert (compared.prompts, compared.needed) == (8, 7)
    assert binom.sf(6, 8, 1 / 3) == pytest.approx(17 / 3**8) and 17 / 3**8 <= 0.01 < binom.sf(5, 8, 1 / 3)


def test_where_the_base_answers_under_both_names_a_difference_is_as_rare_as_promised() -> None:
    rng, tries = np.random.default_rng(20), 4000
    wrong = sum(first_difference(drawn(rng, 0.0, 1.0)).differs for _ in range(tries))
    expected = tries * 17 / 3**8
    assert abs(wrong - expected) <= 4 * expected**0.5


def test_one_answer_given_four_times_is_no_difference() -> None:
    same = np.full((2, 16), -1.5, np.float32)
    compared = first_difference([(same, same)] * PROMPTS)
    assert (compared.differs, compared.apart, compared.gap, compared.noise) == (False, 0, 0.0, 0.0)


def test_an_adapter_is_apart_by_its_gap_whose_size_is_the_mean_difference() -> None:
    compared = first_difference(drawn(np.random.default_rng(3), 0.5, 0.001))
    assert compared.differs and compared.apart == PROMPTS
    assert compared.gap == pytest.approx(0.5, abs=0.005) and compared.noise < 0.01


def test_two_prompts_are_too_few_to_tell() -> None:
    few = first_difference(drawn(np.random.default_rng(3), 0.5, 0.001)[:4])
    assert few.needed is None and not few.differs


def test_answers_of_other_shapes_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="of each, T >= 1"):
        first_difference([(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))])
    with pytest.raises(ShapeMismatch):
        first_difference([(np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32))])
