"""Train a low-rank adapter on a base so that it answers as the accepted one did: by divergence, not by new examples.

The loss of a position is KL(accepted || student) over the tokens that the lesson keeps and one bucket for all others,
in nats; it is 0 where the student finds every kept token as likely as the accepted adapter did. Source: Hinton, Vinyals
and Dean (2015), "Distilling the knowledge in a neural network". Departs: no temperature, and the tail is one bucket.

Deterministic by seed on one machine. A run that is stopped goes on from its last checkpoint and ends as one that was
not: the order of the lessons is a function of seed and step alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from probes.artefacts.lora_files import LowRankUpdate
from probes.canaries.replay_pairs import Progress
from probes.errors import Refused
from probes.model.adapter_parts.low_rank import linear_shape
from probes.model.cache import body_of
from probes.model.forward import Model, own_head
from probes.model.packing import padded
from probes.rebuild.lessons import Lesson
from probes.runner import Stop

STAGE = "training"
# Padded tokens of one pass with gradients; a batch of more is done in parts, whose gradients add up.
PASS_TOKENS = 1024
# Numbers kept for the backward pass, of each token: so many hidden and inner widths a layer, and logits a position.
HIDDEN_KEPT, INNER_KEPT, LOGITS_KEPT = 16, 4, 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. rate: peak of Adam's step size, up over ``warmup`` steps and linearly down to 0

    checked: share of the lessons that is kept aside, on which the best step is chosen; checked_every: steps
    rank, alpha: of parts that begin from nothing, 0 for those of the accepted adapter
    """

    steps: int = 120
    batch: int = 8
    rate: float = 1e-3
    warmup: int = 6
    seed: int = 0
    checked: float = 0.15
    checked_every: int = 20
    rank: int = 0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.checked_every < 1:
            raise Refused("recipe", f"{self.steps} steps of {self.batch}", "at least one of each")
        if not 0 <= self.checked < 1 or not self.rate > 0:
            raise Refused("recipe", f"rate {self.rate}, {self.checked} kept aside", "a rate above 0, a share in [0, 1)")

    def pace(self, step: int) -> float:
        """Share of the peak rate at this step."""
        left = (self.steps - step) / max(1, self.steps - self.warmup)
        return min((step + 1) / max(1, self.warmup), left, 1.0)


@dataclass(frozen=True, slots=True)
class Course:
    """How the loss went. step: after so many steps; trained: mean loss since the last entry; checked: on what was kept
    aside, nan without; both nats a position"""

    step: int
    trained: float
    checked: float


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """updates: module -> its factors, those of the best step; course: of the whole run; best: the step they are of"""

    updates: Mapping[str, LowRankUpdate]
    course: tuple[Course, ...]
    best: int


