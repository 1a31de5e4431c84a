"""How far is a serving engine's answer in another mode from what it scores, when nothing is wrong?

Measured once on each canary of the pool, as the adapter is accepted, or on as many of a random order as a budget of
tokens allows. A mode's floor is part of the rule that calls an answer apart, and a mode without one pages nobody
(detectors/canaries/mode_gap.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from detectors.canaries.mode_gap import LEAST_FLOOR, NOISE, TOLERATED
from detectors.canaries.tolerance import Tolerances
from detectors.on_call_text import MODES
from detectors.records import Measurement, Mode
from probes.canaries.mode_cells import LONGEST_BLOCK, answers_in_modes
from probes.canaries.replay_pairs import replay_pair
from probes.enrolment.noise_battery import BenignConfiguration, measured_in
from probes.enrolment.settings import EnrolmentContext
from probes.errors import Unreplayable
from probes.golden.record import Golden, GoldenCanary
from probes.runner import AnswersInModes, BatchShape
from probes.serving.load_limits import LoadLimits

SCORED = BenignConfiguration("scored, beside the other modes", BatchShape())
STAGE = "other modes"
# So much of an adapter's effect may be apart at most, noise included: the loss of one half has to show.
MOST_ALLOWED = 0.5
# Tokens that the rest of the pool may take, read and written: what is asked of an engine in a minute by default.
MOST_TOKENS = LoadLimits().tokens_a_minute
# Of long prompts the record's own lengths tell.
FEW = "too few canaries of the pool have chat turns, so that one which is noisy would be more than is tolerated"


def with_mode_floors(
    context: EnrolmentContext, golden: Golden, sample: Sequence[int], tolerances: Tolerances
) -> tuple[Golden, tuple[str, ...]]:
    """The record with the floor of each mode, and in words which modes have none and why. A runner that is no serving
    engine has no modes.

    sample: indices of canaries that are had in them whatever it costs, a random sample; the others of the pool follow.
    Raises Unreplayable when stopped, and as the runner does.

    Null hypothesis: nothing is wrong, and a further answer is exchangeable with the n that were had in each mode.
    Guarantee: it exceeds a mode's floor with chance 1/(n + 1) at most; and where the whole pool was had, no canary of
    it, and so no share of it, is apart whenever it is had in a mode. What breaks it: canaries that were picked for
    their noise, and what changes at the engine later. Source: docs/mathematics.md#served-modes.
    """
    runner = context.runner
    if not isinstance(runner, AnswersInModes):
        return golden, ()
    context.progress(STAGE, 0, 1)
    measurements, facts = _in_modes(runner, context, had_in_modes(golden, sample))
    floors = {mode: floor for mode in Mode if (floor := _floor(measurements, mode)) is not None}
    few = [mode for mode, n in _canaries_of_parts(golden.pool).items() if n * tolerances.share < 1]
    too_few = [f"what it answers {MODES[mode]}: {FEW}" for mode in few if mode in floors and mode is not Mode.LONG]
    floors = {mode: floor for mode, floor in floors.items() if mode not in few}
    noisy = [mode for mode, floor in floors.items() if not _is_usable(floor, tolerances, context.adapter)]
    words = [f"what it answers {MODES[mode]}: it is apart from what is scored by {floors[mode]:.0%}" for mode in noisy]
    kept = {mode: floor for mode, floor in floors.items() if mode not in noisy}
    canaries = tuple(_with_floors(canary, kept) for canary in golden.canaries)
    context.progress(STAGE, 1, 1)
    return replace(golden, canaries=canaries), (*facts, *too_few, *words)


def had_in_modes(golden: Golden, sample: Sequence[int]) -> list[GoldenCanary]:
    """The sample, and the others of the pool for as long as the tokens last: each is scored under two names, and
    written twice."""
    had = [golden.canaries[index] for index in sample]
    others = [canary for canary in golden.pool if canary not in had]
    tokens = 0
    for index in np.random.default_rng(len(others)).permutation(len(others)).tolist():
        tokens += 4 * (len(others[index].prompt) + len(others[index].forced))
        if tokens > MOST_TOKENS:
            break
        had.append(others[index])
    return had


def _in_modes(
    runner: AnswersInModes, context: EnrolmentContext, canaries: Sequence[GoldenCanary]
) -> tuple[list[Measurement], tuple[str, ...]]:
    scored = measured_in(context.runner, context.adapter, canaries, SCORED, context.stop)
    by_name = {m.comparison.reference.canary: m for m in scored}
    pairs = [replay_pair(canary, context.adapter) for canary in canaries]
    cells = answers_in_modes(runner, pairs, by_name, dict.fromkeys(by_name, 1), 0, context.stop)
    if context.stop():
        raise Unreplayable("enrolment", "stopped while the engine was had answer in other modes")
    if not cells.measurements and not cells.facts and runner.modes():
        return [], ("what the engine answers in other modes: it was away while that was measured",)
    return cells.measurements, cells.facts


def _floor(measurements: Iterable[Measurement], mode: Mode) -> float | None:
    """The largest distance in this mode; None where nothing was had in it."""
    shifts = [m.mode_shift for m in measurements if mode in m.comparison.modes]
    return max(LEAST_FLOOR, *shifts) if shifts else None


def _canaries_of_parts(pool: Sequence[GoldenCanary]) -> dict[Mode, int]:
    """How many canaries can be had in the modes that only a part of the pool has. The null of such a mode is of that
    part: a share of few canaries is either 0 or more than is tolerated."""
    chats = sum(bool(canary.messages) for canary in pool)
    of_chat = {Mode.CHAT: chats} if chats < len(pool) else {}
    return {Mode.LONG: sum(len(canary.prompt) > LONGEST_BLOCK for canary in pool), **of_chat}


def _is_usable(floor: float, tolerances: Tolerances, adapter: str) -> bool:
    return TOLERATED * tolerances.allowed_deviation(adapter) + NOISE * floor <= MOST_ALLOWED


def _with_floors(canary: GoldenCanary, floors: dict[Mode, float]) -> GoldenCanary:
    return replace(canary, reference=replace(canary.reference, mode_floors=floors))
