"""Does docs/glossary.md name each word and each record once?"""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "glossary.md").read_text()
WORDS, RECORDS = PAGE.split("## Records")
# Where the records are that one part hands to the next.
FILES = (
    "detectors/records.py",
    "detectors/traffic_records.py",
    "detectors/evidence/alternative.py",
    "detectors/evidence/onset_interval.py",
    "detectors/diagnosis/record.py",
    "detectors/verdicts/incident.py",
    "detectors/verdicts/recovery.py",
    "probes/runner.py",
    "probes/golden/record.py",
    "probes/scoring/interaction.py",
    "probes/scoring/scoring_job.py",
    "probes/canaries/round.py",
    "agent/records.py",
    "agent/alerting/fleet.py",
    "agent/kafka/contract.py",
)


def records(file: str) -> list[str]:
    """Names of its public dataclasses and named tuples."""
    classes = [node for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.ClassDef)]
    return [node.name for node in classes if not node.name.startswith("_") and _is_record(node)]


def _is_record(node: ast.ClassDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(text.startswith("dataclass") for text in decorators) or "NamedTuple" in map(ast.unparse, node.bases)


def first_cells(table: str) -> list[str]:
    rows = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    return [cell.strip("`") for cell in rows if cell not in ("word", "record")]


def test_each_record_is_named_once() -> None:
    named = Counter(first_cells(RECORDS))
    assert named == Counter(name for file in FILES for name in records(file))


def test_each_word_is_named_once_and_in_order() -> None:
    words = first_cells(WORDS)
    assert words == sorted(set(words), key=str.lower)
