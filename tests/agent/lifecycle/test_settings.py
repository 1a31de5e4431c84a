"""Is a list of people read as it is meant, and a wrong one refused?"""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import Refused
from agent.lifecycle.settings import read_people


def test_one_person_a_line_and_remarks(tmp_path: Path) -> None:
    file = tmp_path / "people.txt"
    file.write_text("# on the team\nAda <ada@example.org>\n\nbob  # until March\n")
    assert read_people(file) == ("Ada <ada@example.org>", "bob")


def test_an_empty_list_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "people.txt").write_text("# nobody\n")
    with pytest.raises(Refused, match="nobody"):
        read_people(tmp_path / "people.txt")
    with pytest.raises(Refused, match="No such file"):
        read_people(tmp_path / "gone.txt")
