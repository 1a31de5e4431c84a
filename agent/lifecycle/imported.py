"""What a passport can take from files that exist: PEFT's configuration, the model card, an MLflow run, a golden record.

Nothing is asked of a network, and nothing is guessed: a field that no file names stays empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from agent.errors import Refused
from agent.lifecycle.passport import Passport, PinnedBase, Training, TrainingData
from probes.artefacts.access import holds
from probes.artefacts.identity import ADAPTER_CONFIG
from probes.artefacts.safetensors_header import read_json
from probes.errors import Unreplayable
from probes.golden.record import Golden

CARD = "README.md"
# Tags and parameters of MLflow runs: docs of mlflow.tracking, "system tags"; of parameters the usual names.
OWNER, COMMIT, SOURCE, RUN_NAME = "mlflow.user", "mlflow.source.git.commit", "mlflow.source.name", "mlflow.runName"
SEEDS = ("seed", "random_seed", "data_seed")
DATA = ("dataset", "data", "train_file", "dataset_name", "data_path")


def from_adapter(name: str, folder: Path) -> Passport:
    """From the adapter's own folder: adapter_config.json and the metadata of its model card, where there is one.

    Raises Unreplayable for a configuration that cannot be read, Refused for a card whose metadata is no YAML mapping.
    """
    config = read_json(folder / ADAPTER_CONFIG) if holds((folder / ADAPTER_CONFIG).is_file) else {}
    card = card_metadata(folder / CARD) if holds((folder / CARD).is_file) else {}
    base = _text(config.get("base_model_name_or_path")) or _text(card.get("base_model"))
    return Passport(
        adapter=name,
        licence=_text(card.get("license")),
        base=PinnedBase(
            name=base, revision=_text(config.get("revision")), relation=_text(card.get("base_model_relation"))
        ),
        data=TrainingData(datasets=_texts(card.get("datasets"))),
        training=Training(code=_text(card.get("repo")) or _text(card.get("repository"))),
    )


def from_golden(golden: Golden) -> Passport:
    """What enrolment knows."""
    return Passport(adapter=golden.adapter, files=golden.adapter_hash, base=PinnedBase(hash=golden.base_hash))


def from_mlflow_run(name: str, run: Path) -> Passport:
    """From the folder of one run in MLflow's file store (``mlruns/EXPERIMENT/RUN``), its tags and parameters.

    Raises Refused where it is none.
    """
    if not holds((run / "meta.yaml").is_file):
        raise Refused(str(run), "no meta.yaml", "the folder of one MLflow run: mlruns/EXPERIMENT/RUN")
    tags, parameters = _files(run / "tags"), _files(run / "params")
    seed = next((parameters[key] for key in SEEDS if key in parameters), "")
    return Passport(
        adapter=name,
        owner=tags.get(OWNER, ""),
        base=PinnedBase(name=parameters.get("base_model", "") or parameters.get("model_name_or_path", "")),
        data=TrainingData(location=next((parameters[key] for key in DATA if key in parameters), "")),
        training=Training(
            code=tags.get(SOURCE, ""),
            commit=tags.get(COMMIT, ""),
            seed=int(seed) if seed.isdecimal() else None,
            run=tags.get(RUN_NAME, "") or run.name,
        ),
    )


def card_metadata(path: Path) -> Mapping[str, Any]:
    """The YAML block at the top of a model card, {} without one. Raises Refused.

    Source: huggingface.co/docs/hub/model-cards, "Model card metadata".
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    end = next((i for i, line in enumerate(lines[1:], start=1) if line.strip() == "---"), None)
    if end is None:
        return {}
    try:
        metadata = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise Refused(
            str(path), f"metadata that is no YAML (line {where.line + 2 if where else 1})", "valid YAML"
        ) from None
    if not isinstance(metadata, dict | None):
        raise Refused(str(path), f"metadata that is a {type(metadata).__name__}", "a mapping, between two lines of ---")
    return metadata or {}


def revision_of(folder: Path) -> str:
    """Commit of a base in a snapshot of the hub's cache, "" elsewhere."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _files(folder: Path) -> dict[str, str]:
    """Name of each file -> its text; tags with a slash lie in folders."""
    try:
        return {str(file.relative_to(folder)): file.read_text().strip() for file in folder.rglob("*") if file.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise Unreplayable(str(folder), f"cannot be read ({error})") from error


def _text(value: object) -> str:
    """Cards may name a list of bases; the first is the one that the adapter is applied to."""
    if isinstance(value, list):
        return _text(value[0]) if value else ""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value if isinstance(item, str)) if isinstance(value, list) else ()
