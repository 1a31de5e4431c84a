"""What an acceptance test measured, as a file: a rebuild that is stopped does not measure a candidate twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detectors.records import Interval
from probes.rebuild.acceptance import Acceptance, FlippedText


def write(path: Path, done: Acceptance, made_from: Mapping[str, str]) -> None:
    """Whole or not at all. made_from: hashes of all that it rests on"""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"made_from": dict(made_from), "acceptance": asdict(done)}))
    partial.replace(path)


def read(path: Path, made_from: Mapping[str, str]) -> Acceptance | None:
    """What ``write`` wrote of the same; None where there is none, or it is of something else or damaged."""
    try:
        stored = json.loads(path.read_text())
        return _acceptance(stored["acceptance"]) if stored["made_from"] == dict(made_from) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _acceptance(stored: dict[str, Any]) -> Acceptance:
    read = {name: stored[name] and Interval(**stored[name]) for name in ("of_effect", "of_answers")}
    flips = tuple(FlippedText(**own) for own in stored["flips"])
    return Acceptance(**{**stored, **read, "flips": flips, "facts": tuple(stored["facts"])})
