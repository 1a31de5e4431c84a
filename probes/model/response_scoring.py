"""Scores of responses by golden copies: heads on response positions only, a window of positions at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.evidence.alternative import BASE, Alternative
from detectors.records import Floats
from probes.errors import ProbeError
from probes.model.forward import Model
from probes.model.memory import failures
from probes.model.shared_prefix import HiddenStates, read_all
from probes.runner import Target, bits
from probes.scoring.likelihood_ratio_torch import Positions, score_torch
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

# Who reads a response: an alternative, or the accepted adapter itself.
Voice = Alternative | None
ADAPTER: Voice = None
# Logits that are looked at together: on a CPU what its caches hold, elsewhere what keeps the device busy.
CELLS = {"cpu": 1_000_000}
CELLS_ELSEWHERE = 16_000_000
# Windows whose logits are made at once: a head of this width is read from memory as a whole, however few ask it. Of
# more than so many voices fewer windows, so that what lies in memory has a bound.
WINDOWS_A_HEAD = 4
VOICES = 4


@dataclass(frozen=True, slots=True)
class Copies:
    """What was accepted. base: the golden model; name_of: version -> its name on the switchboard, raises where there is
    no golden copy; rounded: bits -> that copy of the golden model"""

    base: Model
    name_of: Callable[[AdapterVersion], str]
    rounded: Callable[[int], Model]

    def cast(self, versions: Sequence[AdapterVersion]) -> tuple[dict[AdapterVersion, str], dict[AdapterVersion, str]]:
        """Version -> its name on the switchboard; and version -> why it has none."""
        names, missing = {}, {}
        for version in versions:
            try:
                names[version] = self.name_of(version)
            except ProbeError as error:
                missing[version] = f"no golden copy of {version.name}: {error}"
        return names, missing


@dataclass(frozen=True, slots=True, eq=False)
class ScoringTask:
    """A job and the voices that read it, by their names on the switchboard.

    detail: why it is not scored, "" when it is; then the base alone reads it, for the embeddings
    """

    job: ScoringJob
    voices: Mapping[Voice, Target]
    detail: str


def chunks(jobs: Sequence[ScoringJob], max_tokens: int) -> Iterator[list[ScoringJob]]:
    """Jobs in order, few enough together that what lies in memory has a bound: of each voice the states of eight
    passes. Logits are made a window at a time (``CELLS``)."""
    most, some = max_tokens * 8, list[ScoringJob]()
    for one in jobs:
        if some and sum(len(it.prompt) + len(it.output) for it in (*some, one)) > most:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def answers(
    copies: Copies,
    jobs: Sequence[ScoringJob],
    versions: Sequence[AdapterVersion],
    asking: ScoringOptions,
    max_tokens: int,
) -> list[ScoringAnswer]:
    """All of them, in order. versions: of every registered adapter. Raises Unreplayable when torch fails."""
    golden = copies.base
    names, missing = copies.cast(versions)
    asked = {
        number: _asked(job, names, missing, asking, golden)
        for number, job in enumerate(jobs)
        if not why_unreadable(job, asking, golden.vocabulary)
    }
    with failures(str(golden.folder)), torch.inference_mode():
        readings: dict[tuple[int, Voice], HiddenStates] = {}
        for target, rows in _by_target(list(asked.values())).items():
            model = copies.rounded(bits(target.fault)) if target.fault else golden
            texts = [(one.job.prompt, one.job.output) for one, _ in rows]
            read = read_all(model, texts, (target.adapter, target.scale), max_tokens)
            readings |= {(id(one), name): found for (one, name), found in zip(rows, read, strict=True)}
        scores = _scored(golden, list(asked.values()), readings, asking)
        return [
            _answer(asked[number], scores, readings)
            if number in asked
            else unanswered(job, golden, why_not(job, asking, golden.vocabulary, golden.width))
            for number, job in enumerate(jobs)
        ]


def unanswered(job: ScoringJob, golden: Model, why: str) -> ScoringAnswer:
    """Of a response that is neither scored nor embedded."""
    nothing = np.full(golden.network.config.hidden_size, np.nan, np.float32)
    return ScoringAnswer(job, None, nothing, nothing, why)


def _asked(
    job: ScoringJob,
    names: Mapping[AdapterVersion, str],
    missing: Mapping[AdapterVersion, str],
    asking: ScoringOptions,
    golden: Model,
) -> ScoringTask:
    detail, accepted = why_not(job, asking, golden.vocabulary, golden.width), AdapterVersion(job.adapter)
    if not detail and accepted not in names:
        detail = missing.get(accepted, f"no adapter {job.adapter} is known")
    if detail:
        return ScoringTask(job, {BASE: Target(None)}, detail)
    sides = (ADAPTER, Target(names[accepted])), (BASE, Target(None))
    voices: dict[Voice, Target] = dict([*sides, *alternatives(job, names, asking).items()])
    return ScoringTask(job, voices, "")


def _by_target(asked: Sequence[ScoringTask]) -> dict[Target, list[tuple[ScoringTask, Voice]]]:
    found: dict[Target, list[tuple[ScoringTask, Voice]]] = {}
    for one in asked:
        for name, target in one.voices.items():
            found.setdefault(target, []).append((one, name))
    # The copies in few bits last: one of them is in memory at a time.
    return dict(sorted(found.items(), key=lambda item: str(item[0].fault or "")))


def _answer(
    one: ScoringTask, scores: Mapping[int, TokenScores], readings: Mapping[tuple[int, Voice], HiddenStates]
) -> ScoringAnswer:
    base = readings[id(one), BASE]
    return ScoringAnswer(one.job, scores.get(id(one)), _floats(base.prompt), _floats(base.output), one.detail)


def _scored(
    golden: Model,
    asked: Sequence[ScoringTask],
    readings: Mapping[tuple[int, Voice], HiddenStates],
    asking: ScoringOptions,
) -> dict[int, TokenScores]:
    """id of each scored one -> its token scores; those asked alike share their windows."""
    groups: dict[object, list[ScoringTask]] = {}
    for one in asked:
        if not one.detail:
            sampling = one.job.sampling
            assert sampling is not None
            alone = id(one) if sampling.penalised else 0
            groups.setdefault((sampling, alone, one.job.adapter, tuple(one.voices.items())), []).append(one)
    found: dict[int, TokenScores] = {}
    for group in groups.values():
        for some in _windows(group, _heads(len(group[0].voices)) * _step(golden), asking):
            found |= _window(golden, some, readings, asking)
    return found


def _windows(group: Sequence[ScoringTask], positions: int, asking: ScoringOptions) -> Iterator[list[ScoringTask]]:
    """Whole responses, of about so many positions together; a longer one stands alone and is cut by ``_window``."""
    some: list[ScoringTask] = []
    for one in group:
        if some and sum(_scored_length(it, asking) for it in (*some, one)) > positions:
            yield some
            some = []
        some.append(one)
    if some:
        yield some


def _window(
    golden: Model,
    some: Sequence[ScoringTask],
    readings: Mapping[tuple[int, Voice], HiddenStates],
    asking: ScoringOptions,
) -> dict[int, TokenScores]:
    lengths = [_scored_length(one, asking) for one in some]
    first = some[0]
    states = {
        name: torch.cat([readings[id(one), name].scored[:n] for one, n in zip(some, lengths, strict=True)])
        for name in first.voices
    }
    job = first.job
    assert job.sampling is not None
    tokens = torch.tensor([t for one, n in zip(some, lengths, strict=True) for t in one.job.output[:n]]).to(
        golden.device
    )
    uniform = torch.from_numpy(np.concatenate([_uniforms(one.job, n) for one, n in zip(some, lengths, strict=True)]))
    pieces: list[TokenScores] = []
    for here, logits in _logits(golden, first.voices, states):
        plain = logits[ADAPTER] if job.sampling.penalised else None
        logits = {name: _penalised(it, job, here, asking.longest_output) for name, it in logits.items()}
        there = Positions(tokens[here], uniform[here].to(golden.device), job.sampling, plain)
        others = {who: own for who, own in logits.items() if who is not None and who != BASE}
        pieces.append(score_torch(logits[ADAPTER], logits[BASE], others, there, asking.of(job.adapter)))
    whole = joined(pieces)
    ends = np.cumsum(lengths)
    return {id(one): whole.part(slice(end - n, end)) for one, n, end in zip(some, lengths, ends.tolist(), strict=True)}


def _logits(
    golden: Model, voices: Mapping[Voice, Target], states: Mapping[Voice, torch.Tensor]
) -> Iterator[tuple[slice, dict[Voice, torch.Tensor]]]:
    """Window by window: where it lies, and the logits of every voice there. states: of each voice (N, H)"""
    step, n = _step(golden), len(states[ADAPTER])
    wide = _heads(len(voices)) * step
    for start in range(0, n, wide):
        made = {name: logits_of(golden, voices[name], held[start : start + wide]) for name, held in states.items()}
        for at in range(0, min(wide, n - start), step):
            yield slice(start + at, start + at + step), {name: it[at : at + step] for name, it in made.items()}
        made.clear()  # before the next ones are made


def logits_of(golden: Model, target: Target, states: torch.Tensor) -> torch.Tensor:
    """(N, V). The head of a copy in few bits is the golden one's: ``quantise`` leaves it alone."""
    return golden.head(states, [(target.adapter, target.scale)] * len(states))


