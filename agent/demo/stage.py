"""The files of the demo: a volume with base and adapters as an engine would read them, and a configuration.

Everything is in one folder, which is kept afterwards, so that the store can be queried further.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.config import Config, load
from agent.demo.broker import free_port
from agent.errors import Refused
from probes.artefacts.base_files import packaged_gguf, resolve
from probes.artefacts.identity import NEWEST, base_hash
from probes.golden.archive import load as load_golden
from probes.golden.archive import newest
from probes.golden.weights import keep, keep_adapter

CHECKOUT = Path(__file__).resolve().parents[2]
HELPDESK = CHECKOUT / "examples" / "helpdesk"
BASE = "smollm2"
ADAPTERS = ("ticket-router", "polite-rewriter", "order-extractor")
TOPIC = "llm.interactions"
MARK = ".gapwatch-demo"
LEFTOVERS = ("volume", "golden", "state", "state.served", "store", "broker", "rebuilt")
ROUTING_KEY = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True, slots=True)
class Stage:
    """folder: contains everything; base: the folder that the engine serves from; golden: the accepted base."""

    folder: Path
    base: Path
    golden: Path

    @property
    def config_file(self) -> Path:
        return self.folder / "gapwatch.yaml"


def need_checkout() -> None:
    """Raises Refused where the program was installed without the example that the demo uses."""
    if not HELPDESK.is_dir():
        wanted = "a checkout of the repository, and in it: make demo"
        raise Refused("gapwatch demo", "an installation without examples/helpdesk", wanted)


def set_up(folder: Path) -> Stage:
    """Create the volume and copy the shipped golden records. Raises Refused where there are none."""
    if not any((HELPDESK / "golden").glob("*.golden")):
        wanted = "a checkout of the repository, which ships them (examples/helpdesk/enrol.py makes them)"
        raise Refused(str(HELPDESK / "golden"), "no golden records", wanted)
    stage = lay_volume(folder)
    shutil.copytree(HELPDESK / "golden", folder / "golden", dirs_exist_ok=True)
    return stage


def lay_volume(folder: Path) -> Stage:
    """Create the volume: the base as hard links to the converted file of the package, the adapters as copies."""
    _claim(folder)
    for name in LEFTOVERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    source = resolve(str(packaged_gguf()), cache_dir())
    scheme = _scheme()
    kept = keep(source, folder / "golden", base_hash(source, scheme), scheme)
    stage = Stage(folder, folder / "volume" / "base", kept)
    for name in ADAPTERS:
        shutil.copytree(HELPDESK / "adapters" / name, folder / "volume" / "adapters" / name)
    lay_base(stage)
    return stage


def _scheme() -> int:
    """The hash scheme of the shipped golden records."""
    shipped = HELPDESK / "golden"
    newest_hash = newest(shipped, ADAPTERS[0])
    return load_golden(shipped, newest_hash).hash_scheme if newest_hash else NEWEST


def _claim(folder: Path) -> None:
    """Take a folder that is empty or from an earlier demo. Raises Refused for any other: it will be cleared."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / MARK).exists():
        raise Refused(str(folder), "a folder with other files in it", "an empty one, or none: the demo clears it")
    (folder / MARK).touch()


def cache_dir() -> Path:
    """Where converted bases are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gapwatch"


def ship_release(stage: Stage, out: Path) -> None:
    """Write the next release of the accepted base, with a program that is no part of this one, as upstream would."""
    command = [sys.executable, "-m", "examples.helpdesk.releases", "reparameterised"]
    files = ["--base", str(stage.golden), "--out", str(out)]
    subprocess.run([*command, *files], cwd=CHECKOUT, stdout=subprocess.DEVNULL, check=True)


def lay_base(stage: Stage) -> None:
    """Put the accepted base where the engine reads it, in a single rename, as a careful rollout would."""
    fresh = stage.base.with_name("base.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in stage.golden.iterdir():
        (fresh / file.name).hardlink_to(file)
    replace_folder(fresh, stage.base)


def replace_folder(fresh: Path, target: Path) -> None:
    """Replace a folder by another; readers that have the old files open can still read them."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_config(stage: Stage, bootstrap: str, pagerduty: str, every_s: float, pinned: bool = True) -> Config:
    """The configuration of the demo's agent, in a file for the other commands. pinned: pin the golden records."""
    return _written(stage, _settings(stage, bootstrap, pagerduty, every_s, pinned))


def write_single_config(stage: Stage, adapter: str, bootstrap: str, pagerduty: str, every_s: float) -> Config:
    """One adapter alone, whose newest golden record is in force; accepted bases are kept beside the records, so that a
    successor can be enrolled on another one."""
    settings = _settings(stage, bootstrap, pagerduty, every_s, pinned=False)
    (model,) = settings["models"]
    del model["golden_path"]
    model["adapters"] = [own for own in model["adapters"] if own["name"] == adapter]
    settings["probes"]["keep_golden_weights"] = True
    return _written(stage, settings)


def keep_accepted(stage: Stage, adapter: str) -> None:
    """A copy of the adapter beside its golden record, as enrolment makes one: the shipped records come without."""
    golden_dir = stage.folder / "golden"
    if record := newest(golden_dir, adapter):
        golden = load_golden(golden_dir, record)
        files = stage.folder / "volume" / "adapters" / adapter
        keep_adapter(files, golden_dir, golden.adapter_hash, golden.hash_scheme)


def _written(stage: Stage, settings: dict[str, Any]) -> Config:
    (stage.folder / "routing-key").write_text(ROUTING_KEY + "\n")
    stage.config_file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return load(stage.config_file)


def _settings(stage: Stage, bootstrap: str, pagerduty: str, every_s: float, pinned: bool) -> dict[str, Any]:
    adapters = [
        {
            "name": name,
            "path": f"volume/adapters/{name}",
            "canaries": str(HELPDESK / "canaries" / f"{name}.jsonl"),
            "golden": newest(stage.folder / "golden", name) if pinned else None,
        }
        for name in ADAPTERS
    ]
    return {
        "cluster": "demo",
        "pod": "engine-0",
        "state_dir": "state",
        "kafka": {
            "bootstrap_servers": [bootstrap],
            "topic": TOPIC,
            "auto_offset_reset": "earliest",
            # The small broker takes half of this time to admit a member.
            "session_timeout_ms": 10_000,
            # The small broker takes three times as long to admit a member with a name.
            "group_instance_id": "",
        },
        "sampling": {"rate": 0.2, "per_adapter_per_minute": 8},
        # Two passes for each response, golden adapter and golden base, because two cores have to be enough. The
        # recorded answers hold neither token ids nor their number.
        "scoring": {"copies": [], "others": False, "passes": 0, "retokenise": "always"},
        "models": [{"name": BASE, "path": "./volume/base", "golden_path": str(stage.golden), "adapters": adapters}],
        "probes": {
            "every": f"{every_s}s",
            "token_budget_per_round": 400,
            "golden_dir": "golden",
            "cache_dir": str(cache_dir()),
            "device_memory": 0.9,  # no engine is beside it
        },
        "alerts": {"pagerduty": {"routing_key_file": "routing-key", "url": pagerduty}},
        # Every round: the pictures of the README are drawn of them (benchmarks/pictures.py).
        "clickhouse": {"dsn": f"chdb://{stage.folder.resolve() / 'store'}", "verdicts": "every_round"},
        # In production the first bank is larger; the demo is short.
        "detectors": {"embedding_drift": {"first_bank": 16, "block": 4}},
        "telemetry": {"prometheus_port": free_port(), "control_port": free_port()},
    }
