"""Which responses are scored, against which alternatives, and what detectors get of it. Pure; runners do the passes.

``Scoring`` is the optional capability of a runner that scores: test for it with ``isinstance``. Which alternatives a
response is scored against must never depend on what was written, or the bet is not fair.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from detectors.evidence.alternative import (
    DOUBLE_STRENGTH,
    FOUR,
    FOUR_BITS,
    HALF_STRENGTH,
    PREVIOUS,
    Alternative,
    AlternativeKind,
    other_adapter,
)
from detectors.evidence.likelihood_process import weights_of
from detectors.kinds import traffic_likelihood
from detectors.records import Fault, FaultKind, Floats
from detectors.traffic_records import ScoringMode, TrafficScore
from probes.runner import Stop, Target, Weights
from probes.scoring.likelihood_ratio_reference import score, score_base
from probes.scoring.token_distribution import Doubles, SamplingParameters
from probes.scoring.token_scores import ROUNDING, Response, Settings, TokenScores, seed_of

COPIES = (HALF_STRENGTH, DOUBLE_STRENGTH, FOUR_BITS)


@dataclass(frozen=True, slots=True)
class AdapterVersion:
    """A registered adapter as it is accepted now, or, with ``previous``, as it was accepted before that."""

    name: str
    previous: bool = False


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How responses are scored.

    tokens: what is computed of each token from the two passes by golden adapter and golden base
    tolerances: adapter -> its own tolerance, in place of that of ``tokens``
    copies: alternatives with a pass of their own, some of ``COPIES``; FOUR_BITS holds a second base in memory
    others: are the other registered adapters alternatives too? (The version accepted before is one wherever a copy of
    its files is kept.)
    passes: how many of those alternatives each response is scored against, drawn by hash of its request id and so by
    nothing that was written; None for all of them
    weights: by which they are drawn, those of the detector (traffic_likelihood.py); other adapters share what is left
    of 1, and what has no weight there is not drawn
    first_output: positions of most responses that are read and scored, or half as many as the prompt has tokens where
    that is more: it is read too, and costs as much; longest_output: of the others, and at most
    whole: share of the responses that are the others, drawn by a hash of the request id: a fault that begins late in
    an answer shows in these alone
    longest_text: tokens of prompt and response that are read; a prompt that leaves no room for a response is not read
    at all
    """

    tokens: Settings = field(default_factory=Settings)
    copies: tuple[Alternative, ...] = (HALF_STRENGTH, DOUBLE_STRENGTH)
    others: bool = True
    passes: int | None = 2
    weights: tuple[tuple[Alternative, float], ...] = traffic_likelihood.Config().weights
    first_output: int = 32
    longest_output: int = 512
    whole: float = 0.125
    longest_text: int = 4096
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def of(self, adapter: str) -> Settings:
        """``tokens`` with this adapter's own tolerance."""
        own = self.tolerances.get(adapter, self.tokens.tolerance)
        return self.tokens if own == self.tokens.tolerance else replace(self.tokens, tolerance=own)

    def scored_length(self, job: ScoringJob) -> int:
        """How many positions of a response are scored.

        Null and guarantee are those of the ratios: where a response is cut off follows from its request id and its
        prompt, so that L of what is left has mean at most 1, as a product up to a position that was fixed before the
        response. What breaks it: request ids that follow from the answer.
        Source: docs/mathematics.md#traffic-likelihood-ratio.
        """
        digest = hashlib.blake2b(f"whole {job.request_id}".encode(), digest_size=8).digest()
        is_whole = int.from_bytes(digest) < self.whole * 2.0**64
        first = self.longest_output if is_whole else max(self.first_output, len(job.prompt) // 2)
        return min(len(job.output), first, self.longest_output)

    def __post_init__(self) -> None:
        unknown = set(self.copies) - set(COPIES)
        fine = self.first_output >= 1 and self.longest_output >= 1 and 0 <= self.whole <= 1
        if unknown or (self.passes is not None and self.passes < 0) or not fine:
            wanted = (
                f"copies among {COPIES}, passes >= 0, lengths of one token and more, and a share of whole responses"
            )
            raise ValueError(f"{self}: wanted {wanted}")


@dataclass(frozen=True, slots=True, eq=False)
class ScoringJob:
    """One response to score. prompt, output: token ids as the engine had them, or by the golden tokenizer

    adapter: of a request that names the base itself, the base's name, and then ``of_base``
    sampling: None where unknown; unscored: why it cannot be scored, whatever its tokens; "" when it can
    toll: nats taken off its e-values where ids were made from text (probes/scoring/tokenise.py)
    suspected: further alternatives that it is scored against, chosen by responses that were scored before it
    (probes/scoring/suspicion.py): WITHOUT, ROUNDED and FOUR_BITS; of a response of the base the last two, and the
    adapter of ``path_from``
    """

    adapter: str
    request_id: str
    pod: str
    at: float
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    sampling: SamplingParameters | None
    unscored: str = ""
    toll: float = 0.0
    of_base: bool = False
    suspected: tuple[Alternative, ...] = ()

    @property
    def path_from(self) -> Alternative | None:
        """Of a response of the base: the adapter from which the likelihood along the path to the base is wanted."""
        return next((who for who in self.suspected if who.kind is AlternativeKind.OTHER_ADAPTER), None)

    @property
    def response(self) -> Response:
        assert self.sampling is not None
        return Response(self.prompt, self.output, self.sampling, seed_of(self.request_id, self.at))


@dataclass(frozen=True, slots=True, eq=False)
class ScoringAnswer:
    """tokens: None where it was not scored; ``detail`` then says why

    prompt, output: (d,) pooled hidden states of the golden base, nan where there are none
    """

    job: ScoringJob
    tokens: TokenScores | None
    prompt: Floats
    output: Floats
    detail: str = ""


@runtime_checkable
class Scoring(Protocol):
    """What a runner has that scores responses by its golden copies."""

    def score(
        self, jobs: Sequence[ScoringJob], stop: Stop, asking: ScoringOptions | None = None
    ) -> list[ScoringAnswer]:
        """An answer for each job, in order; after ``stop()`` those done so far.

        An answer without scores says why, and has its embeddings wherever the tokens can be read.
        Raises Unreplayable where no golden base is loaded.
        """

    def golden_hashes(self, adapter: str, scheme: int) -> tuple[str, str]:
        """Hashes of the base and the adapter that ``score`` takes as accepted, "" where not known; by a scheme of
        probes/artefacts/identity.py. Raises like ``score``, and Unreplayable or Unsupported where there is no copy of
        the adapter."""

    def end_of_answer(self) -> int | None:
        """The token with which the golden template ends a turn of the assistant, if the golden base stops at it."""

    def accept_adapter(self, version: AdapterVersion, folder: str | None) -> None:
        """From now on the files in this folder are that version of a registered adapter; None for no copy.

        A previous version is an alternative for the responses of its adapter from then on.
        """


def cut(job: ScoringJob, asking: ScoringOptions) -> ScoringJob:
    """The job with its output as far as it is read. The length of the prompt and a hash of the request id decide how
    far that is: to set long answers aside and keep short ones would be a choice by what was written."""
    room = max(asking.longest_text - len(job.prompt), 0)
    length = min(room, asking.scored_length(job))
    return replace(job, output=job.output[:length]) if 0 < length < len(job.output) else job


def why_not(job: ScoringJob, asking: ScoringOptions, vocabulary: int, width: int | None = None) -> str:
    """Why this response cannot be scored, "" when it can. vocabulary: as in ``why_unreadable``; width: number of
    logits, where those are fewer"""
    if job.unscored:
        return job.unscored
    if not job.output:
        return "its output is empty"
    if unreadable := why_unreadable(job, asking, vocabulary):
        return unreadable
    if width is not None and (highest := max(job.output)) >= width:
        return f"token {highest} of its output is beyond the golden head, which has {width} logits"
    if job.sampling is None:
        return "its temperature is unknown, and no default is configured"
    return ""


def why_unreadable(job: ScoringJob, asking: ScoringOptions, vocabulary: int) -> str:
    """Why its tokens cannot go through the model at all, "" when they can. vocabulary: number of ids that it reads"""
    if not job.prompt:
        return "its prompt is empty"
    highest = max((*job.prompt, *job.output))
    if highest >= vocabulary or min((*job.prompt, *job.output)) < 0:
        return f"token {highest} is beyond the golden vocabulary of {vocabulary}: ids of another tokenizer"
    if len(job.prompt) >= asking.longest_text:
        return f"its prompt of {len(job.prompt)} tokens leaves no room in {asking.longest_text}"
    if len(job.prompt) + len(job.output) > asking.longest_text:
        return f"{len(job.prompt) + len(job.output)} tokens are more than {asking.longest_text}"
    return ""


def alternatives(
    job: ScoringJob, names: Mapping[AdapterVersion, str], asking: ScoringOptions
) -> dict[Alternative, Target]:
    """The alternatives with a forward pass of their own that this response is scored against, in fixed order; which of
    them, their weights and a hash of its request id decide.

    names: of each version with a golden copy, the adapter name by which the runner's targets mean that copy. Null and
    guarantee are those of the ratios (likelihood_ratio_reference.py): the bet is fair because nothing that was written
    decides which alternatives are scored, and those that are not count as L = 1. What breaks it: request ids that
    follow from the answer. Source: docs/mathematics.md#traffic-likelihood-ratio.
    Those that the job suspects come on top.
    """
    accepted = None if job.of_base else names[AdapterVersion(job.adapter)]
    usual = _alternatives_of_base(job, names, asking) if job.of_base else _of_adapter(job, names, asking)
    faults = [who for who in job.suspected if who not in usual and who.kind is not AlternativeKind.OTHER_ADAPTER]
    path = job.path_from
    # Its accepted copy may have been replaced since by one that cannot be loaded.
    name = None if path is None or path in usual else names.get(AdapterVersion(path.name))
    other = {path: Target(name, Weights.GOLDEN)} if path is not None and name is not None else {}
    return usual | other | {who: _faulty(accepted, who) for who in faults}


def _faulty(accepted: str | None, who: Alternative) -> Target:
    """The target that answers as this suspected alternative."""
    kind = FaultKind.WITHOUT if who.kind is AlternativeKind.WITHOUT else FaultKind.QUANTISED
    return Target(accepted, Weights.GOLDEN, fault=Fault(kind, who.name or FOUR))


def _of_adapter(
    job: ScoringJob, names: Mapping[AdapterVersion, str], asking: ScoringOptions
) -> dict[Alternative, Target]:
    accepted, previous = names[AdapterVersion(job.adapter)], AdapterVersion(job.adapter, previous=True)
    copies = {
        HALF_STRENGTH: Target(accepted, Weights.GOLDEN, 0.5),
        DOUBLE_STRENGTH: Target(accepted, Weights.GOLDEN, 2.0),
        FOUR_BITS: _faulty(accepted, FOUR_BITS),
    }
    targets = {copy: copies[copy] for copy in asking.copies}
    if previous in names:
        targets[PREVIOUS] = Target(names[previous], Weights.GOLDEN)
    if asking.others:
        others = [version for version in names if version.name != job.adapter and not version.previous]
        targets |= {other_adapter(version.name): Target(names[version], Weights.GOLDEN) for version in others}
    if asking.passes is None or asking.passes >= len(targets):
        return targets
    weights = weights_of(dict(asking.weights), [who for who in targets if who.kind is AlternativeKind.OTHER_ADAPTER])
    chosen = drawn(job.request_id, {who: weights.get(who, 0.0) for who in targets}, asking.passes)
    return {who: target for who, target in targets.items() if who in chosen}


def _alternatives_of_base(
    job: ScoringJob, names: Mapping[AdapterVersion, str], asking: ScoringOptions
) -> dict[Alternative, Target]:
    """Adapters that may answer in the base's place, all as likely, and its 4-bit copy where ``copies`` names that.

    One more than of an adapter's response, which has a pass of its base beside them: as many passes in all.
    """
    adapters = [version for version in names if not version.previous]
    targets = {other_adapter(version.name): Target(names[version], Weights.GOLDEN) for version in adapters}
    if FOUR_BITS in asking.copies:
        targets[FOUR_BITS] = _faulty(None, FOUR_BITS)
    if asking.passes is None or asking.passes + 1 >= len(targets):
        return targets
    chosen = drawn(job.request_id, dict.fromkeys(targets, 1.0), asking.passes + 1)
    return {who: target for who, target in targets.items() if who in chosen}


def drawn(request_id: str, weights: Mapping[Alternative, float], n: int) -> set[Alternative]:
    """So many of the alternatives without replacement, one after the other by weight among those that are left; fewer
    where fewer have a weight above 0.

    Each has a hash of request id and alternative as a uniform number u, and those of smallest -ln(u) / weight are
    drawn: exponential waiting times, of which the first is each one's with chance in proportion to its weight. No
    generator is involved whose numbers another version of numpy would change. Source: Efraimidis & Spirakis (2006).
    """
    by_request = hashlib.blake2b(f"alternatives {len(request_id)} {request_id} ".encode(), digest_size=8)
    waiting: dict[Alternative, float] = {}
    for who, weight in weights.items():
        if weight > 0:
            by_both = by_request.copy()
            by_both.update(who.text.encode())
            waiting[who] = -math.log((int.from_bytes(by_both.digest()) + 0.5) / 2.0**64) / weight
    return set(sorted(waiting, key=waiting.__getitem__)[:n])


def token_scores(
    job: ScoringJob,
    logits: Callable[[Target], Floats],
    names: Mapping[AdapterVersion, str],
    asking: ScoringOptions,
) -> TokenScores:
    """By the reference formulas, for a runner in numpy. logits: of a target, (T, V) at the output's positions; names:
    as of ``alternatives``"""
    response = job.response
    cut = replace(response, tokens=response.tokens[: asking.scored_length(job)])
    sides = {who: logits(target) for who, target in alternatives(job, names, asking).items()}
    wide = {who: side[: len(cut.tokens)].astype(np.float64) for who, side in sides.items()}
    bare = logits(Target(None, Weights.GOLDEN))[: len(cut.tokens)].astype(np.float64)
    if job.of_base:
        return score_base(bare, wide, cut, asking.tokens, path_from=job.path_from)
    adapter = Target(names[AdapterVersion(job.adapter)], Weights.GOLDEN)
    return score(logits(adapter)[: len(cut.tokens)].astype(np.float64), bare, wide, cut, asking.of(job.adapter))


def not_scored(adapter: str, request_id: str, pod: str, at: float, why: str) -> TrafficScore:
    """A response that was not scored, and why."""
    return TrafficScore(adapter, request_id, pod, at, ScoringMode.NOT_SCORED, 0, detail=why)


def traffic_score(answer: ScoringAnswer, asking: ScoringOptions) -> TrafficScore:
    """An answer as the detectors read it: sums over its tokens."""
    job, tokens = answer.job, answer.tokens
    if tokens is None or job.sampling is None:
        return not_scored(job.adapter, job.request_id, job.pod, job.at, answer.detail)
    greedy, axes = job.sampling.greedy, asking.tokens
    grid, top_ps = ((), ()) if greedy or job.of_base else (axes.grid, axes.top_ps)
    grid = axes.grid if job.of_base and tokens.path_log_lik.size else grid
    no_ranks = greedy or job.of_base
    return TrafficScore(
        adapter=job.adapter,
        request_id=job.request_id,
        pod=job.pod,
        at=job.at,
        scored=ScoringMode.GREEDY if greedy else ScoringMode.SAMPLED,
        tokens=len(next(iter(tokens.log_l.values()))),
        alternatives=tuple(tokens.log_l),
        log_l=_sums(tokens.log_l.values()) - np.float32(job.toll),
        samplers=tuple(tokens.log_sampler),
        log_sampler=_sums(tokens.log_sampler.values()) - np.float32(job.toll),
        path=np.array(grid, np.float32),
        path_log_lik=_sums([] if greedy else tokens.path_log_lik),
        path_from=job.path_from.name if job.of_base and grid and job.path_from else "",
        temperatures=np.array(() if job.of_base else axes.temperatures, np.float32),
        temperature_log_lik=_sums(tokens.temperature_log_lik),
        top_ps=np.array(top_ps, np.float32),
        top_p_log_lik=_sums([] if greedy else tokens.top_p_log_lik),
        ranks=np.zeros(0, np.float32) if no_ranks else tokens.ranks.astype(np.float32),
        ranks_weaker=_sums([] if greedy else tokens.ranks_weaker),
        ranks_stronger=_sums([] if greedy else tokens.ranks_stronger),
        rank_toll=0.0 if job.of_base else job.toll + (asking.tokens.numeric + ROUNDING) * len(tokens.ranks),
        temperature=job.sampling.temperature,
        top_p=job.sampling.top_p,
        detail=answer.detail or ("scored on the token ids of its text: its record has none" if job.toll else ""),
    )


def _sums(rows: Iterable[Doubles]) -> Floats:
    return np.array([row.sum() for row in rows], dtype=np.float32)
