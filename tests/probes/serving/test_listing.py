"""Is what an engine lists put into one form, and refused where it is not the token distribution of the raw model?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from probes.errors import Unreplayable
from probes.serving.listing import Position, joined, listed_of

HALF, FOURTH, EIGHTH = math.log(0.5), math.log(0.25), math.log(0.125)
WHERE = "http://engine:8000/v1/completions"


def position(**changed: float) -> Position:
    """Tokens 7, 4 and 9, the most probable last, and the given one beyond them."""
    return Position(2, math.log(0.01), {7: FOURTH, 4: EIGHTH, 9: HALF} | {int(k[1:]): v for k, v in changed.items()})


def test_the_most_probable_come_first() -> None:
    listed = listed_of([position()], 3, WHERE)
    assert listed.ids.tolist() == [[9, 7, 4]]
    assert listed.log_probs[0] == pytest.approx([HALF, FOURTH, EIGHTH])
    assert (listed.tokens.tolist(), listed.of_tokens[0]) == ([2], pytest.approx(math.log(0.01)))


def test_equal_ones_come_by_id_whatever_the_engines_order() -> None:
    orders = [Position(3, FOURTH, dict(pairs)) for pairs in ([(8, FOURTH), (3, FOURTH)], [(3, FOURTH), (8, FOURTH)])]
    assert [listed_of([one_order], 2, WHERE).ids.tolist() for one_order in orders] == [[[3, 8]], [[3, 8]]]


def test_the_given_token_beyond_the_most_probable_is_none_of_them() -> None:
    """Otherwise its value would bound those of all tokens that are not listed."""
    beyond = Position(2, math.log(0.01), {9: HALF, 7: FOURTH, 2: math.log(0.01)})
    assert listed_of([beyond], 2, WHERE).ids.tolist() == [[9, 7]]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Position(2, math.nan, {9: HALF, 7: FOURTH, 4: EIGHTH}), "not finite"),
        (position(t7=math.nan), "not finite"),
        (position(t7=-math.inf), "not finite"),
        (position(t9=0.5), "above 0"),
        (position(t9=17.0), "above 0"),
        (position(t4=-9999.0), "a sampler removed"),
        (position(t4=math.log(0.2505), t7=math.log(0.25051)), "1.001 together"),
        (Position(9, math.log(0.3), {9: HALF, 7: FOURTH, 4: EIGHTH}), "not the listed one"),
        (Position(2, math.log(0.2), {9: HALF, 7: FOURTH, 4: EIGHTH}), "not the listed one"),
        (Position(9, HALF, {9: HALF, 7: FOURTH}), "lists 2 tokens at a position, wanted 3"),
    ],
)
def test_what_no_raw_model_lists(bad: Position, words: str) -> None:
    with pytest.raises(Unreplayable, match=words):
        listed_of([position(), bad], 3, WHERE)


def test_rounding_is_no_reason_to_refuse() -> None:
    """Listed probabilities of a whole vocabulary in 32 bits."""
    logits = np.random.default_rng(1).standard_normal(2000).astype(np.float32)
    values = logits - np.float32(np.log(np.exp(logits).sum()))
    whole = Position(5, float(values[5]), {i: float(value) for i, value in enumerate(values)})
    assert listed_of([whole], 2000, WHERE).ids.shape == (1, 2000)


def test_answers_in_a_row_are_one() -> None:
    listed = joined([listed_of([position()], 3, WHERE), listed_of([position(), position()], 3, WHERE)])
    assert (listed.ids.shape, listed.of_tokens.shape) == ((3, 3), (3,))
