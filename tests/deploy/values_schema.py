"""``config`` of the chart's values.schema.json, from the program's own configuration.

``python -m tests.deploy.values_schema`` writes it again after a change of agent/config.py; test_chart.py says when.
What else is in that file is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.config import Config

FILE = Path(__file__).parents[2] / "deploy/helm/gapwatch/values.schema.json"
# The chart sets these, a role for each workload.
OF_THE_CHART = ("role", "pod")
# Of the program's documentation, or beyond what schema validators agree on.
LEFT_OUT = ("title", "description", "default", "format")


def configuration() -> dict[str, Any]:
    """Definitions by name, ``config`` for the whole. Numbers may be text too, as in "60s" or "6GB"."""
    schema = Config.model_json_schema()
    whole = {"type": schema["type"], "additionalProperties": False, "properties": schema["properties"]}
    properties = {name: of for name, of in whole["properties"].items() if name not in OF_THE_CHART}
    definitions = {"config": whole | {"properties": properties}}
    definitions |= {f"config.{name}": of for name, of in schema["$defs"].items()}
    return {name: _plain(of) for name, of in sorted(definitions.items())}


def _plain(node: Any, *, named: bool = False) -> Any:
    """named: the keys of this node are names of settings, which may be called as words of a schema are."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("#/$defs/", "#/$defs/config.") if isinstance(node, str) else node
    kept = {key: of for key, of in node.items() if named or key not in LEFT_OUT}
    kept = {key: _plain(of, named=key == "properties" and not named) for key, of in kept.items()}
    return kept | {"type": ["number", "string"]} if kept.get("type") == "number" and not named else kept


def rewritten(text: str) -> str:
    """The schema with the definitions of ``config`` as the program has them now."""
    schema = json.loads(text)
    by_hand = {name: of for name, of in schema["$defs"].items() if name.partition(".")[0] != "config"}
    return json.dumps(schema | {"$defs": by_hand | configuration()}, indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(rewritten(FILE.read_text()))
