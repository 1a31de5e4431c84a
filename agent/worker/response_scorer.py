"""Sampled responses on their way through a runner: scored by what was accepted, embedded, or told why not.

Only the accepted base and adapter may score: a copy that has another hash than the golden record's would call a fault
healthy, or a release that was meant a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog

from agent.records import PartitionAdapter
from detectors.records import Floats
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
from probes.scoring.token_distribution import SamplingParameters
from probes.scoring.tokenise import Retokenise, job

log = structlog.get_logger(__name__)

FAILED = "scoring failed: the agent's log names the error"
NO_SCORING = "the runner cannot score responses"
# Tokens of either side that are embedded: one sampled book must not keep the canaries waiting.
LONGEST = 512
Held = Mapping[str, Golden | Unmonitorable]


class ResponseResults(NamedTuple):
    """upto: of each stretch the offset after the last record in here."""

    scores: tuple[TrafficScore, ...]
    embeddings: tuple[Embedding, ...]
    upto: Mapping[PartitionAdapter, int]


@dataclass(slots=True)
class ResponseScorer:
    """Of one base. What comes of an interaction is kept together until it is taken, so that a state that is saved in
    between holds all of it or nothing.

    asking: how responses are scored, None where they are embedded and no more
    sampler: of the deployment, for records that do not tell theirs; retokenise: what becomes of outputs without ids
    kept: golden record -> the folder with the files of its adapter, None where they were not kept
    before: golden record -> likewise of the version that was accepted before
    scores, embeddings, upto: since they were last taken, in the order in which they came
    """

    runner: Runner
    asking: ScoringOptions | None = None
    sampler: SamplingParameters | None = None
    retokenise: Retokenise = Retokenise.COUNTED
    kept: Callable[[Golden], Path | None] = lambda _: None
    before: Callable[[Golden], Path | None] = lambda _: None
    scores: list[TrafficScore] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)
    upto: dict[PartitionAdapter, int] = field(default_factory=dict)

    def take(self) -> ResponseResults:
        """What was scored and embedded since the last time."""
        taken = ResponseResults(tuple(self.scores), tuple(self.embeddings), self.upto)
        self.scores, self.embeddings, self.upto = [], [], {}
        return taken

    def accepted(self, golden: Golden) -> None:
        """Another record is in force for an adapter: its copy scores from now on, and the version before it is asked
        about."""
        if not isinstance(self.runner, Scoring):
            return
        if (folder := self.kept(golden)) is not None:
            self.runner.accept_adapter(AdapterVersion(golden.adapter), str(folder))
        earlier = self.before(golden)
        previous = AdapterVersion(golden.adapter, previous=True)
        self.runner.accept_adapter(previous, None if earlier is None else str(earlier))

    def not_scored(self, batch: Sequence[Interaction], why: str) -> None:
        """Nobody could: each is told with the reason, because silence would look like no traffic."""
        if self.asking is None:
            return
        self._note(batch)
        self.scores += [not_scored(one.adapter, one.request_id, one.pod, one.at, why) for one in batch]

    def hear(self, batch: Sequence[Interaction], held: Held, stop: Stop) -> list[Interaction]:
        """Scored and embedded; back come those that were not looked at because ``stop()`` turned true."""
        return self._embedded(batch, stop) if self.asking is None else self._scored(self.asking, batch, held, stop)

    def _note(self, done: Sequence[Interaction]) -> None:
        for one in done:
            for topic, partition, offset in one.records:
                key = topic, partition, one.adapter
                self.upto[key] = max(offset + 1, self.upto.get(key, 0))

    def _scored(
        self, asking: ScoringOptions, batch: Sequence[Interaction], held: Held, stop: Stop
    ) -> list[Interaction]:
        """Scores, and embeddings of the same passes."""
        jobs = [(found[0], cut(found[1], asking)) for one in batch if (found := self._job(one, held)) is not None]
        if not jobs:
            return []
        runner = self.runner
        assert isinstance(runner, Scoring)
        try:
            answers = runner.score([made for _, made in jobs], stop, asking)
        except Exception as error:  # whatever it is: silence would read as a night without traffic
            log.warning("scoring_failed", error=type(error).__name__)
            self.not_scored([one for one, _ in jobs], str(error) if isinstance(error, ProbeError) else FAILED)
            return []
        self.scores += [traffic_score(answer, asking) for answer in answers]
        done, left = [one for one, _ in jobs[: len(answers)]], [one for one, _ in jobs[len(answers) :]]
        self._note(done)
        self.embeddings += _both_sides(done, [(answer.prompt, answer.output) for answer in answers])
        return left

    def _embedded(self, batch: Sequence[Interaction], stop: Stop) -> list[Interaction]:
        usable = [(one, text) for one in batch if (text := self._rendered(one)) is not None]
        vectors = self.runner.embed([text for _, text in usable], stop)
        done, left = [one for one, _ in usable[: len(vectors)]], [one for one, _ in usable[len(vectors) :]]
        self._note(done)
        self.embeddings += _both_sides(done, vectors)
        return left

    def _rendered(self, one: Interaction) -> tuple[Sequence[int], Sequence[int]] | None:
        """Token ids of both sides, None where one is empty or no template renders it: that costs nobody beside it."""
        try:
            prompt = self.runner.encode_chat([dict(turn) for turn in one.messages], Weights.GOLDEN)
            output = self.runner.encode(one.output, Weights.GOLDEN)
        except Exception as error:  # templates raise what they like, by what a tenant sent
            log.info("not_embedded", request_id=one.request_id, why=type(error).__name__)
            return None
        # The end of a prompt: the last turn is in it.
        return (prompt[-LONGEST:], output[:LONGEST]) if prompt and output else None

    def _job(self, one: Interaction, held: Held) -> tuple[Interaction, ScoringJob] | None:
        """One record that no template renders or that nobody can score must not cost those beside it."""
        why = self._why_not(one.adapter, held)
        if why:
            self.not_scored([one], why)
            return None
        try:
            made = self._made(one)
        except ProbeError as error:
            self.not_scored([one], f"its prompt cannot be rendered: {error}")
            return None
        except Exception as error:  # templates raise what they like, by what a tenant sent
            self.not_scored([one], f"its prompt cannot be rendered: {type(error).__name__}")
            return None
        if not one.prompt_token_ids and one.prompt_tokens and one.prompt_tokens != len(made.prompt):
            # Tools, images, plain completions: what the engine read is not what the template makes of the messages.
            told = f"its prompt was rendered otherwise: {one.prompt_tokens} tokens, {len(made.prompt)} by the template"
            made = replace(made, unscored=made.unscored or told)
        return one, made

    def _made(self, one: Interaction) -> ScoringJob:
        return job(self.runner, one, self.sampler, self.retokenise)

    def _why_not(self, adapter: str, held: Held) -> str:
        """Why no copy at hand is the accepted one, "" where it is."""
        if not isinstance(self.runner, Scoring):
            return NO_SCORING
        golden = held.get(adapter)
        if not isinstance(golden, Golden):
            return golden.detail if golden else f"no golden record of {adapter}"
        try:
            base, own = self.runner.golden_hashes(adapter, golden.hash_scheme)
        except ProbeError as error:
            return str(error)
        if base and golden.base_hash and base != golden.base_hash:
            return (
                f"the accepted base {short(golden.base_hash)} is not at hand: keep_golden_weights at enrolment keeps it"
            )
        if own and golden.adapter_hash and own != golden.adapter_hash:
            return f"the accepted files of {adapter} ({short(golden.adapter_hash)}) are not at hand"
        return ""


def _both_sides(interactions: Sequence[Interaction], vectors: Sequence[tuple[Floats, Floats]]) -> list[Embedding]:
    """Of each interaction its prompt and its output, where there is a vector."""
    return [
        Embedding(one.adapter, side, one.request_id, vector, one.at, one.group)
        for one, pair in zip(interactions, vectors, strict=True)
        for side, vector in zip((Side.PROMPT, Side.OUTPUT), pair, strict=True)
        if vector.size and bool(np.isfinite(vector).all())
    ]
