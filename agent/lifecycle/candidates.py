"""Runners over candidates: an adapter's accepted copy, or a successor, on whatever base it is to be looked at on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.config import Adapter, Config, Model
from agent.errors import Refused
from agent.lifecycle.holdings import Holdings, holdings_of
from agent.worker.watched_bases import files_runner_of
from probes.artefacts.access import holds
from probes.artefacts.identity import adapter_hash
from probes.canaries.canary_file import Canary, read_canaries
from probes.errors import Unreplayable
from probes.golden.record import Golden
from probes.runner import Runner

BASE = "candidate"


def runner_over(config: Config, base: Path, adapters: Mapping[str, Path]) -> Runner:
    """As ``probes`` of the configuration says, not open. Imports the model libraries."""
    # A base without adapters is no model of a configuration; one that is never asked for changes nothing.
    named = dict(adapters) or {BASE: base / "no adapter"}
    model = Model.model_construct(
        name=BASE,
        path=str(base),
        served=None,
        golden_path=None,
        replay=True,
        desired=None,
        adapters=tuple(
            Adapter.model_construct(name=name, path=path, canaries=None, golden=None, tolerance=0.05)
            for name, path in named.items()
        ),
    )
    return files_runner_of(config, model, golden=False)


def recorded(config: Config, name: str, model: Model | None, adapter: Adapter | None) -> tuple[Holdings, Golden]:
    """What is at hand of this adapter, with its golden record. Raises Refused without one."""
    held = holdings_of(config, model, adapter or name)
    if held.golden is None:
        raise Refused(
            f"adapter {name}", "no golden record", f"one, of the time when it was well: gapwatch enrol {name}"
        )
    return held, held.golden


def accepted_files(held: Holdings, adapter: Adapter | None) -> Path:
    """The accepted adapter: its copy beside the record, or the configured files while they are still these.

    Raises Refused where neither is.
    """
    if held.adapter_copy is not None:
        return held.adapter_copy
    golden, path, state = held.golden, adapter.path if adapter else None, "no copy of what was accepted"
    if golden and path:
        try:
            if adapter_hash(path, golden.hash_scheme) == golden.adapter_hash:
                return path
            state += f", and {path} has changed since"
        except Unreplayable as error:
            state += f"; {error}"
    wanted = "the accepted files: a copy in probes.golden_dir/adapters, or the adapter's own folder unchanged"
    raise Refused(f"adapter {held.adapter}", state, wanted)


def canaries_of(file: Path | None) -> tuple[Canary, ...]:
    """Of its canary file, none where there is none any more. Raises the refusal of a file that cannot be read."""
    return read_canaries(file).canaries if file is not None and holds(file.is_file) else ()
