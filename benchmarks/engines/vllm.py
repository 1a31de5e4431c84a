"""A real vLLM on the CPU under two faults of its own; VLLM_HOME as for `make test-engines`, whose tests this measures.

SmolLM2-135M with the helpdesk's ticket router, by the record that the helpdesk ships, made in process elsewhere; one
round by ``gapwatch probe``, which pages by that round alone or not at all. Responses that the same engine samples go
through a real Kafka to an agent that has nothing else. The load in place is of a tiny random model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agent.demo.story import page_text
from benchmarks.engines.responses import sampled, until_paged
from benchmarks.figures import Figure, at_most, console, context, exactly
from detectors.records import Cause
from tests.probes.tiny import overwrite
from tests.serving_engines.test_real_vllm import (
    ADAPTER,
    BASE,
    HOME,
    OF_A_TINY_MODEL,
    command,
    load_in_place,
    probed,
    tiny_world,
    vllm,
)

HEALTHY, DEGRADED = 0, 1
HEALTHY_RESPONSES, FAULTY_RESPONSES = 8, 8
TARGETS = "vLLM with target modules that the adapter has not (vllm#55193)"
STALE = "vLLM after a load in place that leaves the cache stale (vllm#42125)"
LOADED = f"Loaded new LoRA adapter: name '{ADAPTER}'"


def measure(quick: bool) -> list[Figure]:  # noqa: ARG001 - it cannot be less
    """Nothing where there is no vLLM."""
    if not (HOME / "env/bin/vllm").is_file():
        console.print("not measured: a real vLLM (VLLM_HOME names none: make test-engines)")
        return []
    return [*_target_modules(), *_load_in_place()]


def _target_modules() -> list[Figure]:
    with tempfile.TemporaryDirectory() as place:
        healthy_figures, healthy = _as_accepted(Path(place))
    with tempfile.TemporaryDirectory() as place:
        faulty_figures, faulty = _with_other_modules(Path(place))
    return [*healthy_figures, *faulty_figures, *_from_responses(healthy, faulty)]


def _as_accepted(folder: Path) -> tuple[list[Figure], list[bytes]]:
    """With responses, as their engine gave them."""
    with vllm(folder) as url:
        began = time.monotonic()
        code, verdict = probed(folder, url)
        took_s = time.monotonic() - began
        responses = sampled(url, ADAPTER, HEALTHY_RESPONSES)
    figures = [
        exactly("vLLM, as accepted: exit code of gapwatch probe (0 healthy)", code, "", HEALTHY),
        context("vLLM, as accepted: retention", verdict["retention"]["mean"], ""),
        context("vLLM, as accepted: gapwatch probe, from its start to its end", took_s, "s"),
    ]
    return figures, responses


def _with_other_modules(folder: Path) -> tuple[list[Figure], list[bytes]]:
    """Likewise; a response that was answered with another status than 200 ends this."""
    with vllm(folder, ["--lora-target-modules", "o_proj"]) as url:
        is_listed = ADAPTER in {name for name, _ in _listed(url)}
        code, verdict = probed(folder, url)
        responses = sampled(url, ADAPTER, FAULTY_RESPONSES)
    log = (folder / "vllm.log").read_text()
    is_named = code == DEGRADED and verdict["cause"] == Cause.ADAPTER_NOT_APPLIED
    figures = [
        exactly(f"{TARGETS}: paged and named in the first round", float(is_named), "", 1),
        context(f"{TARGETS}: the engine lists the adapter", float(is_listed), ""),
        context(f"{TARGETS}: its log says that the adapter is loaded", float(LOADED in log), ""),
        context(f"{TARGETS}: errors in its log", log.count("ERROR"), ""),
        context(f"{TARGETS}: answers with status 200, of {FAULTY_RESPONSES}", len(responses), ""),
        context(f"{TARGETS}: retention", verdict["retention"]["mean"], ""),
        context(f"{TARGETS}: evidence", max(own["log_e"] for own in verdict["evidence"]), "nats"),
        context(f"{TARGETS}: evidence at which it pages", verdict["log_threshold"], "nats"),
    ]
    return figures, responses


def _from_responses(healthy: Sequence[bytes], faulty: Sequence[bytes]) -> list[Figure]:
    paged = until_paged(BASE, ADAPTER, healthy, faulty)
    if paged.page is not None:
        console.print(page_text(paged.page))
    cause = paged.page.events[-1]["payload"]["class"] if paged.page else ""
    responses = float("inf") if paged.responses is None else paged.responses
    of, alone = f"{len(healthy)} sampled responses", "through Kafka alone"
    return [
        exactly(f"vLLM, as accepted, {of} {alone}: pages", paged.pages, "", 0),
        at_most(f"{TARGETS}, {alone}: sampled responses until the page", responses, "", len(faulty)),
        exactly(f"{TARGETS}, {alone}: named", float(cause == Cause.ADAPTER_NOT_APPLIED), "", 1),
    ]


def _load_in_place() -> list[Figure]:
    """The new version is accepted, and loaded in place of the former one, whose prefixes are in the cache."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base, served, canaries = tiny_world(folder)
        world = World(base, served, canaries, folder / "golden")
        _accept(folder, world)
        return _after_load_in_place(folder, world)


@dataclass(frozen=True, slots=True)
class World:
    """base, served: folders that the engine loads; canaries: a file; golden: where records are, or will be"""

    base: Path
    served: Path
    canaries: Path
    golden: Path

    @property
    def watched(self) -> dict[str, Any]:
        return {"canaries": self.canaries, "golden": self.golden, "limits": OF_A_TINY_MODEL}


def _accept(folder: Path, world: World) -> None:
    """``gapwatch enrol`` of the new version, through the engine. Raises RuntimeError where it was not recorded."""
    overwrite(folder / "new", world.served)
    with vllm(folder, base=world.base, adapter=world.served) as url:
        began = time.monotonic()
        done = command(folder, url, "enrol", ADAPTER, **world.watched)
        console.print(f"  enrolled in {time.monotonic() - began:.0f} s")
    if done.returncode:
        raise RuntimeError(done.stderr)


def _after_load_in_place(folder: Path, world: World) -> list[Figure]:
    overwrite(folder / "former", world.served)
    with vllm(folder, base=world.base, adapter=world.served) as url:
        probed(folder, url, **world.watched)
        listed = _listed(url)
        load_in_place(url, world.served, folder / "new")
        is_unchanged = _listed(url) == listed
        code, verdict = probed(folder, url, **world.watched)
    levels = {own["stream"]: own["log_e"] for own in verdict["evidence"] if own["pages"]}
    is_named = code == DEGRADED and verdict["cause"] == Cause.SHARED_CACHE
    return [
        exactly(f"{STALE}: paged and named in the first round", float(is_named), "", 1),
        context(f"{STALE}: the engine's list of models is as before", float(is_unchanged), ""),
        context(f"{STALE}: evidence of the mode warm", levels.get("warm", float("nan")), "nats"),
        context(f"{STALE}: evidence of what is scored cold", levels.get("", float("nan")), "nats"),
        context(f"{STALE}: evidence at which it pages", verdict["log_threshold"], "nats"),
        context(f"{STALE}: retention of what is scored cold", verdict["retention"]["mean"], ""),
    ]


def _listed(url: str) -> list[tuple[str, str]]:
    return [(model["id"], model["root"]) for model in httpx.get(f"{url}/v1/models").json()["data"]]
