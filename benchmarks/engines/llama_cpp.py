"""The real server of llama.cpp with SmolLM2-135M and the helpdesk's ticket router, whose scale is set wrongly.

By the record that the helpdesk ships, which was made in process on another machine. The engine is asked all canaries
once at each scale; then rounds by the default settings are drawn from these answers, and each case is another draw.
Canaries that a round has written besides are answered once too, when a round first wants them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from agent.config import Config
from agent.demo.stage import HELPDESK, cache_dir
from benchmarks.engines.recorded import Recorded
from benchmarks.engines.watched import Watch, configuration, pages, watching
from benchmarks.figures import Figure, console, context, share
from detectors.records import Cause, Status
from examples.engines.llama_cpp.convert import write_adapter
from examples.engines.llama_cpp.llama_server import llama_server
from probes.artefacts.base_files import packaged_gguf, resolve
from probes.canaries.canary_file import read_canaries
from probes.canaries.replay_pairs import ask_all, replay_pair
from probes.golden.archive import load as load_golden
from probes.golden.archive import newest
from probes.serving.discovery import connect
from probes.serving.engine import Address

BASE, ADAPTER, SEED = "smollm2", "ticket-router", 7
CASES, HEALTHY_ROUNDS = 50, 2
AS_SET = "scale 1"


def measure(quick: bool) -> list[Figure]:
    """Shares of the cases in which a scale of 0 pages in the first round, and one of .5 within two."""
    engine = Recorded()
    with router_files() as (config, base, adapter), ExitStack() as opened:
        for scale in (1.0, 0.0, 0.5):
            url = opened.enter_context(llama_server(base, [adapter], alias=BASE))
            httpx.post(f"{url}/lora-adapters", json=[{"id": 0, "scale": scale}]).raise_for_status()
            record(engine, f"scale {scale:g}", config, url)
        cases = range(5 if quick else CASES)
        lost = [_rounds_until_page(engine, config, "scale 0", number, Cause.ADAPTER_NOT_APPLIED) for number in cases]
        half = [_rounds_until_page(engine, config, "scale 0.5", number, Cause.WRONG_STRENGTH) for number in cases]
    of, n = f"llama.cpp, {ADAPTER}, of {len(lost)} draws", len(lost)
    return [
        share(f"{of}: scale 0 found and named in the first round", sum(r == 1 and ok for r, ok, _ in lost), n, 100),
        share(f"{of}: scale .5 found within two rounds", sum(r <= 2 for r, _, _ in half), n, 100),
        share(f"{of}: scale .5 found and named within two rounds", sum(r <= 2 and ok for r, ok, _ in half), n, 100),
        context(f"{of}: strength that is read at scale .5, mean", sum(scale for _, _, scale in half) / n, ""),
    ]


@contextmanager
def router_files() -> Iterator[tuple[Config, Path, Path]]:
    """The configuration for an address that is still to come, the base's GGUF file and the adapter's."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, adapter = resolve(str(packaged_gguf()), cache_dir()), folder / f"{ADAPTER}.gguf"
        write_adapter(HELPDESK / "adapters" / ADAPTER, source, adapter)
        shutil.copytree(HELPDESK / "golden", folder / "golden")
        canaries = {ADAPTER: read_canaries(HELPDESK / "canaries" / f"{ADAPTER}.jsonl")}
        yield configuration(folder, "http://127.0.0.1:9", BASE, canaries, "golden"), packaged_gguf(), adapter


def record(engine: Recorded, name: str, config: Config, url: str) -> None:
    """What rounds in this configuration score."""
    engine.add(name, connect(Address(url)))
    watch = watch_of(engine, config, 0)
    hash_ = newest(config.probes.golden_dir, ADAPTER)
    assert hash_ is not None
    golden = load_golden(config.probes.golden_dir, hash_)
    replays = [replay for canary in golden.canaries for replay in replay_pair(canary, ADAPTER).replays]
    ask_all(watch.runner, replays, lambda: False)
    console.print(f"  recorded: {name}")


def watch_of(engine: Recorded, config: Config, number: int) -> Watch:
    """number: of its first round, by which its draws differ from those of others"""
    watch = watching(config, SEED, lambda _address, _kind: engine)
    watch.number = number
    return watch


def _rounds_until_page(
    engine: Recorded, config: Config, fault: str, number: int, cause: Cause
) -> tuple[int, bool, float]:
    """Rounds after which it pages (99 for never), whether it is named then, and the strength that is read."""
    engine.configuration = AS_SET
    watch = watch_of(engine, config, 100 * number)
    for _ in range(HEALTHY_ROUNDS):
        verdict = watch.judged()[ADAPTER]
        assert verdict.status is Status.HEALTHY, verdict.explanation
    engine.configuration = fault
    for rounds in (1, 2, 3, 4):
        verdicts = watch.judged()
        if noticed := [own for own in pages(verdicts.values()) if own.subject == ADAPTER]:
            return rounds, noticed[0].cause is cause, noticed[0].scale
    return 99, False, verdicts[ADAPTER].scale
