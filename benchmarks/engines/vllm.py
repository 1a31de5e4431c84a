"""A real vLLM on the CPU under two faults of its own; VLLM_HOME as for `make test-engines`, whose tests this measures.

SmolLM2-135M with the helpdesk's ticket router, by the record that the helpdesk ships, made in process elsewhere; one
round by ``gapwatch probe``, which pages by that round alone or not at all. The load in place is of a tiny random model.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.figures import Figure, console, context, exactly
from tests.probes.tiny import overwrite
from tests.serving_engines.test_real_vllm import ADAPTER, HOME, command, load_in_place, probed, tiny_world, vllm

HEALTHY, DEGRADED = 0, 1


def measure(quick: bool) -> list[Figure]:  # noqa: ARG001 - it cannot be less
    """Nothing where there is no vLLM."""
    if not (HOME / "env/bin/vllm").is_file():
        console.print("not measured: a real vLLM (VLLM_HOME names none: make test-engines)")
        return []
    return [*_target_modules(), *_load_in_place()]


def _target_modules() -> list[Figure]:
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


def _load_in_place() -> list[Figure]:
    """The new version is accepted, and loaded in place of the former one, whose prefixes are in the cache."""
    fault = "vLLM after a load in place that leaves the cache stale (vllm#42125)"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base, served, canaries = tiny_world(folder)
        world: dict[str, Any] = {"canaries": canaries, "golden": folder / "golden"}
        overwrite(folder / "new", served)
        with vllm(folder, base=base, adapter=served) as url:
            done = command(folder, url, "enrol", ADAPTER, **world)
            assert done.returncode == 0, done.stderr
        overwrite(folder / "former", served)
        with vllm(folder, base=base, adapter=served) as url:
            probed(folder, url, **world)
            load_in_place(url, served, folder / "new")
            code, verdict = probed(folder, url, **world)
    levels = {own["stream"]: own["log_e"] for own in verdict["evidence"] if own["pages"]}
    is_named = code == DEGRADED and verdict["cause"] == "shared_cache"
    return [
        exactly(f"{fault}: paged and named in the first round", float(is_named), "", 1),
        context(f"{fault}: evidence of the mode warm", levels.get("warm", float("nan")), "nats"),
        context(f"{fault}: evidence of what is scored cold", levels.get("", float("nan")), "nats"),
        context(f"{fault}: evidence at which it pages", verdict["log_threshold"], "nats"),
        context(f"{fault}: retention of what is scored cold", verdict["retention"]["mean"], ""),
    ]
