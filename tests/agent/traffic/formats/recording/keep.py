"""Keeps what a library wrote, without what differs from run to run: a second run gives the same bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent.parent / "recorded"
# By the name of a field: the library's clock, how long things took, where its files lie, and a page of prices.
SETTLED = {
    "model_map_value": None,
    "startTime": 1_700_000_000.0,
    "completionStartTime": 1_700_000_000.5,
    "endTime": 1_700_000_001.0,
    "response_time": 1.0,
    "litellm_overhead_time_ms": 1.0,
    "created": 1_700_000_000,
    "traceback": "",
    "startTimeUnixNano": "1700000000000000000",
    "endTimeUnixNano": "1700000001000000000",
    "timeUnixNano": "1700000001000000000",
    "observedTimeUnixNano": "1700000001000000000",
}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_CACHE_HIT = re.compile(r"_cache_hit[0-9.]+")


def keep(format_: str, library: str, records: Mapping[str, object]) -> None:
    """Records by name as ``recorded/FORMAT.json``, one a line, with the version of the library that wrote them."""
    lines = [f"{json.dumps(name)}: {_steady(record)}" for name, record in records.items()]
    written_by = json.dumps(f"{library} {version(library)}")
    RECORDED.mkdir(exist_ok=True)
    text = f'{{"written_by": {written_by}, "records": {{\n' + ",\n".join(lines) + "\n}}\n"
    (RECORDED / f"{format_}.json").write_text(text)


def _steady(record: object) -> str:
    text = json.dumps(_settled(record), sort_keys=True, ensure_ascii=False)
    return _numbered(_CACHE_HIT.sub("_cache_hit1700000001.0", text))


def _settled(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_settled(one) for one in value]
    if isinstance(value, str):
        return value.partition("Traceback (most recent call last)")[0]
    if isinstance(value, dict) and value.get("key") == "gen_ai.response.time_to_first_chunk":
        return {**value, "value": {"doubleValue": 0.5}}
    if isinstance(value, dict):
        return {name: SETTLED[name] if one and name in SETTLED else _settled(one) for name, one in value.items()}
    return value


def _numbered(text: str) -> str:
    """Ids that were made up, by the order in which they come."""
    found = list(dict.fromkeys(_UUID.findall(text)))
    return _UUID.sub(lambda one: f"00000000-0000-4000-8000-{found.index(one[0]) + 1:012}", text)
