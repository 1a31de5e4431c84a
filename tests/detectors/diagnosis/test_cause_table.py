"""The confusion table of the causes in the toy world: twelve causes, three severities, and faults nobody recorded.

Every answer carries kernel noise within the recorded floor. The shares asserted here are of the toy world, whose faults
are recorded as they come; benchmarks say what is reached on models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from detectors.canaries.mode_gap import in_modes
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.record import Diagnosis
from detectors.diagnosis.root_cause import diagnose
from detectors.records import THE_BASE, Cause, FaultKind, Measurement, Mode, Round
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


def diagnosed(round: Round) -> Diagnosis:
    return diagnose(round, T)


def cause_of(round: Round) -> Cause:
    return diagnosed(round).cause


@pytest.mark.parametrize("severity", [0, 1, 2], ids=["mild", "middling", "severe"])
def test_confusion_table_of_causes_by_log_probabilities(severity: int) -> None:
    table = Counter(
        (truth, cause_of(recorded_round(*case)))
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
    matches = {(a, b): diagnosed(recorded_round(a, f"without:{b}")).match for a in ADAPTERS for b in blocks}
    named = [match is not None and match.names == (block,) for (_, block), match in matches.items()]
    assert sum(named) >= 0.95 * len(named), matches


@pytest.mark.parametrize("fault", ["not_applied", "adapter:*", "scale:0.5", "without:mlp", "base:0.8", "quantised:3"])
@pytest.mark.parametrize("of", [2, 4, 8])
def test_one_replica_shows_as_two_clusters_of_canaries_or_by_its_pod(fault: str, of: int) -> None:
    for adapter, named in cases(fault):
        by_cluster, by_pod = (diagnosed(replica_round(adapter, named, of, names)) for names in (False, True))
        assert (by_cluster.cause, by_pod.cause) == (Cause.ONE_REPLICA, Cause.ONE_REPLICA), (by_cluster, by_pod)
        assert by_cluster.replicas is not None and by_pod.replicas is not None
        assert (by_cluster.replicas.bad, by_cluster.replicas.total) == (CANARIES // of, CANARIES)
        assert by_cluster.replicas.pods == () and by_pod.replicas.pods == ("pod-0",)
        assert by_pod.replicas.diagnosis.cause is cause_of(recorded_round(adapter, named))


def test_a_replica_whose_fault_is_of_no_recorded_kind_shows_by_its_pod_and_not_by_clusters() -> None:
    for adapter in ADAPTERS:
        assert cause_of(replica_round(adapter, "shard", 4, named=False)) is Cause.UNKNOWN
        assert cause_of(replica_round(adapter, "shard", 4, named=True)) is Cause.ONE_REPLICA


@pytest.mark.parametrize("far", ["0.2", "0.5", "1.0"])
def test_a_template_shows_from_the_accepted_ids(far: str) -> None:
    for adapter in ADAPTERS:
        rendered = recorded_round(adapter, f"rendered:{far}")
        raw = recorded_round(adapter, "healthy").measurements
        assert cause_of(replace(rendered, raw=raw)) is Cause.TEMPLATE_CHANGED
        assert cause_of(rendered) is not Cause.TEMPLATE_CHANGED


def test_a_fault_under_a_changed_template_is_named_from_the_accepted_ids() -> None:
    broken = recorded_round("router", "scale:0.5")
    diagnosis = diagnosed(replace(recorded_round("router", "rendered:0.5"), raw=broken.measurements))
    assert diagnosis.cause is Cause.WRONG_STRENGTH and diagnosis.changed_prompts == diagnosis.canaries == CANARIES


def through_the_cache(warm: Round, cold: Round) -> tuple[Measurement, ...]:
    """The answers of the first, as those of the second were had through the cache of prefixes."""
    pairs = zip(warm.measurements, cold.measurements, strict=True)
    return tuple(in_modes(replace(w, comparison=replace(w.comparison, modes=(Mode.WARM,))), c) for w, c in pairs)


@pytest.mark.parametrize("part", ["", "*0.6", "*1"])
@pytest.mark.parametrize("tenant, previous", [("rewriter", "rewriter"), ("", THE_BASE)])
def test_a_shared_cache_shows_in_the_warm_replay_and_the_previous_tenant_is_named(
    part: str, tenant: str, previous: str
) -> None:
    """The first is recorded; the others go further in the same direction."""
    for adapter in ("router", "extractor"):
        healthy = recorded_round(adapter, "healthy")
        warm = through_the_cache(recorded_round(adapter, f"warmed:{tenant}{part}"), healthy)
        diagnosis = diagnosed(replace(healthy, cells=warm))
        assert diagnosis.cause is Cause.SHARED_CACHE and diagnosis.cache is not None
        assert diagnosis.cache.cold == pytest.approx(1.0, abs=0.005) and diagnosis.cache.warm < 0.99
        assert diagnosis.cache.previous == previous


def test_even_fresh_prompts_may_be_answered_from_anothers_cache() -> None:
    diagnosis = diagnosed(recorded_round("router", "warmed:rewriter"))
    assert diagnosis.cause is Cause.SHARED_CACHE and diagnosis.cache is None
    assert diagnosis.match is not None and diagnosis.match.names[0] == "rewriter"


def test_a_warm_replay_like_the_cold_one_is_no_shared_cache() -> None:
    healthy = recorded_round("router", "healthy")
    assert cause_of(replace(healthy, cells=through_the_cache(healthy, healthy))) is Cause.UNKNOWN
    broken = recorded_round("router", "without:mlp")
    assert cause_of(replace(broken, cells=through_the_cache(broken, broken))) is Cause.PARTLY_APPLIED


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_hash_of_the_base_decides_what_its_answers_cannot(adapter: str) -> None:
    """Nothing is left: not applied, or on a base that was re-parameterised. A block missing: likewise."""
    assert cause_of(recorded_round(adapter, "not_applied")) is Cause.ADAPTER_NOT_APPLIED
    assert cause_of(recorded_round(adapter, "not_applied", moved=True)) is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert cause_of(recorded_round(adapter, "without:mlp")) is Cause.PARTLY_APPLIED
    lost = diagnosed(recorded_round(adapter, "without:mlp", moved=True))
    assert lost.cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST and lost.missing_block == "mlp" and not lost.nothing_left


def test_the_bases_endpoint_distinguishes_a_stacked_adapter_from_a_merged_one() -> None:
    """What is served under the adapter's name is the same in both."""
    assert cause_of(recorded_round("router", "stacked:rewriter")) is Cause.COMPOSITION_INTERFERENCE
    merged = diagnosed(recorded_round("router", "merged_base:rewriter"))
    assert merged.cause is Cause.BASE_SWAPPED and merged.merged_adapter == "rewriter"


