"""Sampled responses on their way through a runner: scored by what was accepted, embedded, or told why not.

Only the accepted base and adapter may score: a copy that has another hash than the golden record's would call a fault
healthy, or a release that was meant a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.records import Interaction
from detectors.records import Embedding, Side, TrafficScore
from probes.errors import ProbeError
from probes.golden import Golden, Refusal, short
from probes.replay import Runner, Stop
from probes.sampler import Sampling
from probes.scoring import Asking, Exchange, Job, Scoring, job, not_scored, traffic_score

NO_SCORING = "the runner cannot score responses"
Held = Mapping[str, Golden | Refusal]


@dataclass(slots=True)
class Responses:
    """Of one base. asking: how responses are scored; sampler: of the deployment, for records that do not tell theirs

    kept: hash of an accepted adapter -> the folder with its files, None where they were not kept
    scores: since they were last taken, in the order in which they came
    """

    runner: Runner
    asking: Asking
    sampler: Sampling | None = None
    kept: Callable[[str], Path | None] = lambda _: None
    scores: list[TrafficScore] = field(default_factory=list)

    def take(self) -> tuple[TrafficScore, ...]:
        """What was scored since the last time."""
        scores, self.scores = tuple(self.scores), []
        return scores

    def accepted(self, golden: Golden) -> None:
        """Another record is in force for an adapter: its copy scores from now on; what waits was about the former."""
        self.scores = [score for score in self.scores if score.adapter != golden.adapter]
        folder = self.kept(golden.adapter_hash)
        if isinstance(self.runner, Scoring) and folder is not None:
            self.runner.accept_adapter(golden.adapter, str(folder))

    def not_scored(self, batch: Sequence[Interaction], why: str) -> None:
        """Nobody could: each is told with the reason, because silence would look like no traffic."""
        self.scores += [not_scored(one.adapter, one.request_id, one.pod, one.at, why) for one in batch]

    def score(self, batch: Sequence[Interaction], held: Held, stop: Stop) -> tuple[list[Embedding], list[Interaction]]:
        """Embeddings of the same passes, and those that were not looked at because ``stop()`` turned true."""
        jobs = [found for one in batch if (found := self._job(one, held)) is not None]
        if not jobs:
            return [], []
        runner = self.runner
        assert isinstance(runner, Scoring)
        try:
            answers = runner.score([made for _, made in jobs], stop, self.asking)
        except ProbeError as error:
            self.not_scored([one for one, _ in jobs], str(error))
            return [], []
        embedded = []
        for answer in answers:
            self.scores.append(traffic_score(answer, self.asking))
            for side, vector in zip((Side.PROMPT, Side.OUTPUT), (answer.prompt, answer.output), strict=True):
                if vector.size and bool(np.isfinite(vector).all()):
                    made = answer.job
                    embedded.append(Embedding(made.adapter, side, made.request_id, vector, made.at))
        return embedded, [one for one, _ in jobs[len(answers) :]]

    def _job(self, one: Interaction, held: Held) -> tuple[Interaction, Job] | None:
        """One record that no template renders or that nobody can score must not cost those beside it."""
        why = self._why_not(one.adapter, held)
        if why:
            self.not_scored([one], why)
            return None
        try:
            made = self._made(one)
        except Exception as error:  # templates raise what they like, by what a tenant sent
            self.not_scored([one], f"its prompt cannot be rendered: {type(error).__name__}")
            return None
        if not one.prompt_token_ids and one.prompt_tokens and one.prompt_tokens != len(made.prompt):
            # Tools, images, plain completions: what the engine read is not what the template makes of the messages.
            told = f"its prompt was rendered otherwise: {one.prompt_tokens} tokens, {len(made.prompt)} by the template"
            self.not_scored([one], told)
            return None
        return one, made

    def _made(self, one: Interaction) -> Job:
        told = Exchange(
            adapter=one.adapter,
            request_id=one.request_id,
            messages=one.messages,
            output=one.output,
            sampling=one.sampling,
            prompt_ids=one.prompt_token_ids,
            output_ids=one.output_token_ids,
            pod=one.pod,
            at=one.at,
        )
        return job(self.runner, told, self.sampler)

    def _why_not(self, adapter: str, held: Held) -> str:
        """Why no copy at hand is the accepted one, "" where it is."""
        if not isinstance(self.runner, Scoring):
            return NO_SCORING
        golden = held.get(adapter)
        if not isinstance(golden, Golden):
            return golden.detail if golden else f"no golden record of {adapter}"
        try:
            base, own = self.runner.golden_hashes(adapter)
        except ProbeError as error:
            return str(error)
        if base and golden.base_hash and base != golden.base_hash:
            return (
                f"the accepted base {short(golden.base_hash)} is not at hand: keep_golden_weights at enrolment keeps it"
            )
        if own and golden.adapter_hash and own != golden.adapter_hash:
            return f"the accepted files of {adapter} ({short(golden.adapter_hash)}) are not at hand"
        return ""