@dataclass(slots=True, eq=False)
class _Progressed:
    """What a checkpoint holds. weights, best_weights: name -> tensor; moments: Adam's, by the same names

    losses: of the steps since the last entry of the course
    """

    step: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    best_weights: dict[str, torch.Tensor] = field(default_factory=dict)
    best: int = 0
    best_loss: float = math.inf
    course: list[Course] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def fresh_updates(model: Model, modules: Sequence[str], recipe: Recipe) -> dict[str, LowRankUpdate]:
    """Parts that change nothing yet: A random by the seed, B zero. modules: linear ones of this model.

    Source: Hu et al. (2021), "LoRA", section 4.1. Raises Refused for a module that is not linear.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    updates = {}
    for name in sorted(modules):
        shape = linear_shape(model.network.get_submodule(name))
        if shape is None:
            raise Refused(f"module {name}", "no linear module", "a linear one")
        bound = 1 / math.sqrt(shape[1])
        a = (2 * torch.rand(recipe.rank, shape[1], generator=generator) - 1) * bound
        updates[name] = LowRankUpdate(a, torch.zeros(shape[0], recipe.rank), recipe.alpha / recipe.rank)
    return updates


def needed_bytes(model: Model, lessons: Sequence[Lesson], recipe: Recipe, parameters: int) -> int:
    """Memory that training takes beside the base, an estimate from the shapes. parameters: of the adapter, numbers"""
    config: Any = model.network.config.get_text_config()
    longest = max((len(lesson.prompt) + len(lesson.forced) for lesson in lessons), default=1)
    tokens = max(longest, min(PASS_TOKENS, recipe.batch * longest))
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    a_token = config.num_hidden_layers * (HIDDEN_KEPT * config.hidden_size + INNER_KEPT * inner)
    a_token += config.num_hidden_layers * 2 * config.num_attention_heads * longest
    scored = max((len(lesson.forced) for lesson in lessons), default=1) * max(1, tokens // longest)
    # Weights, gradients, two moments, and the best weights so far.
    return 4 * (tokens * a_token + LOGITS_KEPT * scored * model.width + 5 * parameters)


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """What is trained. start: module -> factors to begin from; base: hash of the model that it is trained on

    checkpoint: file to go on from and to write to, where it is of the same base, start, lessons and recipe
    """

    start: Mapping[str, LowRankUpdate]
    lessons: Sequence[Lesson]
    recipe: Recipe
    base: str = ""
    checkpoint: Path | None = None

    @property
    def key(self) -> str:
        """By which a checkpoint is known: changes with each number that it depends on."""
        digest = hashlib.sha256()
        for name, part in sorted(self.start.items()):
            digest.update(f"{name} {part.scaling!r} {tuple(part.a.shape)} {tuple(part.b.shape)}".encode())
            digest.update(part.a.float().numpy().tobytes() + part.b.float().numpy().tobytes())
        for lesson in self.lessons:
            digest.update(repr((lesson.prompt, lesson.forced)).encode())
            digest.update(b"".join(table.tobytes() for table in (lesson.kept, lesson.log_probs, lesson.rest)))
        made_from = {"recipe": asdict(self.recipe), "base": self.base, "learnt": digest.hexdigest()}
        return json.dumps(made_from, sort_keys=True)


def train(model: Model, wanted: Training, stop: Stop, progress: Progress) -> Trained | None:
    """The factors that are nearest to the accepted answers; None when it was stopped, with its checkpoint written.

    model: the new base, without adapters that are in use. Raises Refused without a lesson or a module.
    """
    start, lessons, recipe, checkpoint = wanted.start, wanted.lessons, wanted.recipe, wanted.checkpoint
    if not lessons or not start:
        raise Refused("rebuild", f"{len(lessons)} lessons, {len(start)} modules", "at least one of each to train")
    student, key = _Student(model, start), wanted.key if checkpoint else ""
    state = (_read(checkpoint, key) if checkpoint else None) or _Progressed()
    student.take(state.weights)
    optimiser = _optimiser(student, recipe, state)
    apart, used = _split(lessons, recipe)
    with student.applied():
        for step in range(state.step, recipe.steps):
            progress(STAGE, step, recipe.steps)
            if stop():
                _keep(student, optimiser, state, checkpoint, key)
                return None
            batch = [used[i] for i in _batch(len(used), recipe, step)]
            state.losses.append(_step(student, optimiser, batch, recipe.pace(step)))
            state.step = step + 1
            if state.step % recipe.checked_every == 0 or state.step == recipe.steps:
                _check(student, apart, state)
                _keep(student, optimiser, state, checkpoint, key)
    progress(STAGE, recipe.steps, recipe.steps)
    student.take(state.best_weights)
    return Trained(student.updates, tuple(state.course), state.best)


class _Student:
    """A base with trainable low-rank parts on some of its modules."""

    def __init__(self, model: Model, start: Mapping[str, LowRankUpdate]) -> None:
        self._model, self._start = model, start
        device = model.device
        self.parts = {
            name: (nn.Parameter(part.a.float().to(device)), nn.Parameter(part.b.float().to(device)))
            for name, part in sorted(start.items())
        }

    @property
    def named(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{side}": own for name, pair in self.parts.items() for side, own in zip("ab", pair, strict=True)
        }

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: own.detach().cpu().clone() for name, own in self.named.items()}

    @property
    def updates(self) -> dict[str, LowRankUpdate]:
        weights = self.weights
        return {
            name: LowRankUpdate(weights[f"{name}.a"], weights[f"{name}.b"], self._start[name].scaling)
            for name in self.parts
        }

    def take(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Go on with these; with what there is where there are none."""
        with torch.no_grad():
            for name, own in self.named.items() if weights else ():
                own.copy_(weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While the parts change what the modules answer."""
        hooks = [
            self._model.network.get_submodule(name).register_forward_hook(
                partial(_add, pair, self._start[name].scaling)
            )
            for name, pair in self.parts.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, lessons: Sequence[Lesson]) -> torch.Tensor:
        """Summed over all positions of these lessons, nats."""
        model = self._model
        rows = padded([[*lesson.prompt, *lesson.forced] for lesson in lessons], left=False)
        ids, mask = (torch.from_numpy(array).to(model.device) for array in (rows.ids, rows.mask))
        body = getattr(model.network, body_of(model.network))
        states = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        # Forced token i is predicted where the token before it was read.
        scored = [
            states[i, len(own.prompt) - 1 : len(own.prompt) - 1 + len(own.forced)] for i, own in enumerate(lessons)
        ]
        flat = torch.cat(scored)
        logits = model.network.get_output_embeddings()(flat) if model.plain_head else own_head(model.network, flat)
        return divergence(logits.float(), *_targets(lessons, model.device)).sum()


def divergence(logits: torch.Tensor, kept: torch.Tensor, log_probs: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    """(N,) KL(accepted || student), nats, >= 0 up to rounding.

    logits: (N, V) of the student; kept: (N, K) token ids, -1 where padded
    log_probs: (N, K), rest: (N,) of the accepted adapter
    """
    used = kept >= 0
    own = logits.log_softmax(dim=-1)
    picked = own.gather(1, kept.clamp(min=0))
    others = own.scatter(1, torch.where(used, kept, kept[:, :1].clamp(min=0)), -torch.inf).logsumexp(dim=1)
    accepted = torch.where(used, log_probs, -torch.inf)
    terms = torch.where(used, accepted.exp() * (torch.where(used, log_probs, 0.0) - picked), 0.0).sum(dim=1)
    known = torch.isfinite(rest) & torch.isfinite(others)
    tail = torch.where(known, rest.exp() * (torch.where(known, rest, 0.0) - torch.where(known, others, 0.0)), 0.0)
    return terms + tail


def _add(pair: tuple[nn.Parameter, nn.Parameter], scaling: float, _: nn.Module, inputs: Any, output: Any) -> Any:
    a, b = pair
    return output + (scaling * ((inputs[0].to(a.dtype) @ a.T) @ b.T)).to(output.dtype)


def _targets(lessons: Sequence[Lesson], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(lesson.kept.shape[1] for lesson in lessons)
    kept = np.concatenate([_widened(lesson.kept, width, -1) for lesson in lessons])
    log_probs = np.concatenate([_widened(lesson.log_probs, width, -np.inf) for lesson in lessons])
    rest = np.concatenate([lesson.rest for lesson in lessons])
    return (
        torch.from_numpy(kept.astype(np.int64)).to(device),
        torch.from_numpy(log_probs.astype(np.float32)).to(device),
        torch.from_numpy(rest.astype(np.float32)).to(device),
    )


def _widened(table: np.ndarray, width: int, filler: float) -> np.ndarray:
    return np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=filler)


def _step(student: _Student, optimiser: torch.optim.Optimizer, batch: Sequence[Lesson], pace: float) -> float:
    """One step; the mean loss a position before it."""
    positions = sum(len(lesson.forced) for lesson in batch)
    optimiser.zero_grad()
    total = 0.0
    for part in _parts(batch):
        loss = student.loss(part) / positions
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(list(student.named.values()), 1.0)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * pace
    optimiser.step()
    return total


def _parts(batch: Sequence[Lesson]) -> Iterator[list[Lesson]]:
    """In parts of at most PASS_TOKENS padded tokens, those of like length together."""
    part: list[Lesson] = []
    for lesson in sorted(batch, key=lambda own: len(own.prompt) + len(own.forced)):
        if part and (len(part) + 1) * (len(lesson.prompt) + len(lesson.forced)) > PASS_TOKENS:
            yield part
            part = []
        part.append(lesson)
    yield part


def _check(student: _Student, apart: Sequence[Lesson], state: _Progressed) -> None:
    """Note how the loss stands, and keep these weights where they are the best so far."""
    positions = sum(len(lesson.forced) for lesson in apart)
    with torch.no_grad():
        parts = [float(student.loss(part)) for part in _parts(apart)] if apart else []
    trained = float(np.mean(state.losses))
    checked = sum(parts) / positions if positions else math.nan
    judged = trained if math.isnan(checked) else checked
    state.course.append(Course(state.step, trained, checked))
    state.losses = []
    if judged < state.best_loss or not state.best_weights:
        state.best, state.best_loss, state.best_weights = state.step, judged, student.weights


def _keep(
    student: _Student, optimiser: torch.optim.Optimizer, state: _Progressed, checkpoint: Path | None, key: str
) -> None:
    """For the call that goes on from here."""
    if checkpoint and state.step:
        state.weights, state.moments = student.weights, _moments(student, optimiser)
        _write(checkpoint, key, state)


def _split(lessons: Sequence[Lesson], recipe: Recipe) -> tuple[list[Lesson], list[Lesson]]:
    """What is kept aside, and what is trained on: at least one lesson of it."""
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(lessons)).tolist()
    count = min(round(recipe.checked * len(lessons)), len(lessons) - 1)
    return [lessons[i] for i in order[:count]], [lessons[i] for i in order[count:]]


def _batch(count: int, recipe: Recipe, step: int) -> list[int]:
    """Which lessons this step has: each epoch in an order of its own, a function of seed and step alone."""
    size = min(recipe.batch, count)
    a_pass = count // size
    epoch, place = divmod(step, a_pass)
    order = np.random.default_rng([recipe.seed, 2, epoch]).permutation(count).tolist()
    return order[place * size : (place + 1) * size]


def _optimiser(student: _Student, recipe: Recipe, state: _Progressed) -> torch.optim.Optimizer:
    optimiser = torch.optim.AdamW(student.named.values(), lr=recipe.rate, weight_decay=0.0, foreach=False)
    for group in optimiser.param_groups:
        group["initial_lr"] = recipe.rate
    for name, own in student.named.items() if state.moments else ():
        optimiser.state[own] = {
            "step": torch.tensor(float(state.step)),
            "exp_avg": state.moments[f"{name}.first"].to(own.device),
            "exp_avg_sq": state.moments[f"{name}.second"].to(own.device),
        }
    return optimiser


def _moments(student: _Student, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    moments: dict[str, torch.Tensor] = {}
    for name, own in student.named.items():
        kept = optimiser.state[own]
        moments |= {f"{name}.first": kept["exp_avg"].cpu(), f"{name}.second": kept["exp_avg_sq"].cpu()}
    return moments


def _write(path: Path, key: str, state: _Progressed) -> None:
    groups = {"weights": state.weights, "moments": state.moments, "best": state.best_weights}
    tensors = {f"{group}/{name}": own.contiguous() for group, held in groups.items() for name, own in held.items()}
    facts: dict[str, Any] = {"step": state.step, "best": state.best, "best_loss": state.best_loss}
    facts["course"] = [[entry.step, entry.trained, entry.checked] for entry in state.course]
    facts["losses"] = state.losses
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_suffix(".partial")
    save_file(tensors, partial_file, metadata={"key": key, "facts": json.dumps(facts)})
    partial_file.replace(path)


def _read(path: Path, key: str) -> _Progressed | None:
    """What was written of the same; None where there is none, or it is of something else or damaged."""
    try:
        with safe_open(path, framework="pt") as opened:  # type: ignore[no-untyped-call]
            metadata: Mapping[str, str] = opened.metadata() or {}
        if metadata.get("key") != key:
            return None
        facts, tensors = json.loads(metadata["facts"]), load_file(path)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None

    def of(group: str) -> dict[str, torch.Tensor]:
        return {name.partition("/")[2]: own for name, own in tensors.items() if name.startswith(f"{group}/")}

    course = [Course(*entry) for entry in facts["course"]]
    return _Progressed(
        *(facts["step"], of("weights"), of("moments"), of("best"), facts["best"], facts["best_loss"], course),
        losses=facts.get("losses", []),
    )
