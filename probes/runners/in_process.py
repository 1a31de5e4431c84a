"""The runner that replays on models in this process: golden and live base, with adapters as their files are now.

It schedules: which passes, in which batches. What is in memory is decided in probes/residency/, what a pass computes in
probes/model/. Held by tests/probes/test_every_runner.py and tests/probes/runners/.
"""

from __future__ import annotations

import os
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
from probes.card_share import WHOLE_CARD
from probes.errors import NoMemory, Unreplayable
from probes.model import device_memory, faulty_adapters
from probes.model.build import AUTO, Placement
from probes.model.chat_prompt import chat_token_ids
from probes.model.devices.card_check import unused_card
from probes.model.devices.card_faults import card_fault
from probes.model.fault_injection import FaultInjection, FindsModel, ResolvedTarget
from probes.model.forward import Model
from probes.model.free_memory import in_halves, no_memory
from probes.model.likeness import likeness
from probes.model.packing import pack, pack_prompts, pack_texts
from probes.model.precision.kernels import BFLOAT16, FLOAT16, FLOAT32, KERNELS, SPLIT, Kernel, fastest_within
from probes.model.precision.split_products import is_available as split_is_available
from probes.model.response_scoring import GoldenModels, answers, chunks, unanswered
from probes.residency.bases import ArtefactPaths
from probes.residency.loaded_models import LoadedModels
from probes.residency.residency import Residency
from probes.runner import BatchShape, Readiness, Replay, Replayed, Stop, Target, Weights, other_adapter
from probes.scoring.scoring_job import AdapterVersion, ScoringAnswer, ScoringJob, ScoringOptions

ATTENTIONS = (AUTO, "sdpa", "eager")
# Replays that may share micro-batches: how they are answered, and each replay as it is run -> as it was requested.
Resolved = tuple[ResolvedTarget, dict[Replay, Replay]]


