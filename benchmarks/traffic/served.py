"""Responses of the real model under known faults: SmolLM2 and the three helpdesk adapters, sampled once and kept.

A cell is who writes, under whose name, and by which sampler. Its tokens depend on nothing else, so that they are the
same when they are sampled again; they lie in the cache folder by a hash of all that they depend on.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from agent.demo.stage import ADAPTERS, cache_dir
from benchmarks.traffic.engine_faults import ROUNDINGS, changed, is_of_adapter
from detectors.evidence.alternative import (
    BASE,
    FOUR_BITS,
    HALF_STRENGTH,
    Alternative,
    AlternativeKind,
    other_adapter,
)
from examples.helpdesk.data import HERE, examples
from probes.artefacts.base_files import packaged_gguf
from probes.model.forward import Model
from probes.model.lora import row_groups
from probes.model.packing import padded
from probes.runners.in_process import Config, Runner
from probes.scoring.scoring_job import ScoringJob
from probes.scoring.token_distribution import SamplingParameters

SEED = 7
LONGEST, ROWS, FEW = 32, 16, 8
# What prompts may become: other languages, code, long ones.
ELSEWHERE = (
    "Wo ist mein Paket? Es sollte gestern ankommen.",
    "¿Cuándo llega mi pedido de tres lámparas?",
    "Pourquoi la facture est-elle deux fois plus élevée que d'habitude ?",
    "def reverse(items):\n    return items[::-1]\n# explain this function",
    "Write a poem about the sea in winter.",
    "What is 17 times 23? Answer with the number alone.",
    "Summarise: " + "the committee met and decided to meet again before the summer. " * 8,
    "注文番号A7003の配送状況を教えてください。",
)
# Beside these, the faults of engine_faults.py.
WRITERS = ("healthy", "base", "half", "4 bits", "wrong")


@dataclass(frozen=True, slots=True)
class Cell:
    """writer: one of WRITERS, or a fault of the engine alone
    adapter: under whose name; sampling: of the request and, but for ``in_force``, in force

    prompts: "own", "few" of them again and again, or "drift"; count: responses
    """

    adapter: str
    writer: str
    sampling: SamplingParameters
    count: int
    prompts: str = "own"
    in_force: SamplingParameters | None = None

    @property
    def faulty(self) -> bool:
        return self.writer != "healthy" or self.in_force is not None

    @property
    def other(self) -> str:
        """The adapter that writes as "wrong"."""
        return ADAPTERS[(ADAPTERS.index(self.adapter) + 1) % len(ADAPTERS)]

    @property
    def written_by(self) -> Alternative | None:
        """The alternative that the writer is; None for the adapter itself, UNKNOWN where no alternative is like it."""
        known = {"healthy": None, "base": BASE, "half": HALF_STRENGTH, "4 bits": FOUR_BITS}
        if self.writer == "wrong":
            return other_adapter(self.other)
        return known.get(self.writer, Alternative(AlternativeKind.UNKNOWN, self.writer))

    @property
    def name(self) -> str:
        s = self.sampling
        return (
            f"{self.adapter}, {self.writer}, temperature {s.temperature:g}, top-p {s.top_p:g}, {self.prompts} prompts"
        )


def open_runner(dtype: str = "auto") -> Runner:
    """The three adapters on the model of the package, on one thread."""
    adapters = {name: str(HERE / "adapters" / name) for name in ADAPTERS}
    cache = str(cache_dir())
    runner = Runner(Config(str(packaged_gguf()), adapters, cache_dir=cache, threads=1, dtype=dtype))
    runner.open()
    return runner


def jobs(runner: Runner, cell: Cell) -> list[ScoringJob]:
    """The cell's responses as traffic: prompts, outputs, and the sampler that the request names."""
    texts = prompts(runner, cell)
    outputs = _kept(runner, cell, texts)
    return [
        ScoringJob(cell.adapter, f"{cell.name} {i}", "", float(i), prompt, output, cell.sampling)
        for i, (prompt, output) in enumerate(zip(texts, outputs, strict=True))
    ]


