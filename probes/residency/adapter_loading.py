"""An adapter from its files into memory, and from memory onto a base: whole or not at all.

Whatever goes wrong becomes a ProbeError of that adapter alone; no other adapter and no base is affected.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from probes.artefacts.identity import ADAPTER_WEIGHTS
from probes.artefacts.lora_files import LoraAdapter, read_adapter
from probes.errors import ProbeError, Unreplayable
from probes.model.device_memory import card_of, check_available
from probes.model.forward import Model
from probes.model.free_memory import check_free, memory_errors


def read_whole(folder: Path) -> LoraAdapter:
    """The adapter in this folder. Raises NoMemory (before reading where the file's size shows it), Unreplayable,
    Unsupported."""
    weights = folder / ADAPTER_WEIGHTS
    size = weights.stat().st_size if weights.is_file() else 0
    with _errors(str(folder), size):
        check_free(str(folder), size)
        return read_adapter(folder)


def put_on(model: Model, name: str, adapter: LoraAdapter) -> None:
    """Apply it to that base whole, or not at all. Raises NoMemory, Unreplayable, Unsupported."""
    needed = _bytes_on(model, adapter)
    try:
        with _errors(adapter.path, needed):
            if model.device.type == "cpu":
                check_free(adapter.path, needed)
            else:
                check_available(adapter.path, needed, card_of(model.device))
            model.adapters.apply(name, adapter)
    except ProbeError:
        model.adapters.remove(name)
        raise


def _bytes_on(model: Model, adapter: LoraAdapter) -> int:
    """Bytes that its tensors take on that base in addition to those that were read: those of another type or device."""
    place = next(model.network.parameters())
    copied = [t for t in adapter.tensors if (t.dtype, t.device) != (place.dtype, place.device)]
    return sum(tensor.numel() * max(tensor.element_size(), place.element_size()) for tensor in copied)


@contextmanager
def _errors(path: str, requested: int) -> Iterator[None]:
    """Whatever the libraries raise over one adapter's files becomes a ProbeError."""
    try:
        with memory_errors(path, requested):
            yield
    except ProbeError:
        raise
    except Exception as error:  # libraries raise almost anything over files made elsewhere
        raise Unreplayable(path, f"cannot be loaded: {type(error).__name__}: {error}") from error
