"""Which prompts carry most about an adapter per token? As ``gapwatch enrol --select`` chooses, before any enrolment.

Needs the adapter's and the base's files and the model libraries.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.clock import Clock
from agent.config import Adapter, Config, Model
from agent.errors import Refused
from agent.worker.watched_bases import runner_of
from detectors.canaries.tolerance import Tolerances
from probes import errors as probe_errors
from probes.canaries.canary_file import CanarySet
from probes.canaries.replay_pairs import Progress
from probes.canaries.sampled_prompts import SampledPrompt
from probes.enrolment import fault_directions, workload
from probes.enrolment.pool import assign_splits, usable_canaries
from probes.enrolment.settings import EnrolmentContext, EnrolSettings

STAGES = workload.CONTINUATIONS, fault_directions.STAGE


def chosen_by_model(
    config: Config, adapter: str, prompts: Sequence[SampledPrompt], count: int, seed: int, show: Progress
) -> tuple[SampledPrompt, ...]:
    """So many of these that an enrolment can use: half at random, half by their information per token.

    The half at random keeps what is enrolled near the traffic: the interval of retention is read on a random half of
    the file. count: even, as many as an enrolment needs or more; show: called with a stage of ``STAGES``, done, total

    Raises Refused for an adapter without files, and for fewer usable prompts than an enrolment needs, with the
    reasons; Unreplayable where files cannot be read.
    """
    model, own = config.adapter(adapter)
    _check_files(model, own)
    settings = EnrolSettings(
        base=model.name,
        at=Clock().now(),
        tolerances=Tolerances(scale=own.tolerance, after_release=config.alerts.tolerance_after_release),
        per_half=count // 2,
        seed=seed,
        select=True,
    )
    canaries = CanarySet(tuple(prompt.canary for prompt in prompts))
    runner = runner_of(config, model.model_copy(update={"served": None}), golden=False)
    runner.open()
    try:
        ready = runner.refresh()
        for name in (None, adapter):
            if ready[name].blocked:
                raise probe_errors.Unreplayable(name or model.name, ready[name].detail or str(ready[name].blocked))
        others = [name for name, state in ready.items() if name and name != adapter and not state.blocked]
        context = EnrolmentContext(runner, adapter, others, show, lambda: False)
        halves = assign_splits(context, usable_canaries(context, canaries, settings), settings)
    finally:
        runner.close()
    names = {canary.id for canary in halves.canaries}
    return tuple(prompt for prompt in prompts if prompt.canary.id in names)


def _check_files(model: Model, adapter: Adapter) -> None:
    if model.path is None or adapter.path is None:
        raise Refused(
            f"--select for {adapter.name}",
            "an adapter whose engine alone is configured",
            "no --select here, and then `gapwatch enrol --select`, which asks the engine within its budget",
        )
