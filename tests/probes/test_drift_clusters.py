from __future__ import annotations

import numpy as np
import pytest

from probes.drift_clusters import explain

KINDS = {"refund": "please refund my money", "login": "cannot login with password", "parcel": "where is my parcel"}


def world(counts: dict[str, int], seed: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    centres = {kind: 6.0 * np.eye(8)[i] for i, kind in enumerate(KINDS)}
    vectors = [centres[kind] + rng.standard_normal(8) for kind, n in counts.items() for _ in range(n)]
    texts = [f"{KINDS[kind]} number {i}" for kind, n in counts.items() for i in range(n)]
    return np.array(vectors, np.float32), texts


def test_says_which_prompts_grew_with_examples_and_terms() -> None:
    before, _ = world({"refund": 40, "login": 40, "parcel": 10}, 0)
    now, texts = world({"refund": 40, "login": 5, "parcel": 60}, 1)
    most, *rest = explain(before, now, texts, clusters=3)
    assert most.now > most.before and most.p_value < 1e-6
    assert "parcel" in most.terms
    assert all("parcel" in example for example in most.examples)
    assert sum(one.now for one in (most, *rest)) == pytest.approx(1.0)
    assert any(one.now < one.before and "login" in one.terms for one in rest)


def test_without_stored_texts_only_shares_are_reported() -> None:
    before, now = world({"refund": 30}, 0)[0], world({"refund": 20, "parcel": 10}, 1)[0]
    assert all(not one.examples and not one.terms for one in explain(before, now))
    assert len(explain(before[:2], now[:1])) == 1


def test_samples_without_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        explain(np.zeros((0, 3), np.float32), np.zeros((2, 3), np.float32))
