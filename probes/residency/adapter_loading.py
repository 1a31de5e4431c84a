"""An adapter from its files into memory and onto a base: whole, or nothing of it, and its trouble is its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.artefacts.identity import ADAPTER_WEIGHTS
from probes.artefacts.lora_files import LoraAdapter, read_adapter
from probes.errors import ProbeError, Unreplayable
from probes.model.forward import Model
from probes.model.memory import check_room, failures


def read_whole(folder: Path) -> LoraAdapter:
    """The adapter in this folder. Raises NoMemory (before it is read where that shows), Unreplayable, Unsupported."""
    weights = folder / ADAPTER_WEIGHTS
    size = weights.stat().st_size if weights.is_file() else 0
    with _failures(str(folder), size):
        check_room(str(folder), size)
        return read_adapter(folder)


def put_on(model: Model, name: str, adapter: LoraAdapter) -> None:
    """Put it on that base whole, or nothing of it. Raises NoMemory, Unreplayable."""
    needed = _bytes_there(model, adapter)
    try:
        with _failures(adapter.path, needed):
            if model.device.type == "cpu":
                check_room(adapter.path, needed)
            model.adapters.fit(name, adapter)
    except ProbeError:
        model.adapters.remove(name)
        raise


def _bytes_there(model: Model, adapter: LoraAdapter) -> int:
    """What its tensors take on that base beside those that were read; those that can lie as they are take nothing."""
    place = next(model.network.parameters())
    halves = [half for part in adapter.low_rank.values() for half in (part.a, part.b)]
    saved = [tensor for tensors in adapter.saved.values() for tensor in tensors.values()]
    moved = [it for it in (*halves, *saved) if (it.dtype, it.device) != (place.dtype, place.device)]
    return sum(it.numel() * max(it.element_size(), place.element_size()) for it in moved)


@contextmanager
def _failures(path: str, asked: int) -> Iterator[None]:
    """What one adapter's files make the libraries raise becomes a ProbeError: trouble of that adapter alone."""
    try:
        with failures(path, asked):
            yield
    except ProbeError:
        raise
    except Exception as error:  # files of others: they raise almost anything
        raise Unreplayable(path, f"cannot be loaded: {type(error).__name__}: {error}") from error