def test_faults_that_nobody_recorded_are_unknown() -> None:
    causes = [
        (fault, adapter, cause_of(forget(recorded_round(adapter, named), kind, name)))
        for fault, kind, name in OPEN_SET
        for adapter, named in cases(fault)
    ]
    wrong = [row for row in causes if row[2] is not Cause.UNKNOWN]
    assert len(wrong) <= 0.01 * len(causes), wrong


@pytest.mark.parametrize("bits", ["3", "4", "5", "6"])
def test_a_base_of_unrecorded_bits_is_another_base_and_no_other_bits(bits: str) -> None:
    for adapter in ADAPTERS:
        assert (
            cause_of(forget(recorded_round(adapter, f"quantised:{bits}"), FaultKind.QUANTISED, bits))
            is Cause.BASE_SWAPPED
        )


def test_the_recipe_of_the_quantised_base_is_named() -> None:
    match = diagnosed(recorded_round("router", "quantised:4")).match
    assert match is not None and match.names == ("4",) and match.unexplained < 0.005


def test_what_is_within_the_kernels_noise_has_no_name() -> None:
    for adapter in ADAPTERS:
        assert cause_of(recorded_round(adapter, "healthy")) is Cause.UNKNOWN
        assert cause_of(recorded_round(adapter, "scale:0.9995")) is Cause.UNKNOWN


def test_a_part_of_another_adapter_that_lies_between_recorded_ones_is_fitted() -> None:
    for fault, low, high in (("stacked:rewriter*0.8", 0.795, 0.895), ("averaged:rewriter*0.4", 0.395, 0.495)):
        diagnosis = diagnosed(recorded_round("router", fault))
        assert diagnosis.cause is Cause.COMPOSITION_INTERFERENCE and diagnosis.match is not None
        assert low <= diagnosis.match.value < high and diagnosis.match.names[0] == "rewriter"


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
        assert cause_of(bare) is cause