@dataclass(frozen=True, slots=True)
class Config:
    """A base, the adapters on it, and how they are run.

    base: folder, .gguf file or hub id of the live base; adapters: name -> PEFT folder
    golden_base: likewise for the base of the golden records; None takes the live base as it is first loaded
    golden_adapters: name -> PEFT folder of the accepted version, which scores traffic; an adapter without one is taken
    as it is first loaded
    device: "auto" (CUDA where there is one) or torch's name
    dtype: in which answers are computed, a name of KERNELS (probes/model/precision/kernels.py), or "auto": on a CPU
    float32, also of files in 16 bits; on a GPU for weights that are stored in bfloat16 the fastest whose error hides
    nothing of ``tolerance``, else float32. Enrol again after a change
    tolerance: the least |s - 1| that is allowed of an adapter
    attention: "auto" (what the base's class supports) or transformers' name of the backend
    device_memory: the most that is taken of a GPU: a share of it up to 1, or bytes
    cache_dir: converted copies; max_batch_tokens: padded tokens of one forward pass, fewer where memory is short
    threads: of the process on CPU; 0 takes a share that leaves room for the engine (probes/cpu_share.py)
    """

    base: str
    adapters: dict[str, str] = field(default_factory=dict)
    golden_base: str | None = None
    device: str = "auto"
    dtype: str = AUTO
    tolerance: float = 0.05
    cache_dir: str = "~/.cache/gapwatch"
    max_batch_tokens: int = 2048
    attention: str = AUTO
    threads: int = 0
    golden_adapters: dict[str, str] = field(default_factory=dict)
    device_memory: float = WHOLE_CARD

    def __post_init__(self) -> None:
        if self.dtype != AUTO and self.dtype not in KERNELS:
            raise ValueError(f"dtype {self.dtype!r}: wanted auto or one of {', '.join(KERNELS)}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"attention {self.attention!r}: wanted one of {', '.join(ATTENTIONS)}")
        if self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens {self.max_batch_tokens}: wanted at least 1")
        if not self.device_memory > 0:
            raise ValueError(f"device_memory {self.device_memory}: wanted a share of the card up to 1, or bytes")

    def placement(self) -> Placement:
        """Never bfloat16 by default where a tolerance is usual: the noise floor of its kernels hides small faults."""
        present = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(present if self.device == "auto" else self.device)
        kernel = KERNELS.get(self.dtype) or self._chosen(device)
        is_chosen, is_split = self.dtype == AUTO, kernel.name == SPLIT
        return Placement(device, kernel.dtype, self.attention, self.max_batch_tokens, is_split, is_chosen)

    def _chosen(self, device: torch.device) -> Kernel:
        if device.type != "cuda" or not split_is_available(device):
            return KERNELS[FLOAT32]
        return fastest_within(self.tolerance)


class Runner:
    """See probes/runner.py for the contract; one thread calls it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        cache = Path(config.cache_dir).expanduser()
        kept = {AdapterVersion(name): folder for name, folder in config.golden_adapters.items()}
        sources = ArtefactPaths(config.base, config.adapters, config.golden_base, cache, kept)
        self.residency = Residency(sources, config.placement())
        self.loaded = LoadedModels(self.residency)

    def open(self) -> None:
        """Load what can be loaded. One look is trusted here if the files are unchanged after loading."""
        if self.config.threads:
            os.environ["RAYON_NUM_THREADS"] = str(self.config.threads)  # read by the tokenizers' pool at its first use
        torch.set_num_threads(self.config.threads or cpu_share.process_share().threads)
        device_memory.limit(self.config.placement().device, self.config.device_memory)
        self.residency.bases.without_card = unused_card() if self.config.device == "auto" else ""
        self.residency.open()

    def close(self) -> None:
        """Release the models; a closed runner may be opened again."""
        self.residency.close()

    def refresh(self) -> dict[str | None, Readiness]:
        """Look at the files, load what has settled. An adapter is ready when its own and the base's entries are."""
        return self.residency.look()

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """Answer in micro-batches, longest first, and in smaller ones where there is no memory for them.

        Raises Unreplayable, also when the files changed meanwhile; NoMemory where there is none for a single replay,
        and if that was an adapter's, the adapter is released and not ready until it is tried again.
        """
        packing = shape or BatchShape()
        with self._fault_injection() as faults:
            for resolved, originals in self._by_batch_key(faults, replays):
                model = self._model_of(resolved)
                most = self.residency.bases.batch_tokens
                for batch in pack(list(originals), packing, most, model.continues):
                    if stop():
                        return
                    for answer in in_halves(batch, partial(self._answer, faults, model, packing)):
                        yield replace(answer, replay=originals[answer.replay])
        self.loaded.check_unmoved([target for replay in replays for target in _involved(replay.target)])

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        """Greedy continuation, end-of-text token included when reached; shorter when ``stop()`` turns true."""
        return self.generate_many(target, [prompt], max_new_tokens, stop)[0]

    def generate_many(
        self, target: Target, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop: Stop
    ) -> list[tuple[int, ...]]:
        """``generate`` for each prompt, in batches: a step of many rows costs little more than a step of one."""
        texts: list[list[int]] = [[] for _ in prompts]
        with self._fault_injection() as faults:
            resolved = faults.resolve(target)
            model = self._model_of(resolved)
            for batch in pack_prompts(prompts, max_new_tokens, self.residency.bases.batch_tokens):
                steps = model.greedy(resolved.target, [prompts[index] for index in batch], max_new_tokens, stop)
                while step := self._step(faults, steps):
                    for row, token in step.items():
                        texts[batch[row]].append(token)
        return [tuple(text) for text in texts]

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        """By the golden base, the output with its prompt as context. A side without tokens is nan.

        Texts are not cut: the caller limits their length. After ``stop()`` those done so far are returned, in order.
        """
        golden = self.loaded.golden_model()
        pooled: list[tuple[Floats, Floats]] = []
        for batch in pack_texts(texts, self.residency.bases.batch_tokens):
            if stop():
                break
            pooled += in_halves(batch, golden.pooled)
        return pooled

    def score(
        self, jobs: Sequence[ScoringJob], stop: Stop, asking: ScoringOptions | None = None
    ) -> list[ScoringAnswer]:
        """By the golden base and adapters, see probes/scoring/scoring_job.py; the same passes give the embeddings."""
        options = asking or ScoringOptions()
        golden, scored = self.loaded.golden_model(), list[ScoringAnswer]()
        for chunk in chunks(jobs, self.residency.bases.batch_tokens):
            if stop():
                break
            with self._fault_injection(lambda _, name: (golden, name)) as faults:
                models = GoldenModels(
                    golden,
                    self.loaded.golden_name,
                    partial(self.residency.rounded, golden),
                    lambda target: faults.resolve(target).target,
                )
                scored += in_halves(chunk, partial(self._score, models, options))
        return scored

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        return self.loaded.golden_hashes(adapter, scheme)

    def accept_adapter(self, version: AdapterVersion, folder: str | None) -> None:
        self.residency.accept_adapter(version, folder)

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        return chat_token_ids(self.loaded.tokenizer(weights), messages, self.config.base, day)

    def context(self) -> int | None:
        """From the live base's config, times the factor by which its rotary embedding is stretched."""
        config = self.loaded.model(Weights.LIVE, None).network.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None)
        rope = getattr(config, "rope_parameters", None) or {}
        return int(positions * max(1.0, float(rope.get("factor") or 1.0))) if positions else None

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        return tuple(self.loaded.tokenizer(weights).encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int], weights: Weights = Weights.LIVE) -> str:
        return str(self.loaded.tokenizer(weights).decode(list(ids), skip_special_tokens=False))

    def end_of_answer(self) -> int | None:
        """By rendering a turn: the tokenizer's own end-of-text token need not be the one that the template writes."""
        tokenizer, ends = self.loaded.tokenizer(Weights.GOLDEN), self.loaded.golden_model().ends
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        tokens = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)
        return next((token for token in reversed(tokens) if token in ends), None)

    def lost_device(self) -> str:
        """After an illegal access or a failed assertion in a kernel every further call of CUDA in this process fails.

        Source: CUDA Runtime API, cudaErrorIllegalAddress and its like: "the process must be terminated and relaunched".
        """
        if not torch.cuda.is_initialized():
            return ""
        try:
            torch.zeros(1, device=self.config.placement().device).item()
        except RuntimeError as error:
            reason = card_fault(error) or str(error).partition("\n")[0]
            return "" if no_memory(self.config.base, error) else reason
        return ""

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        """Golden means as first loaded by this runner; after a restart only a golden record knows what was accepted."""
        return self.loaded.identity(adapter, scheme)

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter does not fit the live base, and why it could not be read."""
        return self.loaded.facts(adapter)

    def other_attention(self) -> str:
        """Name of an attention backend that the live base supports and does not run on, "" where there is none."""
        if self.loaded.live is None:
            return ""
        network = self.loaded.live.network
        able = ("sdpa", "eager") if network._supports_sdpa else ("eager",)
        return next((name for name in able if name != network.config._attn_implementation), "")

    def computed_by(self) -> str:
        placement = self.config.placement()
        kernel = self.loaded.live.network.config._attn_implementation if self.loaded.live else ""
        numbers = self.loaded.live.kernel if self.loaded.live else placement.kernel
        return f"torch {torch.__version__}, {placement.device}, {numbers}, {kernel}"

    def kernel(self) -> str:
        if (live := self.loaded.live) is None:
            return ""
        return f"{live.kernel}, {live.network.config._attn_implementation} attention, {live.device.type}"

    def half_precision(self) -> str:
        placement, live = self.config.placement(), self.loaded.live
        kernel = live.kernel if live is not None else placement.kernel
        return kernel if kernel in (BFLOAT16, FLOAT16) and placement.device.type == "cuda" else ""

    def reconfigured(self, attention: str = "", dtype: str = "") -> Runner:
        config = self.config
        return Runner(replace(config, attention=attention or config.attention, dtype=dtype or config.dtype))

    def blocks(self, adapter: str, weights: Weights = Weights.LIVE) -> tuple[str, ...]:
        """The parts of it that are applied to that base and can be left out (probes/model/faulty_adapters.py)."""
        model, name = self.loaded.answering(weights, adapter)
        return faulty_adapters.blocks(model.adapters.applied[str(name)].adapter)

    def rank_and_alpha(self, adapter: str) -> tuple[int, float]:
        """r and lora_alpha as the adapter's config has them, without its patterns. Raises like ``run``."""
        read = self.loaded.adapter(adapter)
        return read.r, read.alpha

    def likeness(self, adapter: str, other: str) -> float:
        """The cosine between what the two change in the weights, by their files."""
        return likeness(self.loaded.adapter(adapter), self.loaded.adapter(other))

    @contextmanager
    def _fault_injection(self, find: FindsModel | None = None) -> Iterator[FaultInjection]:
        """For one run; no variant is left on the models after it. find: as of FaultInjection, by default by configured
        names"""
        faults = FaultInjection(find or self.loaded.answering, self.residency.loads)
        try:
            yield faults
        finally:
            faults.remove_all()

    def _by_batch_key(self, faults: FaultInjection, replays: Sequence[Replay]) -> list[Resolved]:
        """Replays that may share a micro-batch. All targets are resolved before the first replay is answered."""
        groups: dict[object, Resolved] = {}
        for replay in replays:
            resolved = faults.resolve(replay.target)
            _, originals = groups.setdefault(resolved.batch_key, (resolved, {}))
            originals[replace(replay, target=resolved.target)] = replay
        return list(groups.values())

    def _model_of(self, target: ResolvedTarget) -> Model:
        return self.residency.rounded(target.model, target.bits, target.group) if target.bits else target.model

    def _score(self, models: GoldenModels, options: ScoringOptions, jobs: Sequence[ScoringJob]) -> list[ScoringAnswer]:
        """A single response that there is no memory for says so in its answer, and fails no other."""
        try:
            return answers(models, jobs, self.loaded.scorers, options, self.residency.bases.batch_tokens)
        except NoMemory as error:
            models.base.beginnings.clear()
            if len(jobs) > 1:
                raise
            return [unanswered(jobs[0], models.base, str(error))]

    def _answer(
        self, faults: FaultInjection, model: Model, shape: BatchShape, batch: Sequence[Replay]
    ) -> list[Replayed]:
        self._check_variants(faults)
        try:
            return model.answer(batch, shape)
        except NoMemory as error:
            if len(batch) > 1:
                raise
            short = error.afresh()
        # Not in the handler: its error keeps alive the tensors that took the memory.
        if self.residency.make_room(model, short):
            return self._answer(faults, model, shape, batch)
        self._give_up(batch[0].target, short)
        raise short

    def _give_up(self, target: Target, error: NoMemory) -> None:
        """Only a live adapter without a fault: a variant that runs out of memory says nothing about its adapter."""
        if target.weights is Weights.LIVE and target.fault is None and target.adapter in self.config.adapters:
            self.residency.give_up(target.adapter, error)

    def _step(self, faults: FaultInjection, steps: Iterator[dict[int, int]]) -> dict[int, int] | None:
        self._check_variants(faults)
        return next(steps, None)

    def _check_variants(self, faults: FaultInjection) -> None:
        """Variants are made from what was loaded when they were resolved; after another load they mean nothing."""
        if faults.has_faults and faults.loads != self.residency.loads:
            raise Unreplayable(self.config.base, "it or an adapter was loaded again while replaying")


def _involved(target: Target) -> list[Target]:
    """The target and the adapter that its fault brings in."""
    return [target, replace(target, adapter=other_adapter(target.fault))]
