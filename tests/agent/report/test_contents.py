"""What two windows hold: one round of each canary, figures that were recorded, embeddings on shared axes, and gaps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agent.report.contents import AXES, LEAST, Rows, contents_of


def canary(name: str, retention: float, **more: Any) -> dict[str, Any]:
    figures = {"scale": retention, "kl_golden_served": 0.0, "kl_served_base": math.nan, "top1_agreement": None}
    return {"canary": name, "retention": retention, **(figures | more)}


def request(output: str = "", tokens: int = 0, reason: str = "stop", prompt: str = "") -> dict[str, Any]:
    lengths = {"prompt_chars": 10, "output_chars": len(output), "prompt_tokens": 0, "output_tokens": tokens}
    return {"prompt": prompt, "output": output, "finish_reason": reason, **lengths}


def vectors(n: int, moved: float, d: int = 16, seed: int = 0) -> list[dict[str, Any]]:
    rows = np.random.default_rng(seed).normal(0, 1, (n, d))
    rows[:, 0] += moved
    return [{"vector": row.tolist()} for row in rows]


def test_each_canary_counts_once_and_the_most_changed_is_first() -> None:
    healthy = Rows([canary("a", 1.0), canary("b", 0.98), canary("a", 0.5), {**canary("d", 1), "retention": None}])
    incident = Rows([canary("b", 0.9), canary("a", 0.1), canary("c", 0.0), canary("d", math.nan)])
    contents = contents_of(healthy, incident)
    retention = next(column for column in contents.columns if column.title == "canaries: retention")
    assert sorted(retention.healthy) == [0.98, 1.0] and sorted(retention.incident) == [0.0, 0.1, 0.9]
    moved = [(canary.name, canary.healthy, canary.incident) for canary in contents.moved]
    assert moved == [("a", 1.0, 0.1), ("b", 0.98, 0.9)]
    assert {column.title for column in contents.columns} == {"canaries: retention", "canaries: effective scale"}, (
        "one that is the same everywhere, and ones without a number, are left out"
    )
    assert contents.counts["canaries"] == (3, 4)


def test_tokens_that_were_not_recorded_are_no_zeros() -> None:
    contents = contents_of(
        Rows(requests=[request("abc", 3), request("abcd", 0), request("a", 5)]),
        Rows(requests=[request("abc", 7, "length"), request("ab", 9, "")]),
    )
    columns = {column.title: column for column in contents.columns}
    assert set(columns) == {"requests: answer: characters", "requests: answer: tokens"}
    assert list(columns["requests: answer: tokens"].healthy) == [3, 5]
    assert contents.ended == (("length", 0, 1), ("not recorded", 0, 1), ("stop", 3, 0))
    (texts,) = contents.texts
    assert texts.name == "answer" and texts.incident == ("abc", "ab")


def test_embeddings_are_projected_on_axes_of_both_windows() -> None:
    shifted = contents_of(
        Rows(embedded={"output": vectors(50, 0.0)}), Rows(embedded={"output": vectors(40, 30.0, seed=1)})
    )
    assert [column.name for column in shifted.columns] == [f"axis {i + 1}" for i in range(AXES)]
    first = shifted.columns[0]
    assert first.part == "answer embeddings" and len(first.healthy) == 50 and len(first.incident) == 40
    assert abs(first.healthy.mean() - first.incident.mean()) == pytest.approx(30.0, abs=1.0)
    (cloud,) = shifted.clouds
    assert cloud.counts == (50, 40) and cloud.explained > 0.9 and max(cloud.p_values.values()) < 0.01


def test_vectors_of_another_base_are_left_out() -> None:
    several = [*vectors(30, 0.0), *vectors(5, 0.0, d=8)]
    contents = contents_of(Rows(embedded={"prompt": several}), Rows(embedded={"prompt": vectors(20, 0.0, seed=1)}))
    (cloud,) = contents.clouds
    assert cloud.counts == (30, 20) and min(cloud.p_values.values()) > 0.01
    assert contents_of(Rows(embedded={"prompt": several}), Rows(embedded={"prompt": vectors(9, 0, d=8)})).clouds == ()


def test_what_is_missing_is_said_with_the_setting_that_has_it() -> None:
    contents = contents_of(Rows([canary("a", 1.0)] * LEAST, [request("x")]), Rows())
    assert not contents.columns and not contents.clouds and not contents.texts
    lacking = "\n".join(contents.lacking)
    assert "canaries: 1 in the healthy window, 0 in the incident" in lacking
    assert "prompts as text: 0 in the healthy window" in lacking and "clickhouse.store_text" in lacking
    assert len(contents.lacking) == 6
