"""Which faults are replayed after an alarm, in which order, and when none is."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from detectors.canaries.retention import measure
from detectors.records import Fault, FaultKind, Identity, Recorded, Round
from probes.canaries.round import Scheduled, replay_base_round
from probes.causes.likely_faults import MOST_OTHERS, likely_faults
from probes.golden.record import Golden
from probes.runner import BITS, GROUPED
from probes.runners import memory
from probes.runners.memory import PARTS
from tests.probes.worlds import enrolled, never, opened


@lru_cache
def golden() -> Golden:
    return enrolled("alpha")


def round_under(fault: str, base: str = "none") -> Round:
    runner = opened()
    runner.inject("alpha", fault)
    runner.inject(None, base)
    done = replay_base_round(runner, {"alpha": golden()}, Scheduled("toy", 0, 0.0, 512, seed=1), never)
    assert done is not None
    return done.members[0]


def test_each_kind_is_there_likely_others_before_blocks_and_no_bits_while_the_base_stands() -> None:
    faults = likely_faults(opened(), golden(), round_under("with:beta"))
    assert faults[:2] == (Fault(FaultKind.PREFILLED, ""), Fault(FaultKind.WARMED, ""))
    assert faults[2:12] == tuple(
        Fault(kind, f"{other}{part}")
        for other in ("beta", "gamma")
        for kind, part in (
            (FaultKind.STACKED, ""), (FaultKind.STACKED, "*0.5"), (FaultKind.AVERAGED, ""),
            (FaultKind.AVERAGED, "*0.25"), (FaultKind.WARMED, ""),
        )
    )  # fmt: skip
    assert faults[12:] == tuple(Fault(FaultKind.WITHOUT, part) for part in PARTS)


def test_bits_are_replayed_where_the_base_moved_by_its_answers_or_by_its_hash() -> None:
    bits = {Fault(FaultKind.QUANTISED, name) for name in (*BITS, *GROUPED)}
    assert bits <= set(likely_faults(opened(), golden(), round_under("none", "base_swapped:0.3")))
    other_hash = replace(round_under("scale:0.5"), identity=Identity("sha256:old", "sha256:new"))
    assert bits <= set(likely_faults(opened(), golden(), other_hash))


def test_no_fault_is_replayed_where_nothing_is_left_or_none_can_be() -> None:
    assert likely_faults(opened(), golden(), round_under("not_applied")) == ()

    class Unbreakable(memory.Runner):
        blocks = None  # type: ignore[assignment]

    assert likely_faults(Unbreakable(memory.Config()), golden(), round_under("scale:0.5")) == ()


def test_a_fault_with_a_recorded_signature_is_not_replayed_again() -> None:
    """Records of earlier versions hold signatures."""
    recorded = Fault(FaultKind.WITHOUT, PARTS[0])
    canaries = tuple(
        replace(c, reference=replace(c.reference, faults={recorded: Recorded(c.reference.golden_base.log_probs)}))
        for c in golden().canaries
    )
    wanted = set(likely_faults(opened(), golden(), round_under("scale:0.5")))
    assert set(likely_faults(opened(), replace(golden(), canaries=canaries), round_under("scale:0.5"))) == (
        wanted - {recorded}
    )


def test_of_many_others_the_few_that_the_answers_resemble_most_are_mixed_in() -> None:
    """Ten further adapters, one of which is on top of this one: ten would take ten times the replays of one."""
    round = round_under("with:beta")
    rows = []
    for m in round.measurements:
        known = m.comparison.reference
        strangers = {f"s{n}": known.curve[2] for n in range(10)} | {"alpha@0123456789ab": known.others["beta"]}
        reference = replace(known, others={**strangers, **known.others})
        rows.append(measure(replace(m.comparison, reference=reference)))
    faults = likely_faults(opened(), golden(), replace(round, measurements=tuple(rows)))
    stacked = [fault.name for fault in faults if fault.kind is FaultKind.STACKED and "*" not in fault.name]
    assert len(stacked) == MOST_OTHERS and stacked[0] == "beta" and not any("@" in name for name in stacked)


def test_of_a_composition_each_member_is_taken_out_first() -> None:
    members = [{"adapter": "beta", "weight": 0.8}, {"adapter": "gamma", "weight": -0.3}]
    composed = replace(golden(), composition={"members": members})
    faults = likely_faults(opened(), composed, round_under("with:beta"))
    assert faults[:2] == (Fault(FaultKind.TAKEN_AWAY, "beta*0.8"), Fault(FaultKind.TAKEN_AWAY, "beta*0.4"))
    assert faults[2:] == likely_faults(opened(), golden(), round_under("with:beta"))