def prompts(runner: Runner, cell: Cell) -> list[tuple[int, ...]]:
    """Of the traffic split; a drift takes the other adapters' prompts and ELSEWHERE under this one's name."""
    if cell.prompts in ("own", "few"):
        chats = [example.messages for example in examples(cell.adapter, "traffic")]
        chats = chats[:FEW] if cell.prompts == "few" else chats
    else:
        others = [examples(name, "traffic") for name in ADAPTERS if name != cell.adapter]
        pairs = [example.messages for two in zip(*others, strict=True) for example in two]
        foreign = [[{"role": "user", "content": text}] for text in ELSEWHERE]
        chats = [chat for three in zip(pairs, foreign * len(pairs), strict=False) for chat in three]
    return [runner.encode_chat(chats[i % len(chats)]) for i in range(cell.count)]


def _kept(runner: Runner, cell: Cell, texts: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    file = _folder() / f"{_key(runner, cell)}.npz"
    if not file.exists():
        made = list(_written(runner, cell, texts))
        flat = np.array([token for output in made for token in output], np.int32)
        np.savez(file, tokens=flat, lengths=np.array([len(output) for output in made], np.int32))
    held = np.load(file)
    ends = held["lengths"].cumsum()
    return [tuple(held["tokens"][end - n : end].tolist()) for n, end in zip(held["lengths"], ends, strict=True)]


def kept_file(runner: Runner, cell: Cell, options: str, formulas: Sequence[ModuleType]) -> Path:
    """Where what was computed of a cell is kept, by all that it depends on."""
    sources = "".join(inspect.getsource(module) for module in formulas)
    key = hashlib.blake2b(f"{options}{sources}".encode(), digest_size=8).hexdigest()
    return _folder() / f"{_key(runner, cell)}-{key}.pickle"


def _folder() -> Path:
    folder = cache_dir() / "traffic"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(runner: Runner, cell: Cell) -> str:
    identity = runner.identity(cell.adapter)
    facts = (astuple(cell), identity.golden_base, identity.golden_adapter, SEED, LONGEST, ELSEWHERE)
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def _written(runner: Runner, cell: Cell, texts: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Sampled by the cell's writer, ROWS prompts side by side."""
    voice: tuple[str | None, float] = {
        "base": (None, 1.0),
        "half": (cell.adapter, 0.5),
        "wrong": (cell.other, 1.0),
    }.get(cell.writer, (cell.adapter, 1.0))
    if is_of_adapter(cell.writer):
        voice = (cell.writer, 1.0)
    torch.manual_seed(int.from_bytes(hashlib.blake2b(repr(astuple(cell)).encode(), digest_size=4).digest()))
    with applied_as_written(_model(runner, cell), cell) as model:
        for start in range(0, len(texts), ROWS):
            yield from _sampled(model, voice, texts[start : start + ROWS], cell.in_force or cell.sampling)


def _model(runner: Runner, cell: Cell) -> Model:
    golden = runner.loaded.golden_model()
    if cell.writer not in ROUNDINGS:
        return golden
    return golden.with_weights(ROUNDINGS[cell.writer], f"to {cell.writer}", f"{golden.hash} in {cell.writer}")


@contextmanager
def applied_as_written(model: Model, cell: Cell) -> Iterator[Model]:
    """Where the cell's writer is the adapter as an engine at fault applies it: meanwhile it answers under the writer's
    name."""
    if not is_of_adapter(cell.writer):
        yield model
        return
    model.adapters.apply(cell.writer, changed(model.adapters.applied[cell.adapter].adapter, cell.writer))
    try:
        yield model
    finally:
        model.adapters.remove(cell.writer)


def _sampled(
    model: Model, voice: tuple[str | None, float], texts: Sequence[tuple[int, ...]], sampling: SamplingParameters
) -> list[tuple[int, ...]]:
    rows = padded(texts, left=True)
    how = {"do_sample": False} if sampling.greedy else {"do_sample": True, "temperature": sampling.temperature}
    if not sampling.greedy:
        how |= {"top_p": sampling.top_p, "top_k": 0}
    with (
        torch.inference_mode(),
        model.adapters.selection.for_pass(row_groups([voice] * len(texts), model.device), len(texts)),
    ):
        made = model.network.generate(
            input_ids=torch.from_numpy(rows.ids), attention_mask=torch.from_numpy(rows.mask),
            max_new_tokens=LONGEST, eos_token_id=sorted(model.ends), pad_token_id=0, **how,
        )  # fmt: skip
    return [_until_end(row[rows.ids.shape[1] :].tolist(), model.ends) for row in made]


def _until_end(tokens: Sequence[int], ends: frozenset[int]) -> tuple[int, ...]:
    stop = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tuple(tokens[:stop])
