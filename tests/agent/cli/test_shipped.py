"""A runbook says how the team of this configuration rolls back, and is printed without any too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.shipped import print_glossary, print_runbook
from agent.errors import Refused
from agent.shipped import runbook


def printed(folder: Path, policy: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]) -> str:
    file = folder / "gapwatch.yaml"
    model = {"name": "m", "served": {"url": "http://127.0.0.1:9"}, "adapters": [{"name": "a"}]}
    if policy is not None:
        file.write_text(yaml.safe_dump({"models": [model], "alerts": {"policy": policy}}))
    assert print_runbook("base_swapped", file) == 0
    text = capsys.readouterr().out
    assert text.startswith(runbook("base_swapped"))
    return text.removeprefix(runbook("base_swapped"))


def test_it_ends_with_the_way_back_of_its_cause_or_else_of_adapters_and_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_all = {"rollback": "ask the release team", "adapters": {"a": {"rollback": "unload a"}}}
    assert printed(tmp_path, of_all, capsys).splitlines()[1::2] == [
        "**How your team rolls back.** a: unload a",
        "**How your team rolls back.** ask the release team",
    ]
    of_cause = of_all | {"causes": {"base_swapped": {"rollback": "pin the revision"}}}
    assert printed(tmp_path, of_cause, capsys) == "\n**How your team rolls back.** pin the revision\n"


def test_without_a_configuration_that_can_be_read_it_is_the_runbook_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(tmp_path, None, capsys) == ""
    (tmp_path / "gapwatch.yaml").write_text("models: [")
    assert printed(tmp_path, None, capsys) == ""


def test_a_word_of_a_page_is_explained_in_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_glossary("Retention") == 0
    line = capsys.readouterr().out
    assert line.startswith("retention: ") and "](" not in line and line.count("\n") == 1
    assert print_glossary(None) == 0
    assert {"witness", "canary", "nats"} <= set(capsys.readouterr().out.split())
    assert print_glossary("golden") == 0 and "golden record: " in capsys.readouterr().out, "a part of several"
    with pytest.raises(Refused, match="glossary lists"):
        print_glossary("no such word")
