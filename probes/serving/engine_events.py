"""What has changed at a serving engine between two looks, in words: a restart, other settings, adapters that came, went
or were loaded from elsewhere.

Context and never evidence: an event makes a round at once and stands among its facts. What is served is measured. A
reload in place under the same name and path is noticed where the engine counts versions of its weights or requests to
load, or where the adapter's files are at hand and were written; such files need not be loaded yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from probes.serving.engine import Engine, EngineIdentity, ServedModel

FileTimes = tuple[tuple[int, int], ...]
"""Size and time of change, in nanoseconds, of an adapter's files."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine said of itself at one look, and its list of models.

    files: of adapters whose files are at hand, their sizes and times of change
    """

    identity: EngineIdentity
    models: tuple[ServedModel, ...]
    files: Mapping[str, FileTimes] = field(default_factory=dict)


def state_of(engine: Engine, folders: Mapping[str, str]) -> EngineState:
    """folders: of adapters, "" where their files are not at hand. Raises EngineAway and Unreplayable as the engine
    does."""
    times = {name: file_times(folder) for name, folder in folders.items() if folder}
    return EngineState(engine.identity(), engine.models(), {name: own for name, own in times.items() if own})


def file_times(folder: str) -> FileTimes:
    """Of an adapter's files; nothing where they cannot be listed."""
    try:
        listed = [(Path(folder) / name).stat() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    except OSError:
        return ()
    return tuple((file.st_size, file.st_mtime_ns) for file in listed)


def events_in_words(before: EngineState, now: EngineState) -> tuple[str, ...]:
    """What is another one now; nothing where the engine says the same as before."""
    written = sorted(name for name, times in now.files.items() if before.files.get(name, times) != times)
    return (
        *_of_identity(before.identity, now.identity),
        *_of_models(before.models, now.models),
        *(f"the files of {name} were written" for name in written),
    )


def engine_in_words(state: EngineState | None) -> str:
    """Kind, version and settings of the engine; "" before the first look."""
    if state is None:
        return ""
    identity = state.identity
    return ", ".join(filter(None, (f"{identity.kind} {identity.version}".strip(), identity.fingerprint)))


def source_in_words(state: EngineState | None, adapter: str) -> str:
    """From where the engine loaded the adapter, and on which base; "" where it does not say. The last part of a path
    alone: one volume is mounted at different places."""
    served = next((model for model in state.models if model.name == adapter), None) if state else None
    if served is None or not (served.root or served.parent):
        return ""
    parts = PurePath(served.root).name, f"on {served.parent}" if served.parent else ""
    return " ".join(filter(None, parts))


def _of_identity(before: EngineIdentity, now: EngineIdentity) -> Iterator[str]:
    if before.started != now.started and None not in (before.started, now.started):
        yield "the engine was started again"
    # Of an engine that was started again, or whose counters are gone, the count says nothing.
    if before.started == now.started and None not in (before.loads, now.loads) and before.loads != now.loads:
        yield "the engine was asked to load or unload an adapter, to sleep or to wake"
    for name, was, present in (
        ("the engine", f"{before.kind} {before.version}".strip(), f"{now.kind} {now.version}".strip()),
        ("the fingerprint of the engine's settings", before.fingerprint, now.fingerprint),
        ("the engine's version of the weights", before.weights, now.weights),
    ):
        if was != present and was and present:
            yield f"{name} is {present}, was {was}"


def _of_models(before: tuple[ServedModel, ...], now: tuple[ServedModel, ...]) -> Iterator[str]:
    """A name that comes twice is compared with all that is listed under it."""
    was, present = ({model.name: _lines(models, model.name) for model in models} for models in (before, now))
    for name in sorted(was.keys() | present.keys()):
        if name not in was:
            yield f"the engine lists {name}, which it did not"
        elif name not in present:
            yield f"the engine does not list {name} any more"
        elif was[name] != present[name]:
            yield f"the engine lists {name} with another source or parent than before"


def _lines(models: tuple[ServedModel, ...], name: str) -> tuple[ServedModel, ...]:
    return tuple(model for model in models if model.name == name)
