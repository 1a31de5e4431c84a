"""Scores sampled responses of one base by what was accepted, embeds them, or gives the reason why not.

Only the accepted base and adapter may score: a copy with another hash than the golden record's would call a fault
healthy, or an intended release a fault.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog

from agent.records import PartitionAdapter
from detectors.records import Floats, SubjectKind, Verdict
from detectors.traffic_records import Embedding, Side, TrafficScore
from probes.errors import ProbeError
from probes.golden.record import Golden, Unmonitorable, short
from probes.runner import Runner, Stop, Weights
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import (
    AdapterVersion,
    Scoring,
    ScoringJob,
    ScoringOptions,
    cut,
    not_scored,
    traffic_score,
)
from probes.scoring.suspicion import Suspicions, candidates
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.tokenise import Retokenise, job

log = structlog.get_logger(__name__)

FAILED = "scoring failed: the agent's log names the error"
NO_SCORING = "the runner cannot score responses"
# Tokens of either side that are embedded: one sampled book must not keep the canaries waiting.
LONGEST = 512
InForce = Mapping[str, Golden | Unmonitorable]
"""Adapter -> its golden record, or why there is none."""


class ResponseResults(NamedTuple):
    """upto: of each partition and adapter the offset after the last record in here; duration_s: that it took."""

    scores: tuple[TrafficScore, ...]
    embeddings: tuple[Embedding, ...]
    upto: Mapping[PartitionAdapter, int]
    duration_s: float = 0.0


@dataclass(slots=True)
class ResponseScorer:
    """Of one base. Everything that comes of an interaction is in one ``ResponseResults``.

    options: how responses are scored, None where they are embedded and no more
    sampler: of the deployment, for records without their own; retokenise: what is done with outputs without token ids
    kept: golden record -> the folder with the files of its adapter, None where they were not kept
    before: golden record -> likewise of the version that was accepted before
    base: its name, under which come interactions that ask for itself; "" where none do
    scores, embeddings, upto: since they were last taken, in the order in which they came
    suspicions: what responses of suspect adapters are scored against besides
    """

    runner: Runner
    options: ScoringOptions | None = None
    sampler: SamplingParameters | None = None
    retokenise: Retokenise = Retokenise.COUNTED
    kept: Callable[[Golden], Path | None] = lambda _: None
    before: Callable[[Golden], Path | None] = lambda _: None
    base: str = ""
    scores: list[TrafficScore] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)
    upto: dict[PartitionAdapter, int] = field(default_factory=dict)
    suspicions: Suspicions = field(default_factory=Suspicions)
    _verdicts: queue.SimpleQueue[Verdict] = field(default_factory=queue.SimpleQueue)

    def judged(self, verdict: Verdict) -> None:
        """A verdict by responses that says suspect or degraded. From another thread than all else here."""
        self._verdicts.put(verdict)

    def take(self) -> ResponseResults:
        """What was scored and embedded since the last time."""
        taken = ResponseResults(tuple(self.scores), tuple(self.embeddings), self.upto)
        self.scores, self.embeddings, self.upto = [], [], {}
        return taken

    def accepted(self, golden: Golden) -> None:
        """Another record is in force for an adapter: its kept files score from now on, and the version before it
        becomes an alternative."""
        if not isinstance(self.runner, Scoring):
            return
        if (folder := self.kept(golden)) is not None:
            self.runner.accept_adapter(AdapterVersion(golden.adapter), str(folder))
        earlier = self.before(golden)
        previous = AdapterVersion(golden.adapter, previous=True)
        self.runner.accept_adapter(previous, None if earlier is None else str(earlier))

    def not_scored(self, batch: Sequence[Interaction], why: str) -> None:
        """Each gets a score without numbers and with the reason, because silence would look like no traffic."""
        if self.options is None:
            return
        self._note(batch)
        self._add([not_scored(i.adapter, i.request_id, i.pod, i.at, why) for i in batch])

    def process(self, batch: Sequence[Interaction], goldens: InForce, stop: Stop) -> list[Interaction]:
        """Score and embed; back come those that were not looked at because ``stop()`` turned true."""
        if self.options is None:
            return self._embed(batch, stop)
        return self._score(self.options, batch, goldens, stop)

    def _note(self, done: Sequence[Interaction]) -> None:
        for interaction in done:
            for topic, partition, offset in interaction.records:
                key = topic, partition, interaction.adapter
                self.upto[key] = max(offset + 1, self.upto.get(key, 0))

    def _score(
        self, options: ScoringOptions, batch: Sequence[Interaction], goldens: InForce, stop: Stop
    ) -> list[Interaction]:
        """Scores, and embeddings of the same passes."""
        scorable: list[Interaction] = []
        jobs: list[ScoringJob] = []
        for interaction in batch:
            if (made := self._job(interaction, goldens)) is not None:
                scorable.append(interaction)
                jobs.append(cut(made, options))
        if not jobs:
            return []
        runner = self.runner
        assert isinstance(runner, Scoring)
        self._suspect()
        try:
            answers = runner.score(self.suspicions.applied_to(jobs), stop, options)
        except Exception as error:  # whatever it is: silence would read as a night without traffic
            log.warning("scoring_failed", error=type(error).__name__, suspicions_ended=self.suspicions.end(jobs))
            self.not_scored(scorable, str(error) if isinstance(error, ProbeError) else FAILED)
            return []
        self._add([traffic_score(answer, options) for answer in answers])
        done, untouched = scorable[: len(answers)], scorable[len(answers) :]
        self._note(done)
        vectors = [(answer.prompt, answer.output) for answer in answers]
        self.embeddings += [e for e in _both_sides(done, vectors) if e.adapter != self.base]
        return untouched

    def _add(self, scores: Sequence[TrafficScore]) -> None:
        self.scores += scores
        self.suspicions.learn(scores)

    def _suspect(self) -> None:
        """Take up what was judged since."""
        while not self._verdicts.empty():
            verdict = self._verdicts.get()
            of_base = verdict.subject_kind is SubjectKind.BASE_REQUESTS
            faults = partial(candidates, self.runner, verdict.subject, of_base)
            self.suspicions.begin(verdict.subject, faults, of_base, verdict.path_from)

    def _embed(self, batch: Sequence[Interaction], stop: Stop) -> list[Interaction]:
        of_adapters = [interaction for interaction in batch if interaction.adapter != self.base]
        usable = [(each, ids) for each in of_adapters if (ids := self._token_ids(each)) is not None]
        vectors = self.runner.embed([ids for _, ids in usable], stop)
        done = [interaction for interaction, _ in usable[: len(vectors)]]
        self._note(done)
        self.embeddings += _both_sides(done, vectors)
        return [interaction for interaction, _ in usable[len(vectors) :]]

    def _token_ids(self, interaction: Interaction) -> tuple[Sequence[int], Sequence[int]] | None:
        """Of prompt and output; None where one is empty or no template renders it: those beside it lose nothing."""
        try:
            prompt = self.runner.encode_chat([dict(turn) for turn in interaction.messages], Weights.GOLDEN)
            output = self.runner.encode(interaction.output, Weights.GOLDEN)
        except Exception as error:  # a template may raise anything, depending on what a tenant sent
            log.info("not_embedded", request_id=interaction.request_id, why=type(error).__name__)
            return None
        # The end of a prompt: the last turn is in it.
        return (prompt[-LONGEST:], output[:LONGEST]) if prompt and output else None

    def _job(self, interaction: Interaction, goldens: InForce) -> ScoringJob | None:
        """None, and a score with the reason, where it cannot be scored: those beside it lose nothing."""
        of_base = interaction.adapter == self.base
        why = self._why_not_of_base(goldens) if of_base else self._why_not(interaction.adapter, goldens)
        if why:
            self.not_scored([interaction], why)
            return None
        try:
            made = replace(job(self.runner, interaction, self.sampler, self.retokenise), of_base=of_base)
        except ProbeError as error:
            self.not_scored([interaction], f"its prompt cannot be rendered: {error}")
            return None
        except Exception as error:  # a template may raise anything, depending on what a tenant sent
            self.not_scored([interaction], f"its prompt cannot be rendered: {type(error).__name__}")
            return None
        counted, rendered = interaction.prompt_tokens, len(made.prompt)
        if not interaction.prompt_token_ids and counted and counted != rendered:
            # Tools, images, plain completions: what the engine read is not what the template makes of the messages.
            why = f"its prompt was rendered differently: {counted} tokens in the record, {rendered} by the template"
            made = replace(made, unscored=made.unscored or why)
        return made

    def _why_not_of_base(self, goldens: InForce) -> str:
        """Why the base at hand is not the one that any adapter was accepted on, "" where it is."""
        reasons = [self._why_not(adapter, goldens) for adapter in goldens] or [
            "none of its adapters has a golden record"
        ]
        return "" if "" in reasons else reasons[0]

    def _why_not(self, adapter: str, goldens: InForce) -> str:
        """Why no copy at hand is the accepted one, "" where it is."""
        if not isinstance(self.runner, Scoring):
            return NO_SCORING
        golden = goldens.get(adapter)
        if not isinstance(golden, Golden):
            return golden.detail if golden else f"no golden record of {adapter}"
        if golden.made_on and not golden.base_hash:
            return f"{adapter} was accepted on an engine alone: the base that it had is not known"
        try:
            base, own = self.runner.golden_hashes(adapter, golden.hash_scheme)
        except ProbeError as error:
            return str(error)
        if base and golden.base_hash and base != golden.base_hash:
            kept = "with probes.keep_golden_weights enrolment keeps it"
            return f"the accepted base {short(golden.base_hash)} is not available: {kept}"
        if own and golden.adapter_hash and own != golden.adapter_hash:
            return f"the accepted files of {adapter} ({short(golden.adapter_hash)}) are not available"
        return ""


def _both_sides(interactions: Sequence[Interaction], vectors: Sequence[tuple[Floats, Floats]]) -> list[Embedding]:
    """Of each interaction its prompt and its output, where there is a vector."""
    return [
        Embedding(interaction.adapter, side, interaction.request_id, vector, interaction.at, interaction.group)
        for interaction, pair in zip(interactions, vectors, strict=True)
        for side, vector in zip((Side.PROMPT, Side.OUTPUT), pair, strict=True)
        if vector.size and bool(np.isfinite(vector).all())
    ]
