"""The file a user writes: what it may say, and what is said of one that is wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load, missing_files, seconds
from agent.errors import Refused

GOOD: dict[str, Any] = {
    "models": [{"name": "m", "path": "org/model", "adapters": [{"name": "a", "path": "adapters/a"}]}]
}


def written(folder: Path, data: object) -> Path:
    path = folder / "gapwatch.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(written(tmp_path, GOOD))
    assert config.models[0].adapters[0].path == tmp_path / "adapters" / "a"


def test_a_hub_id_is_left_alone_and_a_local_folder_is_anchored(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    hub = load(written(tmp_path, GOOD))
    local = load(written(tmp_path, {"models": [GOOD["models"][0] | {"path": "local"}]}))
    assert hub.models[0].path == "org/model"
    assert local.models[0].path == str(tmp_path / "local")


@pytest.mark.parametrize(
    ("change", "place", "wanted"),
    [
        ({"kafak": {}}, "kafak", "no key of that name"),
        ({"probes": {"every": "soon"}}, "probes.every", "a duration"),
        ({"probes": {"token_budget_per_round": 1}}, "probes.token_budget_per_round", "greater than or equal to 64"),
        ({"alerts": {"false_pages_per_year": 0}}, "alerts.false_pages_per_year", "greater than 0"),
        ({"models": []}, "models", "at least 1"),
        ({"models": [GOOD["models"][0] | {"adapters": [{"name": "a", "path": "x"}] * 2}]}, "models.0", "adapter names"),
        ({"kafka": {"bootstrap_servers": "host:1", "topic": "t"}}, "kafka.bootstrap_servers", "tuple"),
        (
            {"models": [GOOD["models"][0] | {"adapters": [{"name": "a", "path": "x", "tolerance": 0}]}]},
            "models.0.adapters.0.tolerance",
            "greater than 0",
        ),
    ],
)
def test_a_wrong_file_gets_one_line_with_the_place_and_what_was_wanted(
    tmp_path: Path, change: dict[str, Any], place: str, wanted: str
) -> None:
    path = written(tmp_path, GOOD | change)
    with pytest.raises(Refused) as refused:
        load(path)
    said = str(refused.value)
    assert "\n" not in said
    assert place in said
    assert wanted in said


@pytest.mark.parametrize(("text", "wanted"), [("a: [1", "valid YAML"), ("- 1", "a mapping"), ("", "a mapping")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(Refused, match=wanted):
        load(written(tmp_path, text))


PASSWORD = "hunter2"
ADDRESS = f"clickhouse://gapwatch:{PASSWORD}@host:8443/gapwatch"


@pytest.mark.parametrize(
    "change",
    [
        {"password": PASSWORD},
        {"kafka": {"bootstrap_servers": ["h:1"], "topic": "t", "sasl_password": PASSWORD}},
        {
            "kafka": {
                "bootstrap_servers": ["h:1"],
                "topic": "t",
                "security_protocol": "SASL_SSL",
                "sasl_username": PASSWORD,
            }
        },
        {"kafka": {"bootstrap_servers": f"user:{PASSWORD}@h:1", "topic": "t"}},
        {"kafka": {"bootstrap_servers": ["h:1"], "topic": "t", "sasl_mechanism": PASSWORD}},
        {"kafka": PASSWORD},
        {"clickhouse": ADDRESS},
        {"clickhouse": {"dsn": [ADDRESS]}},
        {"clickhouse": {"store_text": ADDRESS}},
        {"alerts": {"pagerduty": {"url": f"https://user:{PASSWORD}@host", "routing_key_file": "x"}}},
        {"models": [{"name": "m", "path": "p", "adapters": [{"path": "a", "golden": PASSWORD}]}]},
        {ADDRESS: 1},
        f"models: *{PASSWORD}",
        f"models: !{PASSWORD} x",
    ],
)
def test_a_secret_in_a_wrong_place_is_not_repeated(tmp_path: Path, change: dict[str, Any] | str) -> None:
    path = written(tmp_path, GOOD | change if isinstance(change, dict) else change)
    with pytest.raises(Refused) as refused:
        load(path)
    assert PASSWORD not in str(refused.value)


def test_a_secret_in_place_of_its_file_is_not_repeated(tmp_path: Path) -> None:
    (problem,) = missing_files(load(written(tmp_path, GOOD | {"clickhouse": {"password_file": PASSWORD}})))
    assert problem.place == "clickhouse.password_file" and PASSWORD not in str(problem)


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere\.yaml: saw no such file"):
        load(tmp_path / "nowhere.yaml")


def test_files_that_the_configuration_names_must_exist(tmp_path: Path) -> None:
    models = [GOOD["models"][0] | {"adapters": [{"name": "a", "path": "x", "canaries": "c.jsonl"}]}]
    config = load(written(tmp_path, {"models": models}))
    assert [problem.place for problem in missing_files(config)] == ["models.0.adapters.0.canaries"]
    (tmp_path / "c.jsonl").touch()
    assert missing_files(config) == []


@pytest.mark.parametrize(("text", "value"), [("250ms", 0.25), ("60s", 60.0), ("5m", 300.0), (2, 2.0), ("1.5h", 5400.0)])
def test_durations_are_read_in_the_usual_units(text: object, value: float) -> None:
    assert seconds(text) == value


def test_an_unknown_adapter_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="one of: a"):
        load(written(tmp_path, GOOD)).adapter("b")


SCORED: dict[str, Any] = {"kafka": {"bootstrap_servers": ["host:1"], "topic": "t"}}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, False),
        (SCORED, True),
        (SCORED | {"scoring": {"enabled": False}}, False),
        (SCORED | {"models": [GOOD["models"][0] | {"golden_path": "org/accepted"}]}, False),
        (SCORED | {"models": [GOOD["models"][0] | {"replay": False}]}, False),
        (SCORED | {"probes": {"keep_golden_weights": False}}, False),
        ({"probes": {"keep_golden_weights": True}}, True),
    ],
)
def test_the_accepted_base_is_kept_where_scoring_needs_it_unless_the_file_says(
    tmp_path: Path, change: dict[str, Any], kept: bool
) -> None:
    config = load(written(tmp_path, GOOD | change))
    assert config.keeps_weights(config.models[0]) is kept
