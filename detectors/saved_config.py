"""Was saved evidence collected under the settings of today? A detector's settings as JSON, compared by their values.

A changed setting is a changed promise, and evidence under another one does not count. What ``config_json`` writes is in
files of saved state: what those hold has to stay readable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any


def config_json(config: Any) -> Any:
    """Values that JSON can hold; a field with ``compare=False`` is no part of the promise and left out."""
    if is_dataclass(config):
        return {field.name: config_json(getattr(config, field.name)) for field in fields(config) if field.compare}
    if isinstance(config, Mapping):
        return {str(key): config_json(value) for key, value in config.items()}
    if isinstance(config, Enum):
        return config.value
    if isinstance(config, tuple | list):
        return [config_json(value) for value in config]
    return str(config) if isinstance(config, float) and not math.isfinite(config) else config


def same_config(saved: Any, config: Any) -> bool:
    """saved: of ``config_json``, or the text of ``repr`` in files of earlier versions.

    A field that the file is too old to have counts as its default; one that only the file has, as a difference.
    """
    if isinstance(saved, str):
        return saved == repr(config)
    return bool(_with_defaults(saved, config) == config_json(config))


def _with_defaults(saved: Any, config: Any) -> Any:
    if not is_dataclass(config) or not isinstance(saved, Mapping):
        return saved
    compared = [field for field in fields(config) if field.compare]
    defaults = {field.name: config_json(default) for field in compared if (default := _default(field)) is not MISSING}
    values = {**defaults, **saved}
    return {name: _with_defaults(value, getattr(config, name, None)) for name, value in values.items()}


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
