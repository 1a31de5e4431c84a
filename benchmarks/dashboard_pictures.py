"""A picture of each Grafana dashboard's data, from the store of one ``gapwatch demo``. No Grafana runs here.

`python -m benchmarks.dashboard_pictures` draws docs/pictures/gapwatch-*.svg from docs/pictures/dashboards_run.json.
With `--record FOLDER`, of a finished `gapwatch demo` (.gapwatch/demo), it first asks every panel's SQL of the store
that the demo left there and writes that file again. A copy of the store is migrated and asked, not the demo's own.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from agent.store import migrations
from agent.store.client import Client, connect
from benchmarks.figures import machine
from benchmarks.panels import Answer, drawn, escaped
from dashboards.board import Dashboard, Panel
from dashboards.listed import BOARDS
from dashboards.macros import Window, filled_in
from dashboards.placing import placed

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
RUN = FOLDER / "dashboards_run.json"
COLUMN, ROW, TOP, BOTTOM = 50, 27, 62, 26  # pixels of Grafana's grid, and of what stands above and below it
LEAD_IN_S, INTERVAL_S = 15, 5
ALL: Mapping[str, Sequence[str]] = {
    **{"cluster": (), "subject": (), "pod": ()},
    **{field.name: (field.value,) for board in BOARDS for field in board.typed},
}
STYLE = (
    "text { font: 11px system-ui, sans-serif; fill: #222 } .head { font-weight: 600 } .small { fill: #666 } "
    ".title { font-size: 17px; font-weight: 600 } .figure { font-size: 30px; font-weight: 600 }"
)
NO_SCREENSHOT = "Drawn by gapwatch from what the panels' SQL answered; not a screenshot of Grafana."


@dataclass(frozen=True, slots=True)
class Run:
    """One recorded demo. where: command, day and machine; answers: dashboard -> panel -> what its SQL said"""

    where: str
    begin: float
    end: float
    answers: Mapping[str, Mapping[str, Answer]]


def record(client: Client, demo: Path, into: Path) -> None:
    """What every panel answers on a store, for the window in which verdicts were stored, as one JSON file.

    demo: folder of the demo, which rows may name; it is written as it is called there, .gapwatch/demo
    """
    ((first, last),) = client.query("SELECT min(at), max(at) FROM verdicts").result_rows
    window = Window(first.timestamp() - LEAD_IN_S, last.timestamp() + LEAD_IN_S, INTERVAL_S)
    content = {
        "command": "gapwatch demo",
        "machine": machine(),
        "begin": window.begin,
        "end": window.end,
        "answers": {
            board.uid: {panel.name: _answer(client, panel, window) for panel in board.panels} for board in BOARDS
        },
    }
    written = orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n"
    into.write_bytes(written.replace(str(demo.resolve()).encode(), b".gapwatch/demo"))


def read(file: Path) -> Run:
    content = orjson.loads(file.read_bytes())
    day, hardware = datetime.fromtimestamp(content["begin"], UTC).date(), content["machine"]
    where = f"{content['command']} on {day}, {hardware['cpu']}, {hardware['cores']} cores"
    answers = {
        uid: {name: Answer(**answer) for name, answer in panels.items()} for uid, panels in content["answers"].items()
    }
    return Run(where, content["begin"], content["end"], answers)


def picture(board: Dashboard, run: Run) -> str:
    """All panels in their places, with what they answered."""
    places = list(placed(board.panels))
    height = TOP + max(y + panel.height for panel, (_, y) in places) * ROW + BOTTOM
    clock = [datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") for at in (run.begin, run.end)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {height}" role="img">',
        f"<title>{escaped(board.title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{24 * COLUMN}" height="{height}" fill="#f4f5f5"/>',
        f'<text class="title" x="12" y="26">{escaped(board.title)}</text>',
        f'<text class="small" x="12" y="46">{escaped(board.about)} Window: {clock[0]} to {clock[1]} UTC.</text>',
    ]
    for panel, (x, y) in places:
        box = (x * COLUMN + 4, TOP + y * ROW + 4, panel.width * COLUMN - 8, panel.height * ROW - 8)
        parts += drawn(panel, run.answers[board.uid][panel.name], box, (run.begin, run.end))
    parts.append(f'<text class="small" x="12" y="{height - 9}">{escaped(f"{NO_SCREENSHOT} {run.where}.")}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="of a finished demo: ask its store first")
    demo = parser.parse_args().record
    if demo is not None:
        _record_copy(demo)
    run = read(RUN)
    for board in BOARDS:
        (FOLDER / f"{board.uid}.svg").write_text(picture(board, run))


def _record_copy(demo: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # The engine finds databases by links within the folder.
        shutil.copytree(demo / "store", Path(folder) / "store", symlinks=True)
        client = connect(f"chdb://{folder}/store")
        migrations.migrate(client)
        record(client, demo, RUN)
        client.close()


def _answer(client: Client, panel: Panel, window: Window) -> dict[str, Any]:
    """Times as seconds, whose columns are named beside."""
    answer = client.query(filled_in(panel.sql, window, ALL))
    names = list(answer.column_names)
    times = {
        name
        for row in answer.result_rows
        for name, value in zip(names, row, strict=True)
        if isinstance(value, datetime)
    }
    rows = [
        [value.timestamp() if isinstance(value, datetime) else value for value in row] for row in answer.result_rows
    ]
    return {"columns": names, "times": sorted(times), "rows": rows}


if __name__ == "__main__":
    main()
