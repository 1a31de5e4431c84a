"""What a serving engine is meant to serve, by the file that its LoRA sidecar keeps it to; and where it does not.

The file of kubernetes-sigs/gateway-api-inference-extension, tools/dynamic-lora-sidecar, as its ConfigMap is mounted:
``vLLMLoRAConfig`` with ``defaultBaseModel``, ``ensureExist`` and ``ensureNotExist``, each with ``models`` of ``id``,
``source`` and ``base-model``. It says what is wanted and not what is served: each difference is context for a person,
and neither evidence nor a reason to measure nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probes.errors import Refused
from probes.serving.engine import ServedModel

ROOT = "vLLMLoRAConfig"
MOST_BYTES = 1_000_000  # of a ConfigMap in all


@dataclass(frozen=True, slots=True)
class DesiredAdapter:
    """source: path or hub id that it is to be loaded from; base: name of its base; "" where the file does not say"""

    source: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True)
class DesiredState:
    """file: where it stands, for messages; wanted: name -> adapter that is to be loaded; unwanted: names not to be"""

    file: str
    wanted: dict[str, DesiredAdapter]
    unwanted: frozenset[str] = frozenset()


def read_desired(file: Path) -> DesiredState:
    """Raises Refused for a file that cannot be read or has another form."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise Refused(str(file), f"{file.stat().st_size} bytes", f"{MOST_BYTES} at most")
        whole = yaml.safe_load(file.read_bytes())
    except OSError as error:
        raise Refused(str(file), error.strerror or type(error).__name__, "a file that can be read") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Refused(str(file), "no YAML document", f"one with the key {ROOT}") from error
    try:
        own = whole[ROOT]
        default = str(own.get("defaultBaseModel") or "")
        wanted = {str(row["id"]): _adapter(row, default) for row in _rows(own, "ensureExist")}
        unwanted = frozenset(str(row["id"]) for row in _rows(own, "ensureNotExist"))
    except (KeyError, TypeError, AttributeError) as error:
        form = f"{ROOT}: with ensureExist and ensureNotExist, each with models of id, source and base-model"
        raise Refused(str(file), "a document of another form", form) from error
    return DesiredState(str(file), wanted, unwanted - wanted.keys())


def differences(desired: DesiredState, models: Sequence[ServedModel], adapter: str) -> tuple[str, ...]:
    """In words, where the engine's list is not what is wanted of this adapter; nothing where it is.

    A source is compared as it is written: the sidecar hands it to the engine so. A base is compared by its name in the
    list and by what it was loaded from, and where both are known.
    """
    served = next((model for model in models if model.name == adapter), None)
    wanted = desired.wanted.get(adapter)
    if wanted is None:
        if adapter in desired.unwanted and served is not None:
            return (f"{desired.file} wants {adapter} gone, and the engine lists it",)
        return () if served is None else (f"{desired.file} does not name {adapter}, and the engine lists it",)
    if served is None:
        return (f"{desired.file} wants {adapter}{_from(wanted.source)}, and the engine does not list it",)
    words = []
    if wanted.source and served.root and wanted.source.rstrip("/") != served.root.rstrip("/"):
        words.append(f"{desired.file} wants {adapter} from {wanted.source}, the engine loaded it from {served.root}")
    own = (model for model in models if not model.parent and served.parent in (model.name, model.root))
    bases = {served.parent, *(name for model in own for name in (model.name, model.root))}
    if wanted.base and served.parent and wanted.base not in bases:
        words.append(f"{desired.file} wants {adapter} on {wanted.base}, the engine lists it as one of {served.parent}")
    return tuple(words)


def differences_by_file(file: str, models: Sequence[ServedModel], adapter: str) -> tuple[str, ...]:
    """``differences`` from what the file holds now, or why it cannot be read; nothing where no file is named."""
    if not file:
        return ()
    try:
        return differences(read_desired(Path(file)), models, adapter)
    except Refused as error:
        return (f"what the engine is meant to serve is not known: {error}",)


def _adapter(row: Any, default: str) -> DesiredAdapter:
    return DesiredAdapter(str(row.get("source") or ""), str(row.get("base-model") or default))


def _rows(own: Any, key: str) -> Sequence[Any]:
    rows: Sequence[Any] = (own.get(key) or {}).get("models") or ()
    return rows


def _from(source: str) -> str:
    return f" from {source}" if source else ""
