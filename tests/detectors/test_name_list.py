"""A list of names ends, however many there are."""

from __future__ import annotations

import pytest

from detectors.name_list import first_names


@pytest.mark.parametrize(
    ("count", "listed"),
    [
        (0, ""),
        (1, "a0"),
        (6, "a0, a1, a2, a3, a4, a5"),
        (7, "a0, a1, a2, a3, a4, a5 and 1 more"),
        (100, "a0, a1, a2, a3, a4, a5 and 94 more"),
    ],
)
def test_the_first_six_are_named_and_the_others_counted(count: int, listed: str) -> None:
    assert first_names([f"a{number}" for number in range(count)]) == listed
