"""The confusion table of the causes in the toy world: twelve causes, three severities, and faults nobody recorded.

Every answer carries kernel noise within the recorded floor. The shares asserted here are of the toy world, whose faults
are recorded as they come; benchmarks say what is reached on models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.remediation import quantised
from detectors.diagnosis.root_cause import name_cause
from detectors.records import Cause, FaultKind, Round
from tests.detectors.faulty_answers import CANARIES, LAYERS, MODULES, forget, recorded_round, replica_round
from tests.detectors.synthetic import ADAPTERS

T = Tolerances()
# Mild, middling, severe; "*" stands for another adapter than the one that is looked at.
BY_LOG_PROBABILITIES = {
    Cause.ADAPTER_NOT_APPLIED: (("not_applied",), ("scale:0.005",), ("scale:0.01",)),
    Cause.BASE_SWAPPED: (("base:0.05",), ("base:0.2",), ("base:0.8", "merged_base:*")),
    Cause.BASE_SWAPPED_AND_ADAPTER_LOST: (("base_and_lost:0.05",), ("base_and_lost:0.2",), ("base_and_lost:0.8",)),
    Cause.WRONG_STRENGTH: (("scale:0.9", "scale:1.1"), ("scale:0.7", "scale:1.4"), ("scale:0.125", "scale:4")),
    Cause.WRONG_ADAPTER: (("version:v2",), ("version:v1",), ("adapter:*",)),
    Cause.PARTLY_APPLIED: (
        tuple(f"without:{layer}" for layer in LAYERS),
        ("without:q_proj", "without:v_proj", "first_token"),
        ("without:mlp", "only_first_token", "prefilled:"),
    ),
    Cause.QUANTISED_BASE: (("quantised:6",), ("quantised:4",), ("quantised:3",)),
    Cause.SAMPLING_CHANGED: (
        ("temperature:0.9", "temperature_of_all:0.9"),
        ("temperature:1.2", "temperature_of_all:1.2"),
        ("temperature:1.6", "temperature_of_all:1.6"),
    ),
    Cause.COMPOSITION_INTERFERENCE: (
        ("stacked:*~0.3", "averaged:*~0.15"),
        ("stacked:*~0.75", "averaged:*~0.35"),
        ("stacked:*", "stacked:*~1.25", "averaged:*"),
    ),
}
# What no signature was recorded for, and nothing moved the base: a fault left out of the record, or one of no kind.
OPEN_SET = (
    *((f"without:{module}", FaultKind.WITHOUT, "") for module in MODULES),
    *((f"without:{layer}", FaultKind.WITHOUT, layer) for layer in LAYERS),
    *((fault, FaultKind.STACKED, "") for fault in ("stacked:*", "stacked:*~0.5", "stacked:stranger")),
    *((fault, FaultKind.AVERAGED, "") for fault in ("averaged:*", "averaged:stranger")),
    *((fault, FaultKind.OTHER_ADAPTER, "") for fault in ("version:v1", "version:v2", "adapter:*", "adapter:stranger")),
    *((fault, FaultKind.WARMED, "") for fault in ("dropout", "shard", "negated", "junk")),
)


def cases(fault: str) -> list[tuple[str, str]]:
    """(adapter, fault): one for every adapter, the star replaced by the next one; "~0.3" is a part of it."""
    following = dict(zip(ADAPTERS, (*ADAPTERS[1:], ADAPTERS[0]), strict=True))
    return [(adapter, fault.replace("*", following[adapter]).replace("~", "*")) for adapter in ADAPTERS]


def found(round: Round) -> Cause:
    return name_cause(round, T)[0]


@pytest.mark.parametrize("severity", [0, 1, 2], ids=["mild", "middling", "severe"])
def test_confusion_table_of_what_log_probabilities_tell(severity: int) -> None:
    table = Counter(
        (truth, found(recorded_round(*case)))
        for truth, faults in BY_LOG_PROBABILITIES.items()
        for fault in faults[severity]
        for case in cases(fault)
    )
    wrong = {pair: n for pair, n in table.items() if pair[0] is not pair[1]}
    assert sum(wrong.values()) <= 0.01 * table.total(), wrong
    for truth in BY_LOG_PROBABILITIES:
        of_truth = sum(n for (cause, _), n in table.items() if cause is truth)
        assert table[truth, truth] >= 0.95 * of_truth, wrong


def test_the_block_that_is_missing_is_named() -> None:
    blocks = [*MODULES, *LAYERS]
    told = {(a, b): name_cause(recorded_round(a, f"without:{b}"), T)[1] for a in ADAPTERS for b in blocks}
    named = [f"as it does without {block} (" in what for (_, block), what in told.items()]
    assert sum(named) >= 0.95 * len(named), told


@pytest.mark.parametrize("fault", ["not_applied", "adapter:*", "scale:0.5", "without:mlp", "base:0.8", "quantised:3"])
@pytest.mark.parametrize("of", [2, 4, 8])
def test_one_replica_is_told_by_two_heaps_of_canaries_or_by_the_pods(fault: str, of: int) -> None:
    for adapter, named in cases(fault):
        heaps, pods = (name_cause(replica_round(adapter, named, of, names), T) for names in (False, True))
        assert (heaps[0], pods[0]) == (Cause.ONE_REPLICA, Cause.ONE_REPLICA), (heaps, pods)
        assert f"{CANARIES // of} of {CANARIES} canaries" in heaps[1] and "only pod-0" in pods[1] and "pod-0" in pods[2]


def test_a_replica_whose_fault_is_of_no_recorded_kind_is_told_by_its_pod_and_not_by_heaps() -> None:
    for adapter in ADAPTERS:
        assert found(replica_round(adapter, "shard", 4, named=False)) is Cause.UNKNOWN
        assert found(replica_round(adapter, "shard", 4, named=True)) is Cause.ONE_REPLICA


@pytest.mark.parametrize("far", ["0.2", "0.5", "1.0"])
def test_a_template_is_told_by_the_accepted_ids(far: str) -> None:
    for adapter in ADAPTERS:
        rendered = recorded_round(adapter, f"rendered:{far}")
        raw = recorded_round(adapter, "healthy").measurements
        assert found(replace(rendered, raw=raw)) is Cause.TEMPLATE_CHANGED
        assert found(rendered) is not Cause.TEMPLATE_CHANGED


def test_a_fault_under_a_changed_template_is_named_from_the_accepted_ids() -> None:
    broken = recorded_round("router", "scale:0.5")
    cause, what, _ = name_cause(replace(recorded_round("router", "rendered:0.5"), raw=broken.measurements), T)
    assert cause is Cause.WRONG_STRENGTH and f"{CANARIES} prompts render to other token ids" in what


@pytest.mark.parametrize("part", ["", "*0.6", "*1"])
@pytest.mark.parametrize("tenant, told", [("rewriter", "rewriter"), ("", "the base")])
def test_a_shared_cache_is_told_by_the_warm_replay_and_names_the_previous_tenant(
    part: str, tenant: str, told: str
) -> None:
    """The first is recorded; the others go further in the same direction."""
    for adapter in ("router", "extractor"):
        warm = recorded_round(adapter, f"warmed:{tenant}{part}").measurements
        cause, what, do = name_cause(replace(recorded_round(adapter, "healthy"), warm=warm), T)
        assert cause is Cause.SHARED_CACHE and "1.00 on a cold one" in what and "prefix" in do
        assert f"goes towards {told}" in what


def test_even_fresh_prompts_may_be_answered_from_anothers_cache() -> None:
    cause, what, _ = name_cause(recorded_round("router", "warmed:rewriter"), T)
    assert cause is Cause.SHARED_CACHE and "rewriter" in what and "cold" not in what


def test_a_warm_replay_like_the_cold_one_is_no_shared_cache() -> None:
    healthy = recorded_round("router", "healthy")
    assert found(replace(healthy, warm=healthy.measurements)) is Cause.UNKNOWN
    broken = recorded_round("router", "without:mlp")
    assert found(replace(broken, warm=broken.measurements)) is Cause.PARTLY_APPLIED


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_hash_of_the_base_decides_what_its_answers_cannot(adapter: str) -> None:
    """Nothing is left: not applied, or on a base that was re-parameterised. A block missing: likewise."""
    assert found(recorded_round(adapter, "not_applied")) is Cause.ADAPTER_NOT_APPLIED
    assert found(recorded_round(adapter, "not_applied", moved=True)) is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert found(recorded_round(adapter, "without:mlp")) is Cause.PARTLY_APPLIED
    cause, what, _ = name_cause(recorded_round(adapter, "without:mlp", moved=True), T)
    assert cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST and "as if without mlp" in what


def test_the_bases_endpoint_tells_a_stacked_adapter_from_a_merged_one() -> None:
    """What is served under the adapter's name is the same in both."""
    assert found(recorded_round("router", "stacked:rewriter")) is Cause.COMPOSITION_INTERFERENCE
    cause, what, do = name_cause(recorded_round("router", "merged_base:rewriter"), T)
    assert cause is Cause.BASE_SWAPPED and "the base itself answers as rewriter does" in what and "rewriter" in do


