"""Replays by models in this process: the golden base stays loaded, adapters are applied as their files lie now."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from detectors.records import Floats, Identity
from probes import base_files
from probes.adapter_files import Adapter, read_adapter
from probes.errors import Unreplayable
from probes.model import BaseParts, Model, Placement, build, read_base
from probes.packing import pack, pack_texts
from probes.replay import BatchShape, Readiness, Replay, Replayed, Stop, Target, Weights
from probes.subject import Subject

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True, slots=True)
class Config:
    """A base, the adapters that live on it, and how they are run.

    base: folder, .gguf file or hub id of what lies there now; adapters: name -> PEFT folder
    golden_base: likewise for the base of the golden records; None takes the base as it is first loaded
    device: "auto" (CUDA where there is one) or torch's name; dtype: "auto" (float32) or a name of DTYPES
    cache_dir: converted copies; max_batch_tokens: padded tokens of one forward pass
    threads: of the process on CPU, 0 leaves one core free: with another busy process on two cores, two threads were
    seen to take 93 s for a round that one thread did in 16
    """

    base: str
    adapters: dict[str, str] = field(default_factory=dict)
    golden_base: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    cache_dir: str = "~/.cache/gapwatch"
    max_batch_tokens: int = 2048
    attention: str = "sdpa"
    threads: int = 0

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
    """See probes/replay.py for the contract.

    Forward passes of several threads take turns by a lock held for one micro-batch, so that traffic is embedded
    between the micro-batches of a round. tokens_scored and tokens_processed count over the runner's life.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.tokens_scored = 0
        self.tokens_processed = 0
        self._lock = threading.RLock()
        self._placement = config.placement()
        self._cache = Path(config.cache_dir).expanduser()
        self._base = Subject(config.base)
        self._adapters = {name: Subject(path) for name, path in config.adapters.items()}
        self._read: dict[str, Adapter] = {}
        self._first_hashes: dict[str, str] = {}
        self._golden: Model | None = None
        self._live: Model | None = None
        self._tokenizer: Any = None
        self._golden_tokenizer_hash = ""
        self._live_tokenizer: Any = None
        self._live_tokenizer_hash = ""

    def open(self) -> None:
        """Load what can be loaded. One look is trusted here if the files are unchanged after loading."""
        torch.set_num_threads(self.config.threads or max(1, len(os.sched_getaffinity(0)) - 1))
        with self._lock:
            self._load_golden(opening=True)
            self._fetch_base()
            self._base.look(self._load_base, opening=True)
            for name, subject in self._adapters.items():
                subject.look(self._adapter_loader(name), opening=True)

    def close(self) -> None:
        """Let go of the models; a closed runner may be opened again."""
        with self._lock:
            self._golden = self._live = self._tokenizer = self._live_tokenizer = None
            self._read.clear()
            for subject in (self._base, *self._adapters.values()):
                subject.forget()

    def refresh(self) -> dict[str | None, Readiness]:
        """Look at the files, load what came to rest. An adapter is ready when its own and the base's entries are."""
        with self._lock:
            if self._golden is None:
                self._load_golden()
            self._base.look(self._load_base)
            for name, subject in self._adapters.items():
                subject.look(self._adapter_loader(name))
            return {None: self._base.readiness} | {name: it.readiness for name, it in self._adapters.items()}

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        """Answer in micro-batches, longest first. Raises Unreplayable, also when the files changed underneath."""
        packing = shape or BatchShape()
        models = {id(model): model for replay in replays for model in [self._model(replay.target)]}
        for key, model in models.items():
            mine = [replay for replay in replays if id(self._model(replay.target)) == key]
            for batch in pack(mine, packing, self.config.max_batch_tokens):
                if stop():
                    return
                yield from self._answer(model, batch, packing)
        self._check_unmoved([replay.target for replay in replays])

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        """Greedy continuation, end-of-text token included when reached; shorter when ``stop()`` turns true."""
        model = self._model(target)
        tokens = model.greedy(target.adapter, target.scale, prompt, max_new_tokens, stop)
        made: list[int] = []
        while True:
            with self._lock:
                token = next(tokens, None)
            if token is None:
                self.tokens_processed += len(prompt) + len(made)
                return tuple(made)
            made.append(token)

    def embed(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]], stop: Stop) -> list[tuple[Floats, Floats]]:
        """By the golden base, the output with its prompt as context. A side without tokens is nan.

        Texts are not cut: the caller bounds their length. After ``stop()`` those done so far come back, in order.
        """
        golden = self._golden_model()
        pooled: list[tuple[Floats, Floats]] = []
        for batch in pack_texts(texts, self.config.max_batch_tokens):
            if stop():
                break
            with self._lock:
                pooled += golden.pooled(batch)
            self.tokens_processed += sum(len(prompt) + len(output) for prompt, output in batch)
        return pooled

    def encode_chat(self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        words = self._words(weights)
        rendered = words.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        # The template writes its own special tokens.
        return tuple(words.encode(rendered, add_special_tokens=False))

    def encode(self, text: str, weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        return tuple(self._words(weights).encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._words().decode(list(ids), skip_special_tokens=False))

    def identity(self, adapter: str | None) -> Identity:
        """Golden means as first loaded by this runner; after a restart only a golden record knows what was accepted."""
        golden = self._golden.hash if self._golden else ""
        live = self._live.hash if self._live else ""
        if adapter is None:
            return Identity(golden, live)
        read = self._read.get(adapter)
        return Identity(golden, live, self._first_hashes.get(adapter, ""), read.hash if read else "")

    def facts(self, adapter: str) -> tuple[str, ...]:
        """What of the adapter does not fit the live base, why it could not be read, and a tokenizer that moved."""
        subject = self._subject(adapter)
        told = [str(subject.error)] if subject.error else []
        if self._live and (fitted := self._live.adapters.fitted.get(adapter)):
            told += fitted.facts
        if self._golden and self._live_tokenizer_hash not in ("", self._golden_tokenizer_hash):
            told.append("tokenizer or chat template differ from the golden base's")
        return tuple(told)

    def rank_and_alpha(self, adapter: str) -> tuple[int, float]:
        """r and lora_alpha as the adapter's config has them, without its patterns. Raises like ``run``."""
        self._subject(adapter).check_ready()
        return self._read[adapter].r, self._read[adapter].alpha

    def _answer(self, model: Model, batch: list[Replay], shape: BatchShape) -> list[Replayed]:
        with self._lock:
            answered = model.answer(batch, shape)
        self.tokens_scored += sum(len(replay.forced) for replay in batch)
        self.tokens_processed += sum(len(replay.prompt) + len(replay.forced) - 1 for replay in batch)
        return answered

    def _model(self, target: Target) -> Model:
        """The model that answers for this target. Raises Unreplayable, or Unsupported as found while loading."""
        if target.adapter is not None:
            self._check_adapter(target)
        if target.weights is Weights.GOLDEN:
            return self._golden_model()
        self._base.check_ready()
        if self._live is None:
            raise Unreplayable(self._base.source, "not loaded")
        return self._live

    def _golden_model(self) -> Model:
        if self._golden is None:
            raise Unreplayable(self.config.golden_base or self.config.base, "the golden base is not loaded")
        return self._golden

    def _subject(self, adapter: str) -> Subject:
        if adapter not in self._adapters:
            raise Unreplayable(adapter, f"no such adapter; known are {', '.join(self._adapters) or 'none'}")
        return self._adapters[adapter]

    def _check_adapter(self, target: Target) -> None:
        name = target.adapter or ""
        subject = self._subject(name)
        subject.check_ready()
        if target.weights is Weights.GOLDEN and self._read[name].hash != self._first_hashes[name]:
            raise Unreplayable(subject.source, "changed since it was first loaded, and no golden copy is kept")

    def _check_unmoved(self, targets: Sequence[Target]) -> None:
        """Was the round of one piece? Its answers are of the loaded files, which may no longer be what lies there."""
        live = {target.adapter for target in targets if target.weights is Weights.LIVE}
        if live:
            self._base.check_unmoved()
        for name in sorted(live - {None}, key=str):
            self._subject(str(name)).check_unmoved()

    def _load_golden(self, opening: bool = False) -> None:
        """Load the configured golden base if it can be had; without it the live base is still watched.

        The hub is asked only while opening; later tries take what has come to lie here.
        """
        if self.config.golden_base is None:
            return
        try:
            source = self.config.golden_base if opening else str(base_files.locate(self.config.golden_base))
            parts = read_base(base_files.resolve(source, self._cache))
            same = self._live if self._live and self._live.hash == parts.hash else None
            self._accept(same or build(parts, self._placement), parts)
        except Unreplayable:
            return  # told by embed and by an empty golden hash; tried again at each refresh
        for name in self._read:
            self._fit(name)

    def _accept(self, model: Model, parts: BaseParts) -> None:
        """The model and the words of these parts; the model may be one that was built from another folder."""
        self._tokenizer = _tokenizer(parts.folder)
        self._golden, self._golden_tokenizer_hash = model, parts.tokenizer

    def _fetch_base(self) -> None:
        """A base on the hub is fetched here; later looks take what has come to lie here."""
        if base_files.is_hub_id(self.config.base):
            with contextlib.suppress(Unreplayable):  # the look that follows tells it
                base_files.resolve(self.config.base, self._cache)

    def _load_base(self, path: Path) -> None:
        """Read what lies there; the same hash as a model in memory is that model, and a third one is let go."""
        source = self.config.base if base_files.is_hub_id(self.config.base) else str(path)
        parts = read_base(base_files.resolve(source, self._cache))
        self._live_tokenizer = _tokenizer(parts.folder) if parts.tokenizer else None
        self._live_tokenizer_hash = parts.tokenizer
        known = [model for model in (self._golden, self._live) if model and model.hash == parts.hash]
        # Before the new one is built: two bases fit where three may not.
        self._live = known[0] if known else None
        self._live = self._live or build(parts, self._placement)
        if self._golden is None and self.config.golden_base is None:
            self._accept(self._live, parts)
        for name in self._read:
            self._fit(name)

    def _adapter_loader(self, name: str) -> Callable[[Path], None]:
        def load(path: Path) -> None:
            self._read.pop(name, None)
            if self._live is not None:
                self._live.adapters.remove(name)
            self._read[name] = read_adapter(path)
            self._first_hashes.setdefault(name, self._read[name].hash)
            self._fit(name)

        return load

    def _fit(self, name: str) -> None:
        """Put the adapter on the live base, and on the golden one beside it while it is what was first loaded."""
        adapter = self._read[name]
        if self._live is not None:
            self._live.adapters.fit(name, adapter)
        if self._golden is not None and self._golden is not self._live:
            if adapter.hash == self._first_hashes[name]:
                self._golden.adapters.fit(name, adapter)
            else:
                self._golden.adapters.remove(name)

    def _words(self, weights: Weights = Weights.LIVE) -> Any:
        """That base's tokenizer, else the other's: a folder of weights alone has none. Raises Unreplayable without."""
        choice = [self._live_tokenizer, self._tokenizer]
        for words in choice if weights is Weights.LIVE else reversed(choice):
            if words is not None:
                return words
        raise Unreplayable(self._base.source, "no tokenizer: neither golden nor live base is loaded")


def _tokenizer(folder: Path) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise Unreplayable(str(folder), f"its tokenizer cannot be read ({error})") from error
