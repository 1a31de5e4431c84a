"""The benchmarks' own form: what is missed is told first, and the README's table says what the files say."""

from __future__ import annotations

from pathlib import Path

import orjson

from benchmarks import results_page
from benchmarks.figures import at_least, at_most, context, exactly, report


def test_a_figure_that_is_missed_says_so() -> None:
    assert at_most("x", 2.0, "s", 1.0).met is False
    assert at_most("x", 1.0, "s", 1.0).met is True
    assert at_least("x", 0.5, "s", 1.0).met is False
    assert exactly("x", 1.0, "", 0.0).met is False
    assert context("x", 1.0, "").met is None


def test_misses_stand_first_in_the_table_of_the_readme(tmp_path: Path) -> None:
    file = tmp_path / "made_up.json"
    report([context("shown", 3.0, ""), at_most("good", 1.0, "s", 2.0), at_most("bad", 3.0, "s", 2.0)], 1, file)
    lines = [line for line in results_page.section(file).splitlines() if line.startswith("| ") and "figure" not in line]
    assert [line.split(" | ")[0] for line in lines] == ["| bad", "| good", "| shown"]
    assert "**missed**" in lines[0]
    assert orjson.loads(file.read_bytes())["seed"] == 1


def test_the_readme_holds_exactly_what_the_result_files_say() -> None:
    text = (results_page.ROOT / "README.md").read_text()
    held = text.split(results_page.BEGIN)[1].split(results_page.END)[0]
    for file in sorted((results_page.ROOT / "benchmarks" / "results").glob("*.json")):
        assert results_page.section(file) in held
