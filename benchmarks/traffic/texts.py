"""Where only the text of a response is recorded: how many are set aside, and how many would be bet on by other ids?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.figures import Figure, at_most, context
from benchmarks.traffic.served import Cell, jobs
from probes.runner import Weights
from probes.runners.in_process import Runner
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import ScoringJob
from probes.scoring.tokenise import SET_ASIDE, job

LEAST = 96  # responses of one adapter by one sampler: of fewer, a share of one in ten says little


def figures(runner: Runner, cells: Sequence[Cell]) -> Iterator[Figure]:
    """Each healthy response from its text, its finish reason and the number of its tokens alone."""
    aside, strange, total, worst = 0, 0, 0, 0.0
    for cell in cells:
        written = jobs(runner, cell)
        made = [job(runner, _as_text_alone(runner, response)) for response in written]
        here = sum(bool(retokenised.unscored) for retokenised in made)
        strange += sum(
            not new.unscored and new.output != drawn.output for new, drawn in zip(made, written, strict=True)
        )
        aside, total = aside + here, total + len(written)
        worst = max(worst, here / len(written)) if len(written) >= LEAST else worst
    share = "share of healthy responses"
    yield at_most(f"texts without ids, {share} set aside, of {total}", 100 * aside / total, "%", 100 * SET_ASIDE)
    yield context(f"texts without ids, {share} set aside, worst adapter at temperature 1", 100 * worst, "%")
    yield context(f"texts without ids, {share} scored by other ids than were drawn", 100 * strange / total, "%")


def _as_text_alone(runner: Runner, response: ScoringJob) -> Interaction:
    ends = runner.loaded.golden_model().ends
    ended = bool(response.output) and response.output[-1] in ends
    text = runner.decode(response.output[: len(response.output) - ended], Weights.GOLDEN)
    return Interaction(
        adapter=response.adapter,
        request_id=response.request_id,
        at=response.at,
        base="",
        pod=response.pod,
        messages=(),
        output=text,
        sampling={"temperature": 1.0},
        prompt_tokens=0,
        prompt_token_ids=response.prompt,
        topic="",
        partition=0,
        offset=0,
        output_tokens=len(response.output),
        finish_reason="stop" if ended else "length",
    )
