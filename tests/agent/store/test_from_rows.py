"""Rows are read back as records; rows made from these again are the same, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from agent.errors import Unreadable
from agent.store.from_rows import base_round, seconds, traffic_round
from agent.store.rows import to_rows
from agent.store.table_rows import Origin, Row, when
from detectors.canaries.mode_gap import beginning, in_modes
from detectors.canaries.retention import PreparedReference, measure, prepare
from detectors.evidence.alternative import BASE, HALF_STRENGTH, other_adapter
from detectors.records import BaseRound, Identity, Measurement, Mode, Reason, Round, Summary
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from tests.detectors import synthetic

HERE = Origin("prod", "pod-0")
AT = 1_790_000_000.123


def references(adapter: str, golden: str, canary: str) -> PreparedReference:
    assert golden == "sha256:golden"
    return synthetic.prepared(adapter, int(canary.rpartition("-")[2]))


def placed(found: Measurement, replica: str = "") -> Measurement:
    return replace(found, comparison=replace(found.comparison, at=AT, pod=replica))


def measured(adapter: str, fault: str, **more: Any) -> Round:
    """Canaries in an order that sorting by name does not give."""
    made = synthetic.make_round(adapter, fault, number=3)
    seen = tuple(placed(one) for one in reversed(made.measurements))
    return replace(made, at=AT, number=3, measurements=seen, **more)


def blocked(adapter: str) -> Round:
    return Round(
        adapter, "smol", 3, AT, (), Identity("a", "b", "c", "d"), ("one fact",), Reason.UNREADABLE, "cut short"
    )


def in_two_cells(scored: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
    """As written, whole and up to the second position."""
    answers = []
    for positions, modes in ((6, (Mode.WRITTEN,)), (2, (Mode.WARM, Mode.WRITTEN))):
        for one in scored:
            sides = (one.comparison.served, one.comparison.live_base)
            served, base = (Summary(s.log_probs[:positions], s.rest[:positions], s.top1[:positions]) for s in sides)
            reference = prepare(beginning(one.comparison.reference, positions))
            cell = replace(one.comparison, reference=reference, served=served, live_base=base, modes=modes)
            answers.append(in_modes(measure(cell), one))
    return tuple(answers)


def rounds() -> dict[str, BaseRound]:
    """Every kind of base round that is stored."""
    routes = measured("router", "scale:0.5")
    raw = tuple(placed(one, "engine-1") for one in measured("router", "healthy").measurements[:5])
    several = (measured("rewriter", "healthy"), blocked("extractor"), measured("router", "swapped"))
    kinds = {
        "healthy": (measured("router", "healthy", answered_by="vllm 0.33.0, scoring in the prompt"),),
        "in the order of the configuration": several,
        "nothing measured": (blocked("router"), blocked("rewriter")),
        "by two routes and in modes": (replace(routes, raw=raw, cells=in_two_cells(raw[:2]), facts=("a", "b")),),
        "junk": (measured("router", "junk"),),
        "quantised": (measured("router", "junk", identity=Identity("a", "b", golden_grid="none", live_grid="4 bits")),),
        "without a number": (measured("router", "nan"),),
    }
    return {name: BaseRound("smol", 3, AT, members, 512, 2_000, 1.5) for name, members in kinds.items()}


def tables(record: BaseRound | TrafficRound) -> dict[str, list[Row]]:
    return {group.table: list(group.rows) for group in to_rows(record, HERE)}


def plain(found: dict[str, list[Row]]) -> str:
    """Every number with all its digits; nan equals nan."""
    return repr(
        [
            (table, [{k: (v.dtype, v.tolist()) if isinstance(v, np.ndarray) else v for k, v in row.items()}])
            for table, rows in found.items()
            for row in rows
        ]
    )


@pytest.mark.parametrize("kind", rounds())
@pytest.mark.parametrize("seed", range(3))
def test_a_round_from_its_rows_has_the_same_rows(kind: str, seed: int) -> None:
    wanted, random = rounds()[kind], np.random.default_rng(seed)
    rows = tables(wanted)
    # The store gives them back in an order of its own.
    shuffled = {name: [some[i] for i in random.permutation(len(some))] for name, some in rows.items()}
    made = base_round(shuffled["rounds"], shuffled.get("comparisons", []), references)
    assert plain(tables(made)) == plain(rows)
    assert (made.base, made.number, made.at) == ("smol", 3, AT)
    assert (made.tokens_scored, made.tokens_processed) == (512, 2_000)
    assert [one.adapter for one in made.members] == [one.adapter for one in wanted.members]
    for ours, theirs in zip(made.members, wanted.members, strict=True):
        assert (ours.blocked, ours.detail, ours.facts) == (theirs.blocked, theirs.detail, theirs.facts)
        assert (ours.identity, ours.at) == (theirs.identity, theirs.at)
        names = [[m.comparison.reference.canary for m in it.measurements] for it in (ours, theirs)]
        assert names[0] == names[1]


def score(random: np.random.Generator, adapter: str, scored: ScoringMode) -> TrafficScore:
    def numbers(n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return random.normal(0, 30, n).astype(np.float32)

    if scored is ScoringMode.NOT_SCORED:
        return TrafficScore(adapter, "r", "engine-0", AT, scored, 0, detail="its temperature is unknown")
    hot = 5 if scored is ScoringMode.SAMPLED else 0
    return TrafficScore(
        adapter, f"r{random.integers(99)}", "engine-1", AT - 5.0, scored, 14,
        (BASE, other_adapter("z:\t1"), HALF_STRENGTH, other_adapter("a")), numbers(4),
        ("temperature x1.2", "all") if hot else (),
        numbers(2 if hot else 0), numbers(3), numbers(3), numbers(hot), numbers(hot), numbers(hot), numbers(hot),
        random.random(14 if hot else 0).astype(np.float32), numbers(20 if hot else 0), numbers(20 if hot else 0),
        float(random.random()), 0.7 if hot else 0.0, float("nan"), path_from="router" if hot else "",
    )  # fmt: skip


@pytest.mark.parametrize("kinds", [(), (ScoringMode.NOT_SCORED,), tuple(ScoringMode) * 4])
@pytest.mark.parametrize("seed", range(3))
def test_a_round_of_responses_from_its_rows_has_the_same_rows(kinds: tuple[ScoringMode, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    told = tuple(score(random, ("router", "rewriter")[i % 2], kind) for i, kind in enumerate(kinds))
    identities = {"router": Identity("a", "b", "c", "d"), "rewriter": Identity("a", "", "c", "")}
    wanted = TrafficRound("smol", 3, AT, ("router", "rewriter", "extractor"), told, identities)
    rows = tables(wanted)
    scores = rows.get("traffic_scores", [])
    made = traffic_round(rows["traffic_rounds"][0], [scores[i] for i in random.permutation(len(scores))])
    assert plain(tables(made)) == plain(rows)
    assert (made.adapters, made.identities, made.at) == (wanted.adapters, identities, AT)
    for ours, theirs in zip(made.scores, told, strict=True):
        assert (ours.alternatives, ours.samplers, ours.pod) == (theirs.alternatives, theirs.samplers, theirs.pod)
        assert ours.path_from == theirs.path_from
        assert ours.ranks.tolist() == theirs.ranks.tolist() and ours.log_l.tolist() == theirs.log_l.tolist()


@pytest.mark.parametrize("at", [0.0, AT, 1_699_999_999.999, 1_700_000_000.001, 1_700_000_000.5])
def test_a_millisecond_comes_back_as_itself(at: float) -> None:
    assert seconds(when(at)) == at


def test_a_round_with_missing_rows_is_unreadable() -> None:
    several = tables(rounds()["in the order of the configuration"])
    with pytest.raises(Unreadable, match="2 of 3 adapters"):
        base_round(several["rounds"][:2], several["comparisons"], references)
    count = len(measured("router", "swapped").measurements)
    with pytest.raises(Unreadable, match=rf"{count - 1} of {count} canaries of router \(present\)"):
        base_round(several["rounds"], several["comparisons"][:-1], references)
    by_route = tables(rounds()["by two routes and in modes"])
    assert {row["route"] for row in by_route["comparisons"]} == {"present", "raw", "written", "warm+written"}
    raw = [row for row in by_route["comparisons"] if row["route"] != "warm+written"]
    with pytest.raises(Unreadable, match=r"2 of 4 canaries of router \(cells\)"):
        base_round(by_route["rounds"], raw, references)
    cut = [row | {"served_log_probs": row["served_log_probs"][:-1]} for row in several["comparisons"]]
    with pytest.raises(Unreadable, match=r"numbers for 6 x 17"):
        base_round(several["rounds"], cut, references)
    heard = TrafficRound("smol", 3, AT, ("router",), (score(np.random.default_rng(0), "router", ScoringMode.SAMPLED),))
    with pytest.raises(Unreadable, match="0 of 1 responses"):
        traffic_round(tables(heard)["traffic_rounds"][0], [])


def test_rows_of_an_earlier_version_are_ordered_by_name() -> None:
    rows = tables(rounds()["in the order of the configuration"])
    new = ("members", "place", "raw_canaries", "warm_canaries", "replica")
    old = {name: [{k: v for k, v in row.items() if k not in new} for row in some] for name, some in rows.items()}
    made = base_round(old["rounds"], old["comparisons"], references)
    assert [one.adapter for one in made.members] == ["extractor", "rewriter", "router"]
    names = [m.comparison.reference.canary for m in made.members[2].measurements]
    assert names == sorted(names) and len(names) == len(measured("router", "swapped").measurements)


def test_responses_of_a_store_that_has_not_been_migrated_yet_have_no_ranks_at_the_edges() -> None:
    """Rejudging asks what today's code would say, while the agents that write the store are of the version before."""
    scores = (score(np.random.default_rng(2), "router", ScoringMode.SAMPLED),)
    rows = tables(TrafficRound("smol", 3, AT, ("router",), scores))
    (row,) = rows["traffic_scores"]
    for column in ("ranks_weaker", "ranks_stronger", "rank_toll"):
        del row[column]
    (found,) = traffic_round(rows["traffic_rounds"][0], [row]).scores
    assert found.ranks.size and not found.ranks_weaker.size and not found.ranks_stronger.size
    assert found.rank_toll == 0.0


def test_a_row_of_an_earlier_version_does_not_say_from_which_adapter_its_path_leads() -> None:
    scores = (score(np.random.default_rng(2), "smol", ScoringMode.SAMPLED),)
    rows = tables(TrafficRound("smol", 3, AT, ("router",), scores))
    (row,) = rows["traffic_scores"]
    del row["path_from"]
    (found,) = traffic_round(rows["traffic_rounds"][0], [row]).scores
    assert found.path_from == "" and found.path_log_lik.tolist() == scores[0].path_log_lik.tolist()
