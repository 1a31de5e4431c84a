"""The sample loads as it stands, loads with its optional lines switched on, and leaves no setting out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from agent.config import Config, load
from agent.errors import Refused

SAMPLE = Path(__file__).parents[2] / "deploy/gapwatch.yaml"
OPTIONAL = re.compile(r"^(\s*)#(?=[a-z_]+:|- \{)", re.MULTILINE)


@pytest.fixture
def switched_on(tmp_path: Path) -> Path:
    """The sample with every optional line in force, and the protocol that the login and the certificates are for."""
    file = tmp_path / "gapwatch.yaml"
    every = OPTIONAL.sub(r"\1", SAMPLE.read_text())
    file.write_text(every.replace("security_protocol: PLAINTEXT", "security_protocol: SASL_SSL"))
    return file


def settings(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Key paths of every setting there is; the items of a list stand under its key."""
    for name, field in model.model_fields.items():
        name = field.alias or name
        yield (*path, name)
        for inner in models_in(field.annotation):
            yield from settings(inner, (*path, name))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, tuple):
        for part in get_args(annotation):
            yield from models_in(part)


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Key paths of a parsed file, in the same form."""
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict):
            for name, below in item.items():
                yield (*path, name)
                yield from keys(below, (*path, name))


def test_the_sample_loads() -> None:
    config = load(SAMPLE)
    assert [adapter.name for adapter in config.models[0].adapters] == ["ticket-router"]
    assert config.kafka is not None and config.alerts.pagerduty is not None
    assert not config.clickhouse.store_text


def test_the_optional_lines_load_too(switched_on: Path) -> None:
    assert load(switched_on) != load(SAMPLE)


def test_no_setting_is_left_out_and_none_is_made_up(switched_on: Path) -> None:
    written = set(keys(yaml.safe_load(switched_on.read_text())))
    assert written == set(settings(Config))


def test_lines_in_force_show_the_defaults_where_there_are_any() -> None:
    """Deleting a line must not change what the program does, unless it names something of the installation."""
    shown, default = load(SAMPLE), Config(models=load(SAMPLE).models)
    for section in ("sampling", "telemetry", "shutdown_budget", "state_dir"):
        assert getattr(shown, section) == getattr(default, section), section
    # Goldens lie on the models volume in a cluster: they have to outlive the pod.
    assert shown.probes.model_copy(update={"golden_dir": default.probes.golden_dir}) == default.probes


def test_an_unknown_key_is_refused_by_its_place(tmp_path: Path) -> None:
    file = tmp_path / "gapwatch.yaml"
    file.write_text(SAMPLE.read_text().replace("  every: 60s", "  evry: 60s"))
    with pytest.raises(Refused, match=r"probes\.evry"):
        load(file)
