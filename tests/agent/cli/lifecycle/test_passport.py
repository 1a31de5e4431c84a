"""``gapwatch passport`` and ``gapwatch passports``: what is written, shown and refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from agent.cli.lifecycle.passport import PassportOptions, show_passport, show_passports
from agent.errors import Refused
from agent.lifecycle import passport_file
from agent.terminal.console import console
from probes.golden.archive import save
from tests.agent.lifecycle.test_signature import key_pair
from tests.probes.goldens import golden

COMPLETE = (
    "owner=Ada", "base.name=org/base", "base.revision=v2", "data.location=s3://tickets", "training.code=train.py",
    "evaluation=tickets-heldout",
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("router", "rewriter"):
        (tmp_path / name).mkdir()
        settings = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings))
    adapters = [{"name": name, "path": name} for name in ("router", "rewriter")]
    save(golden("router", at=datetime.now(UTC).timestamp()), tmp_path / "golden")
    path = tmp_path / "gapwatch.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "models": [{"name": "m", "path": "./base", "adapters": adapters}],
                "probes": {"golden_dir": "golden", "cache_dir": "cache"},
            }
        )
    )
    return path


def shown(path: Path, *settings: str, name: str = "router", **wish: object) -> tuple[int, str]:
    with console.capture() as said:
        code = show_passport(path, name, PassportOptions(settings, **wish), json=False)  # type: ignore[arg-type]
    return code, said.get()


def test_it_is_filled_in_from_files_and_completed_by_hand(config: Path) -> None:
    with pytest.raises(Refused, match="--fill"):
        shown(config)
    code, text = shown(config, fill=True)
    assert code == 2 and "not filled in" in text and "org/base" in text and "from its golden record alone" in text
    passport = passport_file.read(config.parent / "golden", "router")
    assert passport is not None and passport.files == golden().adapter_hash
    code, text = shown(config, *COMPLETE)
    assert code == 0 and "its golden record gets older" in text and "not filled in" not in text
    soon = (datetime.now(UTC).date() + timedelta(days=20)).isoformat()
    code, text = shown(config, f"data.expires={soon}")
    assert code == 1 and "in 20 days" in text
    shown(config, "data.expires=")
    code, text = shown(config)
    assert code == 0 and "in 20 days" not in text


@pytest.mark.parametrize("setting", ["owners=Ada", "owner", "data.expires=2027-02-30", "training.seed=many"])
def test_a_wrong_setting_is_refused_and_nothing_is_written(config: Path, setting: str) -> None:
    with pytest.raises(Refused):
        shown(config, setting)
    assert passport_file.read(config.parent / "golden", "router") is None


def test_an_unknown_adapter_is_refused(config: Path) -> None:
    with pytest.raises(Refused, match="router, rewriter"):
        shown(config, name="nobody", fill=True)


def test_it_is_exported_signed_and_verified(config: Path) -> None:
    private, public = key_pair(config.parent, "ours")
    _, other = key_pair(config.parent, "theirs")
    shown(config, *COMPLETE, fill=True)
    _, text = shown(config, bill=True, sign=private)
    assert "valid by its schema" in text and "signed" in text
    folder = passport_file.folder_of(config.parent / "golden", "router")
    assert json.loads((folder / "bom.cdx.json").read_text())["specVersion"] == "1.7"
    assert "the signature holds" in shown(config, verify=public)[1]
    code, text = shown(config, verify=other)
    assert code == 1 and "does not hold" in text


def test_the_table_has_the_worst_first_and_those_that_are_gone(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(config, *COMPLETE, fill=True)
    folder = config.parent / "golden"
    passport = passport_file.read(folder, "router")
    assert passport is not None
    passport_file.write(folder, passport.model_copy(update={"adapter": "gone"}))
    with console.capture() as said:
        code = show_passports(config, json=False)
    lines = said.get()
    assert code == 2 and lines.index("rewriter") < lines.index("router") and "gone" in lines
    assert show_passports(config, json=True) == 2
    rows = json.loads(capsys.readouterr().out)
    assert (rows[0]["adapter"], rows[0]["watched"]) == ("rewriter", True)
    assert {row["adapter"]: row["watched"] for row in rows}["gone"] is False