def test_faults_that_nobody_recorded_are_unknown() -> None:
    seen = [
        (fault, adapter, found(forget(recorded_round(adapter, named), kind, name)))
        for fault, kind, name in OPEN_SET
        for adapter, named in cases(fault)
    ]
    wrong = [row for row in seen if row[2] is not Cause.UNKNOWN]
    assert len(wrong) <= 0.01 * len(seen), wrong


@pytest.mark.parametrize("bits", ["3", "4", "5", "6"])
def test_a_base_of_unrecorded_bits_is_another_base_and_no_other_bits(bits: str) -> None:
    for adapter in ADAPTERS:
        assert (
            found(forget(recorded_round(adapter, f"quantised:{bits}"), FaultKind.QUANTISED, bits)) is Cause.BASE_SWAPPED
        )


def test_the_recipe_of_the_quantised_base_is_in_the_words() -> None:
    seen = recorded_round("router", "quantised:4")
    assert "answers as its 4-bit copy does (100 % " in name_cause(seen, T)[1]
    assert quantised("router", ["4/32"], seen.measurements, seen.identity, 0.0)[0].count("4-bit (groups of 32)") == 1


def test_what_is_within_the_kernels_noise_has_no_name() -> None:
    for adapter in ADAPTERS:
        assert found(recorded_round(adapter, "healthy")) is Cause.UNKNOWN
        assert found(recorded_round(adapter, "scale:0.9995")) is Cause.UNKNOWN


def test_a_part_of_another_adapter_that_lies_between_recorded_ones_is_told_with_its_size() -> None:
    for fault, words in (("stacked:rewriter*0.8", "with x0.8"), ("averaged:rewriter*0.4", "averaged with 4")):
        cause, what, _ = name_cause(recorded_round("router", fault), T)
        assert cause is Cause.COMPOSITION_INTERFERENCE and words in what and "of rewriter" in what


def test_a_record_without_signatures_names_what_it_did_before_and_nothing_of_the_new_kinds() -> None:
    recorded = {FaultKind.WITHOUT, FaultKind.QUANTISED, FaultKind.STACKED, FaultKind.AVERAGED}
    for fault, cause in (
        ("without:q_proj", Cause.UNKNOWN),
        ("quantised:4", Cause.BASE_SWAPPED),
        ("scale:2", Cause.WRONG_STRENGTH),
    ):
        bare = recorded_round("router", fault)
        for kind in recorded:
            bare = forget(bare, kind)
        assert found(bare) is cause