def _penalised(logits: torch.Tensor, job: ScoringJob, here: slice, longest: int) -> torch.Tensor:
    """``sampler.penalised`` of some positions of one response, of which ``longest`` are scored."""
    sampling = job.sampling
    assert sampling is not None
    if not sampling.penalised:
        return logits
    out = logits.float().clone()
    if sampling.repetition != 1.0:
        rows, ids = _within(_repeated(job.prompt, job.output[:longest]), here)
        old = out[rows, ids]
        out[rows, ids] = torch.where(old > 0, old / sampling.repetition, old * sampling.repetition)
    rows, ids, counts = _within(_written(job.output[:longest]), here)
    out[rows, ids] -= sampling.presence + sampling.frequency * counts.to(out)
    return out


# Every voice and window of a response asks for the same tables, which take seconds for a long one.
_written = lru_cache(maxsize=2)(written)
_repeated = lru_cache(maxsize=2)(repeated)


def _within(table: Sequence[NDArray[np.int64]], here: slice) -> list[torch.Tensor]:
    mine = (table[0] >= here.start) & (table[0] < here.stop)
    return [torch.from_numpy(column[mine] - (here.start if i == 0 else 0)) for i, column in enumerate(table)]


def joined(pieces: Sequence[TokenScores]) -> TokenScores:
    """Positions one after the other; all pieces were asked the same."""
    if len(pieces) == 1:
        return pieces[0]
    log_l = {who: np.concatenate([piece.log_l[who] for piece in pieces]) for who in pieces[0].log_l}
    log_sampler = {
        name: np.concatenate([piece.log_sampler[name] for piece in pieces]) for name in pieces[0].log_sampler
    }
    path, hot, wide = (
        np.concatenate([getattr(piece, axis) for piece in pieces], axis=1)
        for axis in ("path_log_lik", "temperature_log_lik", "top_p_log_lik")
    )
    return TokenScores(log_l, log_sampler, path, hot, wide, np.concatenate([piece.ranks for piece in pieces]))


def _uniforms(job: ScoringJob, n: int) -> NDArray[np.float64]:
    return uniforms(job.response)[:n]


def _scored_length(one: ScoringTask, asking: ScoringOptions) -> int:
    return min(len(one.job.output), asking.longest_output)


def _step(model: Model) -> int:
    """Positions of a window."""
    return max(1, CELLS.get(model.device.type, CELLS_ELSEWHERE) // model.vocabulary)


def _heads(voices: int) -> int:
    """Windows that a head is asked for at once."""
    return max(1, WINDOWS_A_HEAD * VOICES // max(VOICES, voices))


def _floats(values: torch.Tensor) -> Floats:
    return values.float().cpu().numpy()  # type: ignore[no-any-return]
