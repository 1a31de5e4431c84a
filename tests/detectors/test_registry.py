from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from detectors import kinds
from detectors.errors import UnknownDetector
from detectors.registry import (
    CalibratesSampler,
    EstimatesRetention,
    OwnPast,
    SeveralStreams,
    ThresholdAware,
    load,
    names,
)


def test_names_are_the_files_of_the_folder() -> None:
    folder = Path(str(kinds.__path__[0]))
    assert names() == tuple(sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__"))
    assert {"adapter_gap", "base_shift", "embedding_drift"} <= set(names())


def test_an_unknown_name_is_answered_with_what_there_is() -> None:
    with pytest.raises(UnknownDetector, match=r"adapter_gab.*adapter_gap"):
        load("adapter_gab")


def test_a_missing_dependency_is_reported_as_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.setattr(kinds, "__path__", [str(tmp_path)])
    assert names() == ("needs_more",)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load("needs_more")
    assert "detectors.kinds.needs_more" not in sys.modules


def detectors() -> dict[str, Any]:
    return {name: load(name).Detector(load(name).Config()) for name in names()}


def test_what_only_some_detectors_can_say_is_found_by_what_they_have() -> None:
    """The monitor takes the first: with a second one of a kind it would have to be told which."""
    having = {
        kind: [name for name, detector in detectors().items() if isinstance(detector, kind)]
        for kind in (EstimatesRetention, CalibratesSampler, OwnPast)
    }
    assert having == {
        EstimatesRetention: ["traffic_likelihood"],
        CalibratesSampler: ["token_calibration"],
        OwnPast: ["embedding_drift"],
    }


def test_settings_that_depend_on_the_fleet_are_found_by_what_they_have() -> None:
    settings = {name: detector.config for name, detector in detectors().items()}
    aware = {name: config for name, config in settings.items() if isinstance(config, ThresholdAware)}
    assert [name for name, config in settings.items() if isinstance(config, SeveralStreams)] == [
        *("base_modes", "serving_modes", "traffic_likelihood")
    ]
    assert list(aware) == ["base_likelihood", "traffic_likelihood"]
    for config in aware.values():
        assert config.with_threshold(15.0).log_threshold == 15.0  # type: ignore[attr-defined]
