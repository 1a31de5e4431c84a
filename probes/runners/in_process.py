"""Replays by models in this process: the golden base stays loaded, adapters are applied as their files lie now."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

import torch

from detectors.records import Floats, Identity
from probes import cpu_share
from probes.artefacts.identity import NEWEST
from probes.errors import NoMemory, Unreplayable
from probes.model import faulty_adapters
from probes.model.build import AUTO, Placement
from probes.model.chat_prompt import in_ids
from probes.model.fault_injection import Role, StandIns
from probes.model.forward import Model
from probes.model.memory import in_halves
from probes.model.packing import pack, pack_prompts, pack_texts
from probes.model.residency import Loaded, Sources
from probes.model.response_scoring import Copies, answers, chunks, unanswered
from probes.runner import BatchShape, Readiness, Replay, Replayed, Stop, Target, Weights, other_adapter
from probes.scoring.scoring_job import ScoringAnswer, ScoringJob, ScoringOptions

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = (AUTO, "sdpa", "eager")


@dataclass(frozen=True, slots=True)
class Config:
    """A base, the adapters that live on it, and how they are run.

    base: folder, .gguf file or hub id of what lies there now; adapters: name -> PEFT folder
    golden_base: likewise for the base of the golden records; None takes the base as it is first loaded
    golden_adapters: name -> PEFT folder as accepted, which scores traffic; one without is taken as it is first loaded
    device: "auto" (CUDA where there is one) or torch's name; dtype: "auto" (float32) or a name of DTYPES
    attention: "auto" (what the base's class supports) or transformers' name of the backend
    cache_dir: converted copies; max_batch_tokens: padded tokens of one forward pass
    threads: of the process on CPU, 0 takes its share beside the engine (probes/cpu_share.py): with another busy process
    on two cores, two threads were seen to take 93 s for a round that one thread did in 16
    """

    base: str
    adapters: dict[str, str] = field(default_factory=dict)
    golden_base: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    cache_dir: str = "~/.cache/gapwatch"
    max_batch_tokens: int = 2048
    attention: str = AUTO
    threads: int = 0
    golden_adapters: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dtype != "auto" and self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: wanted auto or one of {', '.join(DTYPES)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention {self.attention!r}: wanted one of {', '.join(ATTENTIONS)}")
        if self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens {self.max_batch_tokens}: wanted at least 1")

    def placement(self) -> Placement:
        """float32 unless told otherwise, also on CUDA: the noise floor of bfloat16 kernels hides small faults."""
        found = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(found if self.device == "auto" else self.device)
        return Placement(device, DTYPES.get(self.dtype, torch.float32), self.attention)


class Runner:
    """See probes/runner.py for the contract.

    Forward passes of several threads take turns by a lock held for one micro-batch, so that traffic is embedded
    between the micro-batches of a round. tokens_scored and tokens_processed count over the runner's life.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tokens_scored = 0
        self.tokens_processed = 0
        self._lock = threading.RLock()
        cache = Path(config.cache_dir).expanduser()
        sources = Sources(config.base, config.adapters, config.golden_base, cache, config.golden_adapters)
        self.loaded = Loaded(sources, config.placement())

    def open(self) -> None:
        """Load what can be loaded. One look is trusted here if the files are unchanged after loading."""
        if self.config.threads:
            os.environ["RAYON_NUM_THREADS"] = str(self.config.threads)  # tokenizers' pool, made at its first use
        torch.set_num_threads(self.config.threads or cpu_share.process_share().threads)
        with self._lock:
            self.loaded.open()

    def close(self) -> None:
        """Let go of the models; a closed runner may be opened again."""
        with self._lock:
            self.loaded.close()

    def refresh(self) -> dict[str | None, Readiness]:
        """Look at the files, load what came to rest. An adapter is ready when its own and the base's entries are."""
        with self._lock:
            return self.loaded.look()

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """Answer in micro-batches, longest first, and in smaller ones where there is no memory for them.

        Raises Unreplayable, also when the files changed underneath; NoMemory where there is none for a single replay,
        and if that was an adapter's, it is let go: its files are not ready until it is tried again.
        """
        packing = shape or BatchShape()
        with self._stand_ins() as cast:
            for role, asked in self._staged(cast, replays):
                model = self._on_stage(role)
                for batch in pack(list(asked), packing, self.config.max_batch_tokens):
                    if stop():
                        return
                    for answer in in_halves(batch, partial(self._answer, cast, model, packing)):
                        yield replace(answer, replay=asked[answer.replay])
        self.loaded.check_unmoved([target for replay in replays for target in _involved(replay.target)])

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        """Greedy continuation, end-of-text token included when reached; shorter when ``stop()`` turns true."""
        return self.generate_many(target, [prompt], max_new_tokens, stop)[0]

    def generate_many(
        self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Stop
    ) -> list[tuple[int, ...]]:
        """``generate`` for each prompt, side by side: a step of many rows costs little more than a step of one."""
        made: list[list[int]] = [[] for _ in prompts]
        with self._stand_ins() as cast:
            with self._lock:
                role = cast.role(target)
            model = self._on_stage(role)
            for batch in pack_prompts(prompts, max_new_tokens, self.config.max_batch_tokens):
                steps = model.greedy(role.target, [prompts[number] for number in batch], max_new_tokens, stop)
                while step := self._step(cast, steps):
                    for row, token in step.items():
                        made[batch[row]].append(token)
        self.tokens_processed += sum(len(prompt) + len(one) for prompt, one in zip(prompts, made, strict=True) if one)
        return [tuple(tokens) for tokens in made]

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        """By the golden base, the output with its prompt as context. A side without tokens is nan.

        Texts are not cut: the caller bounds their length. After ``stop()`` those done so far come back, in order.
        """
        golden = self.loaded.golden_model()
        pooled: list[tuple[Floats, Floats]] = []
        for batch in pack_texts(texts, self.config.max_batch_tokens):
            if stop():
                break
            with self._lock:
                pooled += in_halves(batch, golden.pooled)
            self.tokens_processed += sum(len(prompt) + len(output) for prompt, output in batch)
        return pooled

    def score(
        self, jobs: Sequence[ScoringJob], stop: Stop, asking: ScoringOptions | None = None
    ) -> list[ScoringAnswer]:
        """By the golden copies, see probes/scoring/scoring_job.py; the embeddings are of the same passes."""
        asked = asking or ScoringOptions()
        golden, found = self.loaded.golden_model(), []
        for some in chunks(jobs, self.config.max_batch_tokens):
            if stop():
                break
            with self._lock:
                models = Copies(golden, self.loaded.golden_name, self._rounded_golden)
                found += in_halves(some, partial(self._score, models, asked))
            self.tokens_processed += sum(len(job.prompt) + len(job.output) for job in some)
        return found

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        with self._lock:
            return self.loaded.golden_hashes(adapter, scheme)

    def accept_adapter(self, adapter: str, folder: str | None) -> None:
        with self._lock:
            self.loaded.accept_adapter(adapter, folder)

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        return in_ids(self.loaded.words(weights), messages, self.config.base, day)

    def context(self) -> int | None:
        """By the live base's config, with what its rope is stretched by."""
        told = self.loaded.model(Weights.LIVE, None).network.config.get_text_config()
        positions = getattr(told, "max_position_embeddings", None)
        rope = getattr(told, "rope_parameters", None) or {}
        return int(positions * max(1.0, float(rope.get("factor") or 1.0))) if positions else None

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        return tuple(self.loaded.words(weights).encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int], weights: Weights = Weights.LIVE) -> str:
        return str(self.loaded.words(weights).decode(list(ids), skip_special_tokens=False))

    def end_of_answer(self) -> int | None:
        """By rendering a turn: the tokenizer's own end-of-text token need not be the one that a template writes."""
        words, ends = self.loaded.words(Weights.GOLDEN), self.loaded.golden_model().ends
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        tokens = words.encode(words.apply_chat_template(turns, tokenize=False), add_special_tokens=False)
        return next((token for token in reversed(tokens) if token in ends), None)

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        """Golden means as first loaded by this runner; after a restart only a golden record knows what was accepted."""
        return self.loaded.identity(adapter, scheme)

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter does not fit the live base, and why it could not be read."""
        return self.loaded.facts(adapter)

    def other_attention(self) -> str:
        """Name of a backend that the live base is not run by and could be, "" where there is none."""
        if self.loaded.live is None:
            return ""
        network = self.loaded.live.network
        able = ("sdpa", "eager") if network._supports_sdpa else ("eager",)
        return next((name for name in able if name != network.config._attn_implementation), "")

    def blocks(self, adapter: str) -> tuple[str, ...]:
        """The parts of it that are applied to the live base and can be left out (probes/model/faulty_adapters.py)."""
        with self._lock:
            model = self.loaded.model(Weights.LIVE, adapter)
            return faulty_adapters.blocks(model.adapters.fitted[adapter].adapter)

    def rank_and_alpha(self, adapter: str) -> tuple[int, float]:
        """r and lora_alpha as the adapter's config has them, without its patterns. Raises like ``run``."""
        read = self.loaded.adapter(adapter)
        return read.r, read.alpha

    def _rounded_golden(self, bits: int) -> Model:
        return self.loaded.rounded(self.loaded.golden_model(), bits)

    @contextmanager
    def _stand_ins(self) -> Iterator[StandIns]:
        """Roles for one run, and nothing of them left on the models after it."""
        cast = StandIns(self.loaded.model, self.loaded.loads)
        try:
            yield cast
        finally:
            with self._lock:
                cast.leave()

    def _staged(self, cast: StandIns, replays: Sequence[Replay]) -> list[tuple[Role, dict[Replay, Replay]]]:
        """Replays by stage, each by the one that is put in its place. All are cast before the first is answered."""
        stages: dict[object, tuple[Role, dict[Replay, Replay]]] = {}
        with self._lock:
            for replay in replays:
                role = cast.role(replay.target)
                _, asked = stages.setdefault(role.stage, (role, {}))
                asked[replace(replay, target=role.target)] = replay
        return list(stages.values())

    def _on_stage(self, role: Role) -> Model:
        with self._lock:
            return self.loaded.rounded(role.model, role.bits, role.group) if role.bits else role.model

    def _score(self, models: Copies, asked: ScoringOptions, jobs: Sequence[ScoringJob]) -> list[ScoringAnswer]:
        """A single response that there is no memory for is told why, and costs nobody beside it."""
        try:
            return answers(models, jobs, self.loaded.scorers, asked, self.config.max_batch_tokens)
        except NoMemory as error:
            if len(jobs) > 1:
                raise
            return [unanswered(jobs[0], models.base, str(error))]

    def _answer(self, cast: StandIns, model: Model, shape: BatchShape, batch: Sequence[Replay]) -> list[Replayed]:
        with self._lock:
            self._check_cast(cast)
            try:
                answered = model.answer(batch, shape)
            except NoMemory as error:
                if len(batch) == 1:
                    self._give_up(batch[0].target, error)
                raise
        self.tokens_scored += sum(len(replay.forced) for replay in batch)
        self.tokens_processed += sum(len(replay.prompt) + len(replay.forced) - 1 for replay in batch)
        return answered

    def _give_up(self, target: Target, error: NoMemory) -> None:
        """Of an adapter as it lies there; a stand-in's trouble is none of its own."""
        if target.weights is Weights.LIVE and target.fault is None and target.adapter in self.config.adapters:
            self.loaded.give_up(target.adapter, error)

    def _step(self, cast: StandIns, steps: Iterator[dict[int, int]]) -> dict[int, int] | None:
        with self._lock:
            self._check_cast(cast)
            return next(steps, None)

    def _check_cast(self, cast: StandIns) -> None:
        """Variants are made of what was loaded when they were cast: after another load they stand for nothing."""
        if cast.has_faults and cast.loads != self.loaded.loads:
            raise Unreplayable(self.config.base, "it or an adapter was loaded anew while replaying")


def _involved(target: Target) -> list[Target]:
    """The target and the adapter that its fault brings in."""
    return [target, replace(target, adapter=other_adapter(target.fault))]
