"""What is taken from PEFT's configuration, a model card and an MLflow run, and what is refused?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.errors import Refused
from agent.lifecycle.imported import card_metadata, from_adapter, from_golden, from_mlflow_run
from tests.probes.goldens import golden

CARD = """---
license: apache-2.0
base_model:
- HuggingFaceTB/SmolLM2-135M-Instruct
base_model_relation: adapter
datasets:
- org/tickets
- org/orders
---
# Ticket router
"""


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "12fd25f",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text(CARD)
    return folder


def test_config_and_card_are_read(adapter: Path) -> None:
    passport = from_adapter("router", adapter)
    assert (passport.base.name, passport.base.revision) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f")
    assert (passport.base.relation, passport.licence) == ("adapter", "apache-2.0")
    assert passport.data.datasets == ("org/tickets", "org/orders")
    assert passport.owner == ""


@pytest.mark.parametrize("text", ["# no metadata", "---\nnever closed", "", "---\n---\n"])
def test_a_card_without_metadata_gives_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert card_metadata(tmp_path / "README.md") == {}


@pytest.mark.parametrize("text", ["---\n- a list\n---\n", "---\na: [\n---\n"])
def test_metadata_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(Refused, match=r"README\.md"):
        card_metadata(tmp_path / "README.md")


def test_a_run_of_mlflow_names_owner_code_and_seed(tmp_path: Path) -> None:
    run = tmp_path / "mlruns" / "0" / "ab12"
    (run / "tags").mkdir(parents=True)
    (run / "params").mkdir()
    (run / "meta.yaml").write_text("run_id: ab12\n")
    for name, text in {
        "mlflow.user": "ada",
        "mlflow.source.name": "train.py",
        "mlflow.source.git.commit": "c0ffee",
    }.items():
        (run / "tags" / name).write_text(text)
    (run / "params" / "seed").write_text("7")
    passport = from_mlflow_run("router", run)
    assert (passport.owner, passport.training.code, passport.training.commit) == ("ada", "train.py", "c0ffee")
    assert (passport.training.seed, passport.training.run) == (7, "ab12")
    with pytest.raises(Refused, match=r"meta\.yaml"):
        from_mlflow_run("router", tmp_path)


def test_a_golden_record_names_the_hashes() -> None:
    passport = from_golden(golden())
    assert passport.files.startswith("sha256:") and passport.base.hash.startswith("sha256:")
