"""The helpdesk's adapters beside their base with 0, 2, 4 and 8 examples, measured by ``gapwatch worth``'s own code.

SmolLM2 writes slowly on a CPU, so each adapter is measured once and kept in ~/.cache/gapwatch/worth, by a hash of its
golden record, with the commit that it was measured at: a run that was ended goes on with the next one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import time

import yaml

from agent.config import load
from agent.demo.stage import ADAPTERS, BASE, HELPDESK
from agent.economics import worth_file
from agent.economics.measuring import WorthWish, measure_worth
from agent.economics.worth_file import MeasuredWorth
from benchmarks.figures import Figure, console, context, measured_tree, share
from probes.artefacts.base_files import packaged_gguf
from probes.golden.archive import newest

KEPT, MEASURED_AT = Path("~/.cache/gapwatch/worth"), "measured_at"
EXAMPLES = (2, 4, 8)


def measure(quick: bool) -> list[Figure]:
    names = ADAPTERS[:1] if quick else ADAPTERS
    return [replace(figure, commit=commit) for name in names for figure, commit in _of(name)]


def _of(name: str) -> Iterator[tuple[Figure, str]]:
    """Each with the commit that it was measured at."""
    for figure in figures(measured(name)):
        yield figure, (_kept(name) / MEASURED_AT).read_text()


def figures(own: MeasuredWorth) -> list[Figure]:
    name = own.adapter
    measured_figures = [
        share(f"{name}: right answers of the adapter", own.adapter_right, own.checked),
        share(f"{name}: right answers of the base alone", own.base_right, own.checked),
        context(f"{name}: gain, lower end of its interval", own.gain_low, ""),
    ]
    for shots in own.prompted:
        words = f"{name}: the base with {shots.examples} examples"
        measured_figures.append(share(f"{words}, right on held-out canaries", shots.right, shots.checked))
        measured_figures.append(context(f"{words}, more tokens a request", shots.extra_tokens, "tokens"))
    return measured_figures


def measured(name: str) -> MeasuredWorth:
    """As kept, else measured now."""
    folder = _kept(name)
    kept = worth_file.read(folder, name)
    if kept is not None:
        return kept
    with tempfile.TemporaryDirectory() as scratch:
        config = load(_configuration(Path(scratch)))
        wish = WorthWish(time(), EXAMPLES)
        own = measure_worth(config, name, wish, lambda: False, _show).file
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MEASURED_AT).write_text(measured_tree())
    worth_file.write(folder, own)
    return own


def _kept(name: str) -> Path:
    golden = newest(HELPDESK / "golden", name) or ""
    return KEPT.expanduser() / golden.removeprefix("sha256:")[:16]


def _show(stage: str, done: int, total: int) -> None:
    console.print(f"  {stage}: {done} of {total}")


def _configuration(folder: Path) -> Path:
    adapters = [
        {
            "name": name,
            "path": str(HELPDESK / "adapters" / name),
            "canaries": str(HELPDESK / "canaries" / f"{name}.jsonl"),
        }
        for name in ADAPTERS
    ]
    settings = {
        "models": [{"name": BASE, "path": str(packaged_gguf()), "adapters": adapters}],
        "probes": {
            "golden_dir": str(HELPDESK / "golden"),
            "cache_dir": str(Path("~/.cache/gapwatch").expanduser()),
            "device": "cpu",
            "threads": 1,
        },
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"
