"""The form of the benchmarks' output: missed targets come first, and docs/results.md agrees with the result files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import orjson
import pytest
from scipy.stats import binom

from benchmarks import results_page
from benchmarks.figures import (
    at_least,
    at_most,
    binomial_interval,
    context,
    exactly,
    machine,
    measured_tree,
    report,
    share,
    stored_figures,
)


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
    assert [line.rpartition(" | ")[0] for line in missed.splitlines() if line.startswith("| ")][1:] == [
        "| one | slow \\| late | 3 s |  | 2",
        "| two | few | 1 of 9 |  | 9",
    ]
    report([at_most("good", 1.0, "s", 2.0)], 1, files[0])
    assert "## Missed\n\nNothing." in results_page.page(files[:1])


def test_the_page_of_results_is_what_the_result_files_say() -> None:
    files = sorted(results_page.RESULTS.glob("*.json"))
    assert files
    before = results_page.values_before(sorted(results_page.BEFORE.glob("*.json")))
    assert results_page.PAGE.read_text() == results_page.page(files, before)


def test_a_figure_of_an_earlier_commit_stands_beside_today_s(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("today.json", "abc1234.json")]
    for file, pages in zip(files, (2.0, 14.0), strict=True):
        report([at_most("pages", pages, "pages", 3.0), context("other", 1.0, "")], 1, file)
    files[1].write_bytes(orjson.dumps({"figures": [{"name": "pages", "value": 14.0, "unit": "pages"}]}))
    page = results_page.page(files[:1], results_page.values_before(files[1:]))
    assert f"| pages | 2 pages | 14 pages (abc1234) | 3 | met | {measured_tree()} |" in page
    assert f"| other | 1  |  |  |  | {measured_tree()} |" in page


def test_a_file_without_commits_and_intervals_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    row = {"name": "share", "value": 90.0, "unit": "%", "target": 95, "met": False}
    file.write_bytes(orjson.dumps({"figures": [row], "machine": machine(), "seed": 1}))
    (figure,) = stored_figures(file)
    assert (figure.commit, figure.interval) == ("", None)
    assert f"| share | 90 % |  | 95 | **missed** | {results_page.NOT_RECORDED} |" in results_page.section(file)
    report([figure], 1, file)
    assert orjson.loads(file.read_bytes())["figures"] == [row]


def test_a_share_comes_with_its_interval_in_the_file_and_on_the_page(tmp_path: Path) -> None:
    file = tmp_path / "shares.json"
    report([share("right", 95, 100, target=97.0)], 1, file)
    (figure,) = stored_figures(file)
    assert figure == share("right", 95, 100, target=97.0) and figure.met is False
    # R: binom.test(95, 100)
    assert figure.interval == pytest.approx((88.71651, 98.35681), abs=1e-4)
    assert "| right | 95 % (88.72 to 98.36) |  | 97 |" in results_page.section(file)


@pytest.mark.parametrize("chance", [0.5, 0.95, 0.995])
def test_the_interval_of_a_share_covers_with_at_least_95_per_cent(chance: float) -> None:
    """Exactly, by the sum over all outcomes of 40 cases."""
    hits = np.arange(41)
    inside = [low <= chance <= high for low, high in (binomial_interval(int(hit), 40) for hit in hits)]
    assert binom.pmf(hits, 40, chance)[inside].sum() >= 0.95


def test_the_tree_of_a_figure_is_named_by_its_commit() -> None:
    head = subprocess.run(["git", "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=False)
    assert measured_tree().removesuffix("+") == head.stdout.strip()
    assert at_most("x", 1.0, "", 2.0).commit == measured_tree() == machine()["commit"]
