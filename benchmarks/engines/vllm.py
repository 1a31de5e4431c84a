"""A real vLLM on the CPU under a fault of its own; VLLM_HOME as for `make test-engines`, whose test this measures.

SmolLM2-135M with the helpdesk's ticket router, by the record that the helpdesk ships, made in process elsewhere; one
round by ``gapwatch probe``, which pages by that round alone or not at all.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.figures import Figure, console, context, exactly
from tests.serving_engines.test_real_vllm import ADAPTER, HOME, probed, vllm

HEALTHY, DEGRADED = 0, 1


def measure(quick: bool) -> list[Figure]:  # noqa: ARG001 - two starts and a round of each are all there is
    """Nothing where there is no vLLM."""
    if not (HOME / "env/bin/vllm").is_file():
        console.print("not measured: a real vLLM (VLLM_HOME names none: make test-engines)")
        return []
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with vllm(folder) as url:
            began = time.monotonic()
            code, verdict = probed(folder, url)
            took_s = time.monotonic() - began
            figures += [
                exactly("vLLM, as accepted: exit code of gapwatch probe (0 healthy)", code, "", HEALTHY),
                context("vLLM, as accepted: retention", verdict["retention"]["mean"], ""),
                context("vLLM, as accepted: gapwatch probe, from its start to its end", took_s, "s"),
            ]
        with vllm(folder, ["--lora-target-modules", "o_proj"]) as url:
            listed = {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]}
            code, verdict = probed(folder, url)
            fault = "vLLM with target modules that the adapter has not (vllm#55193)"
            is_named = code == DEGRADED and verdict["cause"] == "adapter_not_applied"
            figures += [
                exactly(f"{fault}: paged and named in the first round", float(is_named), "", 1),
                context(f"{fault}: the engine lists the adapter", float(ADAPTER in listed), ""),
                context(f"{fault}: retention", verdict["retention"]["mean"], ""),
                context(f"{fault}: evidence", max(own["log_e"] for own in verdict["evidence"]), "nats"),
                context(f"{fault}: evidence at which it pages", verdict["log_threshold"], "nats"),
            ]
    return figures
