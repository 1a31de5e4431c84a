"""Can the device be used that the models are to answer on? Tried before anything is read for it."""

from __future__ import annotations

from pathlib import Path

import torch

from probes.errors import Unreplayable
from probes.model.devices.card_faults import card_fault, without_bfloat16
from probes.model.free_memory import no_memory

# Device files of a card that was given to this container.
CARDS = ("dev/nvidiactl", "dev/nvidia0")


def check_card(path: str, device: torch.device, dtype: torch.dtype) -> None:
    """Computes one number there. path: of what is to be loaded.

    Raises Unreplayable, with what torch raised as its cause, for a card that cannot be used and for one without this
    dtype; NoMemory for one that is so full that nothing can be begun on it.
    """
    if device.type == "cpu":
        return
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).partition("\n")[0]
        why = card_fault(error) or f"nothing can be computed on {device} ({first_line})"
        raise no_memory(path, error) or Unreplayable(path, why) from error
    if device.type == "cuda" and dtype is torch.bfloat16 and torch.version.hip is None:
        properties = torch.cuda.get_device_properties(device)
        if why := without_bfloat16(properties.name, (properties.major, properties.minor)):
            raise Unreplayable(path, why)


def unused_card(root: Path = Path("/")) -> str:
    """Why models answer on the CPU where the device is chosen by what is there, although this container was given a
    card; "" where it was given none, or torch can use it. root: folder that stands for the file system's root"""
    if torch.cuda.is_available() or not any((root / file).exists() for file in CARDS):
        return ""
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        why = card_fault(error) or str(error).partition("\n")[0]
        return f"answered on the CPU although there is a card: {why}"
    return ""
