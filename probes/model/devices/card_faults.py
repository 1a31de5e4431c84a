"""What an error of torch says of the card that it happened on, in one sentence that says what helps.

A card may be gone, failed, or of another make than this build of torch, and a driver too old for it: each is a reason
why a base is not replayed, and never a number. Messages are those of cudaGetErrorString (CUDA 13.0) and of torch 2.13
(CUDAFunctions.cpp of c10, and torch.cuda); a release that words them differently needs new ones here.
"""

from __future__ import annotations

ON_CPU = "or set probes.device: cpu"
# After any of these every further call of CUDA in the process fails. Source: CUDA Runtime API, cudaErrorIllegalAddress
# and its like: "the process must be terminated and relaunched".
POISONED = (
    "illegal memory access", "device-side assert", "unspecified launch failure", "launch timed out",
    "misaligned address",
    "illegal instruction", "hardware stack error", "global/shared address space", "invalid program counter",
    "uncorrectable ECC error", "uncorrectable NVLink error", "MPS client has been terminated",
    "Invalid access of peer GPU memory",
)  # fmt: skip
GONE = (
    "no CUDA-capable device", "No CUDA GPUs are available", "busy or unavailable", "GPU is lost", "unknown error",
    "system not yet initialized", "driver initialization failed", "MPS control daemon", "MPS server",
)  # fmt: skip
DRIVER_TOO_OLD = (
    "driver on your system is too old", "driver version is insufficient", "unsupported toolchain",
    "unsupported display driver", "forward compatibility was attempted",
)  # fmt: skip
# What the message holds -> what it means and what to do.
MEANINGS = {
    POISONED: "the card failed, and this process can compute nothing on it any more: the models are started again",
    GONE: "there is no card that answers: nvidia-smi on its node says whether it is lost, taken away or in exclusive "
    f"use; give the pod another one, {ON_CPU}",
    DRIVER_TOO_OLD: "the driver of this node is too old for the CUDA of this build of torch: update the driver, take "
    f"an image that was built for an older CUDA, {ON_CPU}",
    ("Found no NVIDIA driver",): "no driver of a card can be seen from here: give the container a card "
    f"(resources.limits), {ON_CPU}",
    ("no kernel image", "kernel image is invalid"): "this build of torch has no kernels for a card of this generation: "
    f"take another build or another card, {ON_CPU}",
    ("not compiled with CUDA",): f"this build of torch knows no cards: take the image for CUDA, {ON_CPU}",
    ("invalid device ordinal",): "there is no card of that number among those that this container sees: name another "
    f"in probes.device, {ON_CPU}",
}
# The first generation of NVIDIA's cards with bfloat16 in hardware; torch emulates it on earlier ones.
BFLOAT16_SINCE = (8, 0)


def card_fault(error: BaseException) -> str:
    """What the error says of the card and what to do, "" where it is about something else."""
    message = str(error).partition("\n")[0]
    meaning = next((means for says, means in MEANINGS.items() if any(words in message for words in says)), "")
    return f"{meaning} ({message})" if meaning else ""


def without_bfloat16(name: str, generation: tuple[int, int]) -> str:
    """Why a card of this compute capability does not answer in bfloat16, "" where it may."""
    if generation >= BFLOAT16_SINCE:
        return ""
    number = ".".join(map(str, generation))
    return f"{name} (compute capability {number}) has no bfloat16: set dtype to float32, or to float16"
