"""Scores of responses by the golden models: logits of response positions only, a window of positions at a time.

What a score is, is defined in probes/scoring/; here its logits are computed for many responses in bounded memory.
Held against scoring each response alone in tests/probes/model/test_shared_prefix.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.evidence.alternative import BASE, Alternative, AlternativeKind
from detectors.records import Floats
from probes.errors import NoMemory, ProbeError
from probes.model.forward import Model
from probes.model.free_memory import memory_errors
from probes.model.packing import common_beginning
from probes.model.shared_prefix import WORTH_SHARING, HiddenStates, read_all
from probes.runner import Target, bits, group
from probes.scoring.likelihood_ratio_torch import Positions, score_base_torch, score_torch
from probes.scoring.rest_bucket import is_kept_apart, score_kept
from probes.scoring.scoring_job import (
    AdapterVersion,
    ScoringAnswer,
    ScoringJob,
    ScoringOptions,
    alternatives,
    why_not,
    why_unreadable,
)
from probes.scoring.token_distribution import repeated, written
from probes.scoring.token_scores import TokenScores, uniforms

# Whose probabilities of a response: an alternative's, or the accepted adapter's own.
ScoredBy = Alternative | None
ADAPTER: ScoredBy = None
# Of a response of the base.
NO_ALTERNATIVE = "no golden copy of any adapter is at hand that could have answered in its place"
# Logits of a window: on a CPU what its caches hold, elsewhere what keeps the device busy.
WINDOW_LOGITS = {"cpu": 1_000_000}
WINDOW_LOGITS_ELSEWHERE = 16_000_000
# Windows whose logits are computed by one call of the output layer: its weights are read from memory as a whole, for
# however few positions. With more than the usual number of targets fewer windows, so that memory stays bounded.
WINDOWS_A_CALL = 4
USUAL_TARGETS = 4


@dataclass(frozen=True, slots=True)
class GoldenModels:
    """The accepted models. base: the golden base; name_of: version -> the name under which it answers there, raises
    where there is no golden copy; rounded: bits and group -> the golden base in so many bits; variant: of a target
    without a block, the target under whose name that answers there. Both raise where that is not to be had."""

    base: Model
    name_of: Callable[[AdapterVersion], str]
    rounded: Callable[[int, int], Model]
    variant: Callable[[Target], Target]

    def names(self, versions: Sequence[AdapterVersion]) -> tuple[dict[AdapterVersion, str], dict[AdapterVersion, str]]:
        """Version -> the name under which it answers; and version -> why it does not."""
        names, missing = {}, {}
        for version in versions:
            try:
                names[version] = self.name_of(version)
            except ProbeError as error:
                missing[version] = f"no golden copy of {version.name}: {error}"
        return names, missing


@dataclass(frozen=True, slots=True, eq=False)
class ScoringTask:
    """A job and the targets under which it is read, by their names on the golden base.

    detail: why it is not scored, "" when it is; if not, the base alone reads it, for the embeddings
    """

    job: ScoringJob
    targets: Mapping[ScoredBy, Target]
    detail: str

    def lacking(self, target: Target) -> ScoringTask:
        """Where what answers as this target does not fit into memory."""
        return replace(self, targets={name: own for name, own in self.targets.items() if own != target})


def chunks(jobs: Sequence[ScoringJob], max_tokens: int) -> Iterator[list[ScoringJob]]:
    """Jobs in order, in chunks that bound memory: of each target the states of eight passes. Logits are computed
    a window at a time (``WINDOW_LOGITS``)."""
    most, chunk, size = max_tokens * 8, list[ScoringJob](), 0
    for job in jobs:
        if chunk and size + _own_tokens(job, chunk[0]) > most:
            yield chunk
            chunk, size = [], 0
        size += _own_tokens(job, chunk[0]) if chunk else len(job.prompt) + len(job.output)
        chunk.append(job)
    if chunk:
        yield chunk


def _own_tokens(job: ScoringJob, first: ScoringJob) -> int:
    """Tokens that are read of it alone, where a beginning that it shares with the first one is not."""
    common = common_beginning(first.prompt, job.prompt, len(job.prompt) - 1)
    return len(job.prompt) + len(job.output) - (common if common >= WORTH_SHARING else 0)


def answers(
    models: GoldenModels,
    jobs: Sequence[ScoringJob],
    versions: Sequence[AdapterVersion],
    options: ScoringOptions,
    max_tokens: int,
) -> list[ScoringAnswer]:
    """One for each job, in order. versions: of every registered adapter. Raises Unreplayable when torch fails,
    NoMemory."""
    golden = models.base
    names, missing = models.names(versions)
    tasks = {
        index: _task(job, names, missing, options, models)
        for index, job in enumerate(jobs)
        if not why_unreadable(job, options, golden.vocabulary)
    }
    with memory_errors(str(golden.folder)), torch.inference_mode():
        hidden_states: dict[tuple[int, ScoredBy], HiddenStates] = {}
        for target, rows in _by_target(list(tasks.values())).items():
            try:
                model = models.rounded(bits(target.fault), group(target.fault)) if target.fault else golden
            except NoMemory:
                if not all(name in task.job.suspected for task, name in rows):
                    raise
                tasks = {index: task.lacking(target) for index, task in tasks.items()}
                continue
            texts = [(task.job.prompt, task.job.output) for task, _ in rows]
            read = read_all(model, texts, (target.adapter, target.scale), max_tokens)
            hidden_states |= {(id(task.job), name): hidden for (task, name), hidden in zip(rows, read, strict=True)}
        scores = _scored(golden, list(tasks.values()), hidden_states, options)
        return [
            _answer(tasks[index], scores, hidden_states)
            if index in tasks
            else unanswered(job, golden, why_not(job, options, golden.vocabulary, golden.width))
            for index, job in enumerate(jobs)
        ]


def unanswered(job: ScoringJob, golden: Model, why: str) -> ScoringAnswer:
    """Of a response that is neither scored nor embedded."""
    nothing = np.full(golden.network.config.hidden_size, np.nan, np.float32)
    return ScoringAnswer(job, None, nothing, nothing, why)


def _task(
    job: ScoringJob,
    names: Mapping[AdapterVersion, str],
    missing: Mapping[AdapterVersion, str],
    options: ScoringOptions,
    models: GoldenModels,
) -> ScoringTask:
    golden, accepted = models.base, AdapterVersion(job.adapter)
    detail = why_not(job, options, golden.vocabulary, golden.width)
    if job.of_base:
        of_base: dict[ScoredBy, Target] = {BASE: Target(None)}
        of_base |= {} if detail else dict(alternatives(job, names, options).items())
        return ScoringTask(job, of_base, detail or ("" if len(of_base) > 1 else NO_ALTERNATIVE))
    if not detail and accepted not in names:
        detail = missing.get(accepted, f"no adapter {job.adapter} is known")
    if detail:
        return ScoringTask(job, {BASE: Target(None)}, detail)
    sides = (ADAPTER, Target(names[accepted])), (BASE, Target(None))
    targets: dict[ScoredBy, Target] = dict([*sides, *_played(models, alternatives(job, names, options)).items()])
    return ScoringTask(job, targets, "")


def _played(models: GoldenModels, targets: Mapping[Alternative, Target]) -> dict[Alternative, Target]:
    """Each under the name by which it answers; without those that have no variant, as where there is no memory."""
    played: dict[Alternative, Target] = {}
    for who, target in targets.items():
        with suppress(ProbeError):
            played[who] = models.variant(target) if who.kind is AlternativeKind.WITHOUT else target
    return played


def _by_target(tasks: Sequence[ScoringTask]) -> dict[Target, list[tuple[ScoringTask, ScoredBy]]]:
    by_target: dict[Target, list[tuple[ScoringTask, ScoredBy]]] = {}
    for task in tasks:
        for name, target in task.targets.items():
            by_target.setdefault(target, []).append((task, name))
    # Quantised copies last: one of them is in memory at a time.
    return dict(sorted(by_target.items(), key=lambda item: str(item[0].fault or "")))


def _answer(
    task: ScoringTask, scores: Mapping[int, TokenScores], hidden_states: Mapping[tuple[int, ScoredBy], HiddenStates]
) -> ScoringAnswer:
    base = hidden_states[id(task.job), BASE]
    return ScoringAnswer(task.job, scores.get(id(task.job)), _floats(base.prompt), _floats(base.output), task.detail)


def _scored(
    golden: Model,
    tasks: Sequence[ScoringTask],
    hidden_states: Mapping[tuple[int, ScoredBy], HiddenStates],
    options: ScoringOptions,
) -> dict[int, TokenScores]:
    """id of the job of each scored task -> its token scores; tasks with the same settings share their windows."""
    groups: dict[object, list[ScoringTask]] = {}
    for task in tasks:
        if not task.detail:
            sampling = task.job.sampling
            assert sampling is not None
            alone = id(task.job) if sampling.penalised else 0
            alike = (sampling, alone, task.job.adapter, task.job.path_from, tuple(task.targets.items()))
            groups.setdefault(alike, []).append(task)
    scores: dict[int, TokenScores] = {}
    for together in groups.values():
        for window in _windows(together, _windows_a_call(len(together[0].targets)) * _step(golden), options):
            scores |= _window(golden, window, hidden_states, options)
    return scores


def _windows(group: Sequence[ScoringTask], positions: int, options: ScoringOptions) -> Iterator[list[ScoringTask]]:
    """Whole responses, of about so many positions together; a longer one is alone and is cut by ``_window``."""
    window: list[ScoringTask] = []
    for task in group:
        if window and sum(_scored_length(each, options) for each in (*window, task)) > positions:
            yield window
            window = []
        window.append(task)
    if window:
        yield window


def _window(
    golden: Model,
    window: Sequence[ScoringTask],
    hidden_states: Mapping[tuple[int, ScoredBy], HiddenStates],
    options: ScoringOptions,
) -> dict[int, TokenScores]:
    lengths = [_scored_length(task, options) for task in window]
    first = window[0]
    states = {
        name: torch.cat([hidden_states[id(task.job), name].scored[:n] for task, n in zip(window, lengths, strict=True)])
        for name in first.targets
    }
    job = first.job
    assert job.sampling is not None
    tokens = torch.tensor([t for task, n in zip(window, lengths, strict=True) for t in task.job.output[:n]]).to(
        golden.device
    )
    uniform = torch.from_numpy(
        np.concatenate([_uniforms(task.job, n) for task, n in zip(window, lengths, strict=True)])
    )
    pieces: list[TokenScores] = []
    accepted = BASE if job.of_base else ADAPTER
    for part, logits in _logits(golden, first.targets, states):
        plain = logits[accepted] if job.sampling.penalised else None
        logits = {name: _penalised(own, job, part, lengths[0]) for name, own in logits.items()}
        positions = Positions(tokens[part], uniform[part].to(golden.device), job.sampling, plain, golden.spacing)
        others = {name: own for name, own in logits.items() if name is not None and name != BASE}
        if job.of_base:
            pieces.append(score_base_torch(logits[BASE], others, positions, options.tokens, job.path_from))
            continue
        settings = options.of(job.adapter)
        formula = score_kept if is_kept_apart(logits[BASE].shape[1], job.sampling, settings) else score_torch
        pieces.append(formula(logits[ADAPTER], logits[BASE], others, positions, settings))
    whole = joined(pieces)
    ends = np.cumsum(lengths)
    return {
        id(task.job): whole.part(slice(end - n, end))
        for task, n, end in zip(window, lengths, ends.tolist(), strict=True)
    }


def _logits(
    golden: Model, targets: Mapping[ScoredBy, Target], states: Mapping[ScoredBy, torch.Tensor]
) -> Iterator[tuple[slice, dict[ScoredBy, torch.Tensor]]]:
    """Window by window: its positions, and the logits of every target there. states: of each target (N, H)"""
    step, n = _step(golden), len(states[BASE])
    width = _windows_a_call(len(targets)) * step
    for start in range(0, n, width):
        logits = {name: logits_of(golden, targets[name], own[start : start + width]) for name, own in states.items()}
        for at in range(0, min(width, n - start), step):
            yield slice(start + at, start + at + step), {name: own[at : at + step] for name, own in logits.items()}
        logits.clear()  # before the next ones are computed


def logits_of(golden: Model, target: Target, states: torch.Tensor) -> torch.Tensor:
    """(N, V). A quantised copy has the output layer of the golden base: ``quantise`` leaves that unchanged."""
    return golden.head(states, [(target.adapter, target.scale)] * len(states))


def _penalised(logits: torch.Tensor, job: ScoringJob, part: slice, longest: int) -> torch.Tensor:
    """``sampler.penalised`` of some positions of one response, of which ``longest`` are scored."""
    sampling = job.sampling
    assert sampling is not None
    if not sampling.penalised:
        return logits
    out = logits.float().clone()
    if sampling.repetition != 1.0:
        rows, ids = _within(_repeated(job.prompt, job.output[:longest]), part)
        old = out[rows, ids]
        out[rows, ids] = torch.where(old > 0, old / sampling.repetition, old * sampling.repetition)
    rows, ids, counts = _within(_written(job.output[:longest]), part)
    out[rows, ids] -= sampling.presence + sampling.frequency * counts.to(out)
    return out


# All targets and windows of a response need the same tables, which take seconds for a long one.
_written = lru_cache(maxsize=2)(written)
_repeated = lru_cache(maxsize=2)(repeated)


def _within(table: Sequence[NDArray[np.int64]], part: slice) -> list[torch.Tensor]:
    inside = (table[0] >= part.start) & (table[0] < part.stop)
    return [torch.from_numpy(column[inside] - (part.start if i == 0 else 0)) for i, column in enumerate(table)]


def joined(pieces: Sequence[TokenScores]) -> TokenScores:
    """The scores of consecutive positions, all of the same settings."""
    if len(pieces) == 1:
        return pieces[0]
    log_l = {who: np.concatenate([piece.log_l[who] for piece in pieces]) for who in pieces[0].log_l}
    log_sampler = {
        name: np.concatenate([piece.log_sampler[name] for piece in pieces]) for name in pieces[0].log_sampler
    }
    path, hot, wide, *edges = (
        np.concatenate([getattr(piece, axis) for piece in pieces], axis=1)
        for axis in ("path_log_lik", "temperature_log_lik", "top_p_log_lik", "ranks_weaker", "ranks_stronger")
    )
    ranks = np.concatenate([piece.ranks for piece in pieces])
    return TokenScores(log_l, log_sampler, path, hot, wide, ranks, *edges)


def _uniforms(job: ScoringJob, n: int) -> NDArray[np.float64]:
    return uniforms(job.response)[:n]


def _scored_length(task: ScoringTask, options: ScoringOptions) -> int:
    return options.scored_length(task.job)


def _step(model: Model) -> int:
    """Positions of a window."""
    return max(1, WINDOW_LOGITS.get(model.device.type, WINDOW_LOGITS_ELSEWHERE) // model.vocabulary)


def _windows_a_call(targets: int) -> int:
    """Windows whose logits are computed by one call of the output layer."""
    return max(1, WINDOWS_A_CALL * USUAL_TARGETS // max(USUAL_TARGETS, targets))


def _floats(values: torch.Tensor) -> Floats:
    return values.float().cpu().numpy()  # type: ignore[no-any-return]
