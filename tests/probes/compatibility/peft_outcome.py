"""What PEFT itself does with an adapter on a base: the truth that the rules of ``peft`` are held against."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils import save_and_load
from safetensors.torch import load_file

from probes.artefacts.architecture import architecture
from probes.compatibility.engine_rules import Outcome


def peft_outcome(base: Path, adapter: Path) -> Outcome:
    """CRASH where loading raises; else by how many of the file's tensors arrived in the model.

    IGNORED also where what arrived changes no weight: B without A, or A without B, which stays zero.
    """
    _, kind = architecture(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind.from_pretrained(base, dtype=torch.float32)
        try:
            loaded = PeftModel.from_pretrained(model, adapter)
        except Exception:  # what PEFT raises differs by the kind of fault
            return Outcome.CRASH
        written = load_file(adapter / "adapter_model.safetensors")
        arrived = save_and_load.get_peft_model_state_dict(loaded)
    applied = [key for key, value in written.items() if key in arrived and torch.equal(arrived[key], value)]
    effective = [key for key in applied if _is_effective(key, applied)]
    if not effective:
        return Outcome.IGNORED
    return Outcome.FITS if len(effective) == len(written) else Outcome.PARTLY


def _is_effective(key: str, applied: list[str]) -> bool:
    if not key.endswith(("lora_A.weight", "lora_B.weight")):
        return True
    other = key.replace("lora_A", "lora_B") if "lora_A" in key else key.replace("lora_B", "lora_A")
    return other in applied
