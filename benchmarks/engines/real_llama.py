"""Models for the real server of llama.cpp: the helpdesk's ticket router on SmolLM2-135M, and a random adapter.

The router's record is the one that the helpdesk ships, made in process on another machine. Few of its canaries are
drawn from, because the engine takes seconds for one of them on a busy machine. The random adapter of a random two-layer
Llama is accepted by ``gapwatch enrol`` through the engine; its tokens cost hardly anything.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from agent.config import Config
from agent.demo.stage import HELPDESK, cache_dir
from benchmarks.engines.watched import accept, configuration
from examples.engines.llama_cpp.convert import write_adapter
from examples.engines.llama_cpp.demo import lay_files
from examples.engines.llama_cpp.llama_server import llama_server
from probes.artefacts.base_files import packaged_gguf, resolve
from probes.canaries.canary_file import Canary, CanarySet, read_canaries

FEW = 8
ROUTER, RANDOM = "ticket-router", "router"
NOT_YET = "http://127.0.0.1:9"


@dataclass(frozen=True, slots=True)
class Served:
    """One base and one adapter as GGUF files. name: of both, for people; few: as in ``Watch``"""

    name: str
    config: Config
    base: Path
    adapter: Path
    few: int = 0

    @property
    def adapter_name(self) -> str:
        return self.config.models[0].adapters[0].name

    def answers_file(self, configuration: str) -> Path:
        """Where what was answered in this configuration is kept, by all that it depends on but the engine's options."""
        folder = cache_dir() / "engines"
        folder.mkdir(parents=True, exist_ok=True)
        facts = (self.base.stat().st_size, self.adapter.read_bytes(), version("xllamacpp"), configuration)
        return folder / f"{hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()}.pickle"

    def server(self, options: Sequence[str] = ()) -> AbstractContextManager[str]:
        """Its address, while the block runs."""
        return llama_server(self.base, [self.adapter], alias=self.config.models[0].name, options=options)


@contextmanager
def ticket_router() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        source, adapter = resolve(str(packaged_gguf()), cache_dir()), folder / f"{ROUTER}.gguf"
        write_adapter(HELPDESK / "adapters" / ROUTER, source, adapter)
        shutil.copytree(HELPDESK / "golden", folder / "golden")
        canaries = {ROUTER: read_canaries(HELPDESK / "canaries" / f"{ROUTER}.jsonl")}
        config = configuration(folder, NOT_YET, "smollm2", canaries, "golden")
        yield Served(f"SmolLM2-135M with {ROUTER}, {2 * FEW} canaries", config, packaged_gguf(), adapter, FEW)


@contextmanager
def random_adapter() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        served = _written(folder, NOT_YET)
        with served.server() as url:
            _written(folder, url)
            accept(folder)
        yield served


def _written(folder: Path, url: str) -> Served:
    base, adapter = folder / "tiny.gguf", folder / f"{RANDOM}.gguf"
    if not base.exists():
        lay_files(folder)
    texts = [f"question {i} about item {i * 7 % 31}" for i in range(60)]
    canaries = [Canary(f"c{i}", ({"role": "user", "content": text},)) for i, text in enumerate(texts)]
    config = configuration(folder, url, "tiny", {RANDOM: CanarySet(tuple(canaries))}, "golden")
    return Served("random two-layer Llama", config, base, adapter)
