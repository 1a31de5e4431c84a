"""A prediction is a formula of features and an interval around it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from probes.compatibility.loss_features import NAMES, LossFeatures
from probes.compatibility.predicted_loss import LossModel, design

MODEL = LossModel((1.0, 0, 0, 0, 0.5, 0, 0), (0, 2.0, 0, 0, 0, 0, 0), 0.5, 0.9, 16)


def features(reads: float = 0.0, writes: float = 0.0, change: float = 0.0) -> LossFeatures:
    return LossFeatures(reads, writes, 0.0, 0.0, change, 0.0, 0.0)


def test_nothing_moved_is_nothing_lost_and_more_is_more() -> None:
    assert MODEL.retention(features()) == 1
    assert MODEL.retention(features(reads=1.0)) == pytest.approx(0.3679, abs=1e-4)
    assert MODEL.retention(features(reads=1.0, writes=1.0)) == pytest.approx(0.0498, abs=1e-4)


def test_the_interval_is_wider_for_a_larger_loss_and_stays_within_0_and_1() -> None:
    near, far = MODEL.interval(features(change=0.02)), MODEL.interval(features(reads=0.5))
    assert 0 < near.high - near.low < far.high - far.low
    lost = MODEL.interval(features(reads=9.0))
    assert lost.low == 0 and lost.high <= 1 and lost.n == 16


def test_the_shipped_one_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    assert LossModel.read(file) is None
    file.write_text(json.dumps(asdict(MODEL)))
    assert LossModel.read(file) == MODEL
    if (shipped := LossModel.read()) is not None:
        assert len(shipped.linear) == len(shipped.square) == len(NAMES)
        assert min(*shipped.linear, *shipped.square) >= 0 and shipped.width > 0
    assert design([(1.0, 3.0)]).tolist() == [[1, 3, 1, 9]]
