"""Every kind of finding has rows, and rows of one table agree in their columns."""

from __future__ import annotations

from typing import get_args

import pytest

from agent.records import Finding
from agent.store.rows import to_rows
from agent.store.table_rows import Origin
from tests.agent import findings


def test_every_kind_of_finding_has_an_entry_of_its_own() -> None:
    assert set(to_rows.registry) - {object} == set(get_args(Finding))


def test_a_kind_without_an_entry_is_an_error_and_no_empty_answer() -> None:
    with pytest.raises(TypeError, match="no table for a str"):
        to_rows("a new kind", Origin())  # type: ignore[arg-type]


def test_rows_of_a_table_have_the_same_columns_in_the_same_order() -> None:
    columns: dict[str, list[str]] = {}
    again = (*findings.every_kind(), *findings.every_kind(findings.FIXED), findings.verdict())
    for group in (group for finding in again for group in to_rows(finding, Origin(store_text=True))):
        for row in group.rows:
            assert columns.setdefault(group.table, list(row)) == list(row)
