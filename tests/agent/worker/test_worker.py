"""The replay thread's turns: several bases, and rounds beside traffic. tests/end_to_end has the whole story."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.clock import HandClock
from agent.records import ScoredResponses
from agent.worker.canary_feed import STUCK_S, TRAFFIC_BATCH, TURN_S, CanaryFeed, Schedule, WatchedBase
from agent.worker.goldens import Goldens
from agent.worker.response_scorer import MOST_EMBEDDINGS, ResponseScorer
from detectors.records import Floats
from probes.runner import Stop
from probes.runners.memory import Config, Runner
from probes.scoring.scoring_job import ScoringOptions
from tests.agent import findings

EVERY_S = 60.0
Texts = Sequence[tuple[Sequence[int], Sequence[int]]]


class Slow(Runner):
    """A pass takes a second of the clock."""

    clock: HandClock

    def embed(self, texts: Texts, stop: Stop) -> list[tuple[Floats, Floats]]:
        found: list[tuple[Floats, Floats]] = []
        for text in texts:
            if stop():
                break
            found += super().embed([text], stop)
            self.clock.advance(1.0)
        return found


def watched(folder: Path, clock: HandClock, adapter: str, asking: ScoringOptions | None = None) -> WatchedBase:
    runner = Slow(Config(adapters={adapter: f"{adapter}-v1"}))
    runner.clock = clock
    shelf = Goldens(folder, f"base-of-{adapter}", {adapter: ""})
    return WatchedBase(f"base-of-{adapter}", runner, shelf, (adapter,), ResponseScorer(runner, asking))


@pytest.fixture
def bases(tmp_path: Path) -> list[WatchedBase]:
    clock = HandClock()
    return [watched(tmp_path, clock, name) for name in ("a", "b")]


def feed_of(bases: list[WatchedBase]) -> CanaryFeed:
    """Not opened: the test takes the turns that the thread would take."""
    clock = bases[0].runner.clock  # type: ignore[attr-defined]
    return CanaryFeed(bases, Schedule(EVERY_S, 512, seed=1, canaries=False), clock)


def test_each_base_has_a_batch_in_a_turn_however_much_waits_for_another(bases: list[WatchedBase]) -> None:
    feed = feed_of(bases)
    feed.embed([findings.interaction(n, "a") for n in range(50)])
    feed.embed([findings.interaction(n, "b") for n in range(3)])
    feed._turn()
    assert [len(base.responses.embeddings) // 2 for base in bases] == [TRAFFIC_BATCH, 3]


def test_traffic_of_one_base_ends_when_the_round_of_another_is_due(bases: list[WatchedBase]) -> None:
    feed = feed_of(bases)
    feed._turn()
    clock = bases[0].runner.clock  # type: ignore[attr-defined]
    bases[0].last = clock.now() - 20.0
    bases[1].last = clock.now() - EVERY_S + TURN_S + 1.0
    feed.embed([findings.interaction(n, "a") for n in range(30)])
    feed._turn()
    assert len(bases[0].responses.embeddings) // 2 == TURN_S + 1.0


def test_a_thread_that_hangs_is_told_in_the_kind_of_round_that_is_to_come(tmp_path: Path) -> None:
    """Without canaries the word of a canary round would never be followed by another."""
    clock = HandClock()
    for asking, kinds in ((ScoringOptions(), [ScoredResponses]), (None, [])):
        base = watched(tmp_path, clock, "a", asking)
        feed = CanaryFeed([base], Schedule(EVERY_S, 1, 0, canaries=False), clock)
        feed.poll(0.0)
        told = feed.poll(EVERY_S + STUCK_S + 1.0)
        assert [type(one) for one in told] == kinds
        for one in told:
            assert isinstance(one, ScoredResponses) and one.round is not None
            assert "no round finished" in one.round.scores[0].detail


def test_embeddings_that_are_too_many_do_not_wait_for_the_round(tmp_path: Path) -> None:
    (base,) = [watched(tmp_path, HandClock(), "a")]
    feed = feed_of([base])
    feed._turn()
    assert [(seen.embeddings, seen.upto) for seen in feed.poll(0.0) if isinstance(seen, ScoredResponses)] == [((), {})]
    base.responses.embeddings = [findings.embedding()] * MOST_EMBEDDINGS
    feed.embed([findings.interaction(7, "a")])
    feed._turn()
    (early,) = feed.poll(0.0)
    assert isinstance(early, ScoredResponses)
    assert (len(early.embeddings), early.round) == (MOST_EMBEDDINGS + 2, None)
    assert early.upto == {("llm.interactions", 0, "a"): 8}
