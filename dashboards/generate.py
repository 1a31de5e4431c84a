"""Writes the dashboards as JSON: ``python -m dashboards.generate`` into dashboards/grafana, where they are committed.

``--runbooks URL`` is where dashboards/runbooks can be read by people on call, ``--into FOLDER`` where to write instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.classic import classic
from dashboards.listed import BOARDS
from dashboards.schema_v2 import schema_v2

FOLDER = Path(__file__).resolve().parent / "grafana"
RUNBOOKS = "https://runbooks.example.com/gapwatch"


def files(runbooks: str) -> Iterator[tuple[str, str]]:
    """Path in the folder -> text. The classic model in the folder itself, schema v2 under v2/."""
    for board in BOARDS:
        name = f"{board.uid}.json"
        yield name, _text(classic(board, runbooks))
        yield f"v2/{name}", _text(schema_v2(board, runbooks))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--runbooks", metavar="URL", default=RUNBOOKS, help="folder of runbooks, without a / at its end"
    )
    parser.add_argument("--into", metavar="FOLDER", type=Path, default=FOLDER)
    options = parser.parse_args()
    (options.into / "v2").mkdir(parents=True, exist_ok=True)
    for name, text in files(options.runbooks):
        (options.into / name).write_text(text)


def _text(built: object) -> str:
    return json.dumps(json.loads(JSONEncoder().encode(built)), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
