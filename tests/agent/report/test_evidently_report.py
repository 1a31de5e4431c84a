"""Evidently on columns with a known answer: its p-values are those of the test that the page names."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from scipy.stats import ks_2samp

from agent.report.contents import Column, Texts
from agent.report.evidently_report import LEVEL, NO_TELEMETRY, compared, described

# Evidently's own, and those of the packages that it imports.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def columns() -> list[Column]:
    random = np.random.default_rng(0)
    return [
        Column("canaries", "retention", random.normal(1, 0.02, 24), random.normal(0, 0.02, 30)),
        Column("requests", "answer: characters", random.normal(0, 1, 300), random.normal(0, 1, 200)),
        Column("requests", "constant before", np.ones(20), np.array([1.0] * 9 + [2.0])),
    ]


def test_p_values_are_of_the_test_that_is_named_and_columns_may_differ_in_length() -> None:
    drift = compared(columns())
    assert drift.level == LEVEL / 3
    for column in columns():
        assert drift.p_values[column.title] == pytest.approx(ks_2samp(column.healthy, column.incident).pvalue)
    below = [title for title, p in drift.p_values.items() if p < drift.level]
    assert below == ["canaries: retention"]
    assert "Dataset Drift is detected" in drift.document, "one column of three is enough: its level is shared out"


def test_its_document_loads_nothing() -> None:
    outside_scripts = re.sub(r"<script>.*?</script>", "", compared(columns()).document, flags=re.DOTALL)
    assert re.findall(r"(?:src|href)\s*=|url\((?!data:)|@import", outside_scripts) == []
    assert {name: os.environ[name] for name in NO_TELEMETRY} == NO_TELEMETRY


def test_descriptors_are_right_in_any_language() -> None:
    described_texts = described([Texts("answer", ("two words", "größer\nschöner Tag"), ("日本 語", "1 2"))])
    values = {column.title: (list(column.healthy), list(column.incident)) for column in described_texts}
    assert values == {
        "requests: answer: words": ([2, 3], [2, 2]),
        "requests: answer: lines": ([1, 2], [1, 1]),
        "requests: answer: characters that are no letters, %": (
            [0, pytest.approx(100 / 18)],
            [0, pytest.approx(200 / 3)],
        ),
    }
    assert described([]) == []
