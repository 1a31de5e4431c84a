"""In which numbers a base is computed, by name: what each costs in precision, and which one a tolerance allows.

The error of a kernel is how far it moved the measured strength s of a healthy canary of SmolLM2, the largest of those
that were tried, with products emulated on a CPU (python -m benchmarks.replay_speed --part precision repeats it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

AUTO = "auto"
FLOAT32, SPLIT, BFLOAT16, FLOAT16 = "float32", "split_bfloat16", "bfloat16", "float16"
# The share of a tolerance that rounding may take, as the noise battery has it (noise_battery.NEGLIGIBLE).
NEGLIGIBLE = 0.1


@dataclass(frozen=True, slots=True)
class Kernel:
    """How products are computed. dtype: of all numbers but the weights of a split kernel; weight_bytes: of a weight;
    error: see above, inf where it was not measured"""

    name: str
    dtype: torch.dtype
    weight_bytes: int
    error: float

    @property
    def is_split(self) -> bool:
        return self.name == SPLIT


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel(BFLOAT16, torch.bfloat16, 2, 1.1e-2),
        Kernel(FLOAT16, torch.float16, 2, math.inf),
        Kernel(SPLIT, torch.float32, 2, 1.8e-5),
        Kernel(FLOAT32, torch.float32, 4, 2e-6),
    )
}
# Types of models on whose tiny copies the split kernel was measured, tests/probes/model/precision/.
SPLIT_TYPES = frozenset(
    ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "granite", "olmo2", "mixtral")
)


def fastest_within(tolerance: float) -> Kernel:
    """The one that is fastest on a card for weights stored in bfloat16 and whose error hides nothing of a tolerance.

    tolerance: |s - 1| that is allowed, the least of all adapters on the base
    """
    fitting = (kernel for name in (BFLOAT16, SPLIT) if (kernel := KERNELS[name]).error <= NEGLIGIBLE * tolerance)
    return next(fitting, KERNELS[FLOAT32])
