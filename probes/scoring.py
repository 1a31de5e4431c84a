"""Which responses are scored, against whom, and what of it goes on to the detectors. Pure; runners do the reading.

``Scoring`` is what a runner has that scores: optional, ask with ``isinstance``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from detectors.records import Fault, FaultKind, Floats
from detectors.traffic_records import Scored, TrafficScore
from probes.likelihood import Response, Settings, TokenScores, score, seed_of
from probes.replay import Runner, Stop, Target, Weights
from probes.sampler import Doubles, Sampling, sampling_of

HALF, DOUBLE, FOUR_BITS, OTHER = "half", "double", "4 bits", "adapter:"


@dataclass(frozen=True, slots=True)
class Asking:
    """What is asked of each response.

    tokens: of each token, at the cost of the two passes by golden adapter and golden base
    tolerances: adapter -> its own share of the effect whose loss is benign, over that of ``tokens``
    copies: alternatives that need a pass of their own: "half" and "double" strength, "4 bits" (a second base in memory)
    others: are the other registered adapters alternatives too?
    passes: how many of those each response gets, drawn by hash of its request id and so by nothing that was written;
    None for all of them
    longest_output: positions that are scored of a response; longest_text: tokens, a longer text is not read at all
    """

    tokens: Settings = field(default_factory=Settings)
    copies: tuple[str, ...] = (HALF, DOUBLE)
    others: bool = True
    passes: int | None = 2
    longest_output: int = 512
    longest_text: int = 4096
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def of(self, adapter: str) -> Settings:
        """What each token of this adapter's responses is asked."""
        own = self.tolerances.get(adapter, self.tokens.tolerance)
        return self.tokens if own == self.tokens.tolerance else replace(self.tokens, tolerance=own)

    def __post_init__(self) -> None:
        unknown = set(self.copies) - {HALF, DOUBLE, FOUR_BITS}
        if unknown or (self.passes is not None and self.passes < 0):
            raise ValueError(f"asking {self}: wanted copies among {HALF}, {DOUBLE}, {FOUR_BITS}, and passes >= 0")


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One response to score. prompt, output: token ids as the engine had them, or by the golden tokenizer

    sampling: None where unknown; unscored: why it cannot be scored whatever its tokens, in words, "" when it can
    """

    adapter: str
    request_id: str
    pod: str
    at: float
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    sampling: Sampling | None
    unscored: str = ""

    @property
    def response(self) -> Response:
        assert self.sampling is not None
        return Response(self.prompt, self.output, self.sampling, seed_of(self.request_id))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """tokens: None where it was not scored, and why in ``detail``

    prompt, output: (d,) pooled hidden states of the golden base, nan where there are none
    """

    job: Job
    tokens: TokenScores | None
    prompt: Floats
    output: Floats
    detail: str = ""


@runtime_checkable
class Scoring(Protocol):
    """What a runner has that scores responses by its golden copies."""

    def score(self, jobs: Sequence[Job], stop: Stop, asking: Asking | None = None) -> list[Answer]:
        """An answer for each job, in order; after ``stop()`` those done so far.

        Whatever keeps a response from being scored is told in its answer, and its embeddings are there all the same.
        Raises Unreplayable where no golden base is loaded.
        """

    def golden_hashes(self, adapter: str) -> tuple[str, str]:
        """Of the base and the adapter that ``score`` takes as accepted, "" where not known. Raises like ``score``, and
        Unreplayable or Unsupported where there is no copy of the adapter."""

    def accept_adapter(self, adapter: str, folder: str) -> None:
        """From now on the files in this folder are what was accepted under that name."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One sampled request with its answer, as its record told them.

    sampling: its parameters by their usual names; prompt_ids, output_ids: as the engine recorded them, () where not
    """

    adapter: str
    request_id: str
    messages: Sequence[Mapping[str, str]]
    output: str
    sampling: Mapping[str, float]
    prompt_ids: tuple[int, ...] = ()
    output_ids: tuple[int, ...] = ()
    pod: str = ""
    at: float = 0.0


def job(runner: Runner, told: Exchange, default: Sampling | None = None) -> Job:
    """A sampled interaction as a job.

    default: the deployment's sampler, for what records do not tell; without it one that tells no temperature stays
    unscored

    Where no ids were recorded the golden tokenizer and template give them, and the end-of-text token is not scored:
    whether it was written, no text tells. Such ids need not be those that the engine drew, and the exactness of the bet
    is for those that were. Ids that do not read as the recorded output are another tokenizer's: it is not scored.
    """
    words = runner.encode(told.output, Weights.GOLDEN) if told.output else ()
    strange = bool(told.output_ids) and not _reads_as(runner.decode(told.output_ids), told.output)
    return Job(
        adapter=told.adapter,
        request_id=told.request_id,
        pod=told.pod,
        at=told.at,
        prompt=told.prompt_ids or runner.encode_chat([dict(turn) for turn in told.messages], Weights.GOLDEN),
        output=words if strange else told.output_ids or words,
        sampling=sampling_of(told.sampling, default),
        unscored="its token ids are of another tokenizer: they do not read as its text" if strange else "",
    )


def why_not(job: Job, asking: Asking, vocabulary: int) -> str:
    """What keeps this response from being scored, "" when nothing does."""
    if job.unscored:
        return job.unscored
    if not job.output:
        return "its output is empty"
    if unreadable := why_unreadable(job, asking, vocabulary):
        return unreadable
    if job.sampling is None:
        return "its temperature is unknown, and no default is configured"
    return ""


def why_unreadable(job: Job, asking: Asking, vocabulary: int) -> str:
    """What keeps its tokens from going through the model at all, "" when nothing does."""
    if not job.prompt:
        return "its prompt is empty"
    highest = max((*job.prompt, *job.output))
    if highest >= vocabulary or min((*job.prompt, *job.output)) < 0:
        return f"token {highest} is beyond the golden vocabulary of {vocabulary}: ids of another tokenizer"
    if len(job.prompt) + len(job.output) > asking.longest_text:
        return f"{len(job.prompt) + len(job.output)} tokens are more than {asking.longest_text}"
    return ""


def alternatives(job: Job, adapters: Iterable[str], asking: Asking) -> dict[str, Target]:
    """Name -> who else is asked about this response, beside the base and the path: by hash of its id, in fixed order.

    adapters: those whose golden copies are loaded. A bet is fair because nothing that was written decides which bets
    are made; those not made count as 1.
    """
    copies = {
        HALF: Target(job.adapter, Weights.GOLDEN, 0.5),
        DOUBLE: Target(job.adapter, Weights.GOLDEN, 2.0),
        FOUR_BITS: Target(job.adapter, Weights.GOLDEN, fault=Fault(FaultKind.QUANTISED, "4")),
    }
    there = {name: copies[name] for name in asking.copies}
    if asking.others:
        there |= {f"{OTHER}{name}": Target(name, Weights.GOLDEN) for name in adapters if name != job.adapter}
    if asking.passes is None or asking.passes >= len(there):
        return there
    seed = hashlib.blake2b(f"alternatives {job.request_id}".encode(), digest_size=8).digest()
    chosen = np.random.default_rng(int.from_bytes(seed)).choice(len(there), asking.passes, replace=False)
    return {name: target for number, (name, target) in enumerate(there.items()) if number in chosen}


def token_scores(job: Job, logits: Callable[[Target], Floats], adapters: Iterable[str], asking: Asking) -> TokenScores:
    """The plain way, for a runner in numpy. logits: of a target, (T, V) at the output's positions"""
    response = job.response
    cut = replace(response, tokens=response.tokens[: asking.longest_output])
    adapter, base = Target(job.adapter, Weights.GOLDEN), Target(None, Weights.GOLDEN)
    sides = {name: logits(target) for name, target in alternatives(job, adapters, asking).items()}
    wide = {name: side[: len(cut.tokens)].astype(np.float64) for name, side in sides.items()}
    own, bare = (logits(target)[: len(cut.tokens)].astype(np.float64) for target in (adapter, base))
    return score(own, bare, wide, cut, asking.of(job.adapter))


