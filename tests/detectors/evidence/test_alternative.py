from __future__ import annotations

import json
import pickle

import pytest

from detectors.evidence.alternative import (
    BASE,
    DOUBLE_STRENGTH,
    FOUR_BITS,
    HALF_STRENGTH,
    PREVIOUS,
    Alternative,
    AlternativeKind,
    interpolation,
    other_adapter,
    rounded,
    without,
)

STORED = {
    "base": BASE,
    "path 0.25": interpolation(0.25),
    "path 0.5": interpolation(0.5),
    "path 0.75": interpolation(0.75),
    "half": HALF_STRENGTH,
    "double": DOUBLE_STRENGTH,
    "4 bits": FOUR_BITS,
    "previous": PREVIOUS,
    "adapter:rewriter": other_adapter("rewriter"),
    "path 0.5 adapter:rewriter": interpolation(0.5, "rewriter"),
    "without layers.0-7": without("layers.0-7"),
    "rounded 4/32": rounded("4/32"),
}
# Adapters may have any printable name, one that reads like an alternative too.
ODD_NAMES = ("", "adapter:x", "a:b:c", "a\tb", "\tprevious", "base", "path 0.5", " spaced ", "名前", "a\nb", "4 bits")


@pytest.mark.parametrize(("text", "alternative"), STORED.items())
def test_the_stored_texts_are_those_of_the_versions_before(text: str, alternative: Alternative) -> None:
    assert alternative.text == text
    assert Alternative.from_text(text) == alternative


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_adapter_name_survives_its_text(name: str) -> None:
    stored = json.loads(json.dumps(other_adapter(name).text))
    assert stored == f"adapter:{name}"
    assert Alternative.from_text(stored) == other_adapter(name)
    assert Alternative.from_text(interpolation(0.5, name).text) == interpolation(0.5, name)


@pytest.mark.parametrize("share", [0.0, 1 / 3, 0.1 + 0.2, 1.0, 1.5, 1e-9])
def test_a_share_survives_its_text_to_the_last_bit(share: float) -> None:
    assert Alternative.from_text(interpolation(share).text) == interpolation(share)


@pytest.mark.parametrize(
    "text", ["something new", "", "path", "path x", "path nan", "path 0.50", "Base", "halfway", "rounded 4"]
)
def test_a_text_that_this_version_does_not_know_is_kept(text: str) -> None:
    unknown = Alternative.from_text(text)
    assert (unknown.kind, unknown.text) == (AlternativeKind.UNKNOWN, text)
    assert Alternative.from_text(unknown.text) == unknown


def test_equal_ones_are_one_key_also_after_pickling() -> None:
    named = dict.fromkeys([other_adapter("x"), interpolation(0.5)], 1)
    assert other_adapter("x") in named and pickle.loads(pickle.dumps(interpolation(0.5))) in named
    assert interpolation(2.0) != DOUBLE_STRENGTH
    assert rounded("4") == FOUR_BITS
