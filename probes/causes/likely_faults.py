"""Which faults are worth a replay after an alarm, the cheap and likely ones first?

The order and the bounds decide what is replayed before time is up, and with it which causes can be named; that a
signature explains the answers is decided later, by all that there are (detectors/diagnosis/signature_matching.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.canaries.tolerance import base_moved
from detectors.diagnosis.name_encoding import is_earlier_version, mixture
from detectors.diagnosis.resembled_adapter import likeliest_others
from detectors.diagnosis.root_cause import diagnosed_canaries, is_nothing_left, on_accepted_ids
from detectors.records import Fault, FaultKind, Round
from probes.errors import Unreplayable, Unsupported
from probes.golden.record import Golden
from probes.runner import BITS, GROUPED, Breakable, Runner, Weights

# Shares of another adapter; between them and the healthy end the diagnosis interpolates along a curve
# (detectors/diagnosis/shared_parameter_fits.py). With the whole share alone, mixtures in between left 1 to 55 % of
# their energy unexplained, with these shares .3 to 3 %.
MIXES = {FaultKind.STACKED: ("", "*0.5"), FaultKind.AVERAGED: ("", "*0.25")}
# Shares of a member's weight that are taken out of a composition.
TAKEN = (1.0, 0.5)
# Other adapters that are mixed in, of those that the present answers resemble most.
MOST_OTHERS = 4


def may_say_more(round: Round) -> bool:
    """Could signatures name the cause of this round better? Not where nothing is left of the adapter or nothing was
    measured."""
    canaries = diagnosed_canaries(on_accepted_ids(round))
    return bool(canaries) and not is_nothing_left(canaries)


def likely_faults(runner: Runner, golden: Golden, round: Round) -> tuple[Fault, ...]:
    """The faults to replay for this round of the record's adapter, without those that the record has signatures of.

    Of a composition each member taken out, or half of it; the prompt prefilled without the adapter, or its cache
    computed by the base; the likeliest other adapters added, averaged in, or with their cache; each block left out,
    layers last; and where the base has moved, fewer bits.
    Empty where no signature can say more: nothing is left of the adapter, or the runner cannot inject faults.
    """
    if not isinstance(runner, Breakable) or not may_say_more(round):
        return ()
    canaries = diagnosed_canaries(on_accepted_ids(round))
    others = [name for name in likeliest_others(canaries, len(canaries[0].comparison.reference.others))
              if not is_earlier_version(name, golden.adapter)][:MOST_OTHERS]  # fmt: skip
    moved = round.identity.base_moved or base_moved(round, golden.tolerances)
    bits = [Fault(FaultKind.QUANTISED, width) for width in (*BITS, *GROUPED)] if moved else []
    taken = [_taken(name, weight * share) for name, weight in golden.weights.items() if weight > 0 for share in TAKEN]
    shared = [Fault(FaultKind.PREFILLED, ""), Fault(FaultKind.WARMED, "")]
    layers, larger = _blocks(runner, golden.adapter)
    wanted = (*taken, *shared, *_with_others(others), *larger, *bits, *layers)
    return tuple(fault for fault in wanted if fault not in golden.faults)


def _taken(member: str, strength: float) -> Fault:
    return mixture(FaultKind.TAKEN_AWAY, member, f"*{strength:g}")


def _with_others(others: Sequence[str]) -> list[Fault]:
    """Of each other adapter in turn: on top, averaged, and its cache."""
    faults = []
    for other in others:
        faults += [mixture(kind, other, part) for kind, parts in MIXES.items() for part in parts]
        faults.append(Fault(FaultKind.WARMED, other))
    return faults


def _blocks(runner: Breakable, adapter: str) -> tuple[list[Fault], list[Fault]]:
    """Single layers, and modules and halves of layers; none where the accepted adapter is not at hand."""
    try:
        faults = [Fault(FaultKind.WITHOUT, block) for block in runner.blocks(adapter, Weights.GOLDEN)]
    except (Unreplayable, Unsupported):
        return [], []
    layers = [fault for fault in faults if fault.name.startswith("layers.")]
    return layers, [fault for fault in faults if fault not in layers]