def not_scored(adapter: str, request_id: str, pod: str, at: float, why: str) -> TrafficScore:
    """A response that nobody could score, and why."""
    return TrafficScore(adapter, request_id, pod, at, Scored.NOT_SCORED, 0, detail=why)


def traffic_score(answer: Answer, asking: Asking) -> TrafficScore:
    """What the detectors read of an answer: sums over its tokens."""
    job, tokens = answer.job, answer.tokens
    if tokens is None or job.sampling is None:
        return not_scored(job.adapter, job.request_id, job.pod, job.at, answer.detail)
    greedy, axes = job.sampling.greedy, asking.tokens
    grid, top_ps = ((), ()) if greedy else (axes.grid, axes.top_ps)
    return TrafficScore(
        adapter=job.adapter,
        request_id=job.request_id,
        pod=job.pod,
        at=job.at,
        scored=Scored.GREEDY if greedy else Scored.SAMPLED,
        tokens=len(next(iter(tokens.log_l.values()))),
        alternatives=tuple(tokens.log_l),
        log_l=_sums(tokens.log_l.values()),
        samplers=tuple(tokens.log_sampler),
        log_sampler=_sums(tokens.log_sampler.values()),
        path=np.array(grid, np.float32),
        path_log_lik=_sums([] if greedy else tokens.path_log_lik),
        temperatures=np.array(axes.temperatures, np.float32),
        temperature_log_lik=_sums(tokens.temperature_log_lik),
        top_ps=np.array(top_ps, np.float32),
        top_p_log_lik=_sums([] if greedy else tokens.top_p_log_lik),
        ranks=np.zeros(0, np.float32) if greedy else tokens.ranks.astype(np.float32),
        temperature=job.sampling.temperature,
        top_p=job.sampling.top_p,
        detail=answer.detail,
    )


def _sums(rows: Iterable[Doubles]) -> Floats:
    return np.array([row.sum() for row in rows], dtype=np.float32)


def _reads_as(decoded: str, text: str) -> bool:
    """Do ids decode to this text, but for spaces, half a character at the end and special tokens after it?"""
    read, wanted = ("".join(side.split()).rstrip("\ufffd") for side in (decoded, text))
    return read.startswith(wanted) and read[len(wanted) : len(wanted) + 1] in ("", "<", "[")
