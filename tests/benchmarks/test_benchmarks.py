"""The form of the benchmarks' output: missed targets come first, and docs/results.md agrees with the result files."""

from __future__ import annotations

from pathlib import Path

import orjson

from benchmarks import results_page
from benchmarks.figures import at_least, at_most, context, exactly, report


def test_a_missed_target_is_marked() -> None:
    assert at_most("x", 2.0, "s", 1.0).met is False
    assert at_most("x", 1.0, "s", 1.0).met is True
    assert at_least("x", 0.5, "s", 1.0).met is False
    assert exactly("x", 1.0, "", 0.0).met is False
    assert context("x", 1.0, "").met is None


def test_misses_stand_first_in_the_table_of_a_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "made_up.json"
    report([context("shown", 3.0, ""), at_most("good", 1.0, "s", 2.0), at_most("bad", 3.0, "s", 2.0)], 1, file)
    lines = [line for line in results_page.section(file).splitlines() if line.startswith("| ") and "figure" not in line]
    assert [line.split(" | ")[0] for line in lines] == ["| bad", "| good", "| shown"]
    assert "**missed**" in lines[0]
    assert orjson.loads(file.read_bytes())["seed"] == 1


def test_the_page_begins_with_every_miss_of_every_benchmark(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    report([at_most("slow | late", 3.0, "s", 2.0), at_most("good", 1.0, "s", 2.0)], 1, files[0])
    report([at_least("few", 1.0, "of 9", 9.0)], 1, files[1])
    page = results_page.page(files)
    missed = page[page.index("## Missed") : page.index("## one")]
    assert [line for line in missed.splitlines() if line.startswith("| ")][1:] == [
        "| one | slow \\| late | 3 s | 2 |",
        "| two | few | 1 of 9 | 9 |",
    ]
    report([at_most("good", 1.0, "s", 2.0)], 1, files[0])
    assert "## Missed\n\nNothing." in results_page.page(files[:1])


def test_the_page_of_results_is_what_the_result_files_say() -> None:
    files = sorted(results_page.RESULTS.glob("*.json"))
    assert files
    assert results_page.PAGE.read_text() == results_page.page(files)
