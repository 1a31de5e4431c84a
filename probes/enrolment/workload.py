"""How much work is an enrolment, before it begins? In replays of one canary, by stage; for progress alone."""

from __future__ import annotations

from probes.enrolment import noise_battery, scale_curve
from probes.enrolment.other_adapters import MOST
from probes.enrolment.settings import EnrolSettings
from probes.runner import Runner

CONTINUATIONS = "continuations"  # the stage of pool.py
# A canary is continued, which costs about as much as two replays, and answered by adapter and base.
OF_A_CONTINUATION = 4
# Of the strengths that may be added to a curve, about so many are.
ADDED = 4


def replays_by_stage(runner: Runner, settings: EnrolSettings, others: int) -> dict[str, int]:
    """Stage -> replays, in the order of the stages, for one adapter of so many others.

    runner: open
    """
    canaries = 2 * settings.per_half
    strengths = len({*scale_curve.ALWAYS, *scale_curve.FAR} - {0.0, 1.0}) + ADDED
    configurations = len(settings.battery or noise_battery.configurations(runner))
    return {
        CONTINUATIONS: OF_A_CONTINUATION * canaries,
        scale_curve.STAGE: (strengths + min(others, MOST)) * canaries,
        noise_battery.STAGE: 2 * configurations * min(settings.battery_canaries, canaries),
    }
