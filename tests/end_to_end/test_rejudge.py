"""Rounds that a running agent judged and stored, judged again from the store: the same words and the same evidence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.alerting.hindsight import BY_REPLAY, judged_again
from agent.assemble import monitor_of, scoring_options
from agent.cli.rejudge import RejudgeOptions, configured, rejudge
from agent.config import load
from agent.errors import Refused
from agent.sinks import clickhouse
from agent.store import client as store
from agent.store.stored_rounds import Span, StoredRounds
from agent.store.verdict_rows import verdict_row
from agent.surroundings import Surroundings
from agent.terminal.console import console
from agent.worker.worker import Schedule
from detectors.records import Evidence, Reason, Status, Verdict
from detectors.traffic_records import TrafficRound
from tests.end_to_end.test_traffic_in_memory import serve
from tests.end_to_end.world import ADAPTERS, EVERY_S, PLAIN, Line, World, accept, enrolled, new_runner

EVER = RejudgeOptions(since="1d", lead_in="0s")


@pytest.fixture
def config(tmp_path: Path, goldens: Path) -> Path:
    return written(tmp_path, goldens)


def written(folder: Path, goldens: Path, name: str = "gapwatch.yaml", **changed: Any) -> Path:
    adapters = [{"name": adapter, "path": adapter} for adapter in ADAPTERS]
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": adapters}],
        "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
        "probes": {"golden_dir": str(goldens)},
        "clickhouse": {"dsn": f"chdb://{folder / 'store'}"},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
        "cluster": "test",
        "pod": "pod-0",
        **changed,
    }
    file = folder / name
    file.write_text(yaml.safe_dump(settings))
    return file


class Watched:
    """A world whose findings lie in a store when it has ended, and all that it said."""

    def __init__(
        self, folder: Path, goldens: Path, file: Path, responses: bool = False, schedule: Schedule = PLAIN
    ) -> None:
        config = load(file)
        around = Surroundings("test", "pod-0", folder / "state")
        self.sink = clickhouse.Sink(clickhouse.Config(dsn=config.clickhouse.dsn), around)
        scoring = scoring_options(config) if responses else None
        line = Line(schedule, scoring, monitor=monitor_of(config))
        self.world = World(folder / "state", goldens, others=(self.sink,), line=line)
        # The store forgets by age, and a time that is no whole second shows what it does to one.
        self.world.clock.at = float(int(time.time())) - 7200.877

    def __enter__(self) -> World:
        return self.world.__enter__()

    def __exit__(self, *problem: object) -> None:
        if problem[0] is None:
            self.world.turn_until(lambda: self.sink.waiting == 0)
        self.world.__exit__(*problem)


def story(world: World, faults: list[str], *, responses: bool = False) -> None:
    """One round for each fault of alpha; with responses, those heard before it are alpha's own or the base's."""
    world.turn_round()
    for fault in faults:
        if responses:
            serve(world, "alpha", "alpha" if fault == "none" else None)
            serve(world, "beta", "beta")
            world.turn_until(lambda: len(world.scores) >= 16)
        world.runner.inject("alpha", fault)
        before = len(world.sink.of(TrafficRound))
        world.turn_round()
        if responses:
            world.turn_until(partial(_more_heard, world, before))


def _more_heard(world: World, than: int) -> bool:
    return len(world.sink.of(TrafficRound)) > than


def again(file: Path) -> tuple[list[Evidence], list[Verdict]]:
    config = load(file)
    with opened(file) as client:
        stored = StoredRounds(client, "test", config.probes.golden_dir)
        found = list(judged_again(stored.rounds(Span(0.0, time.time())), partial(monitor_of, config)))
    assert all(judged is not None for _, judged in found)
    told = [judged for _, judged in found if judged is not None]
    return [e for one in told for e in one.evidence], [v for one in told for v in one.verdicts]


def report(capsys: pytest.CaptureFixture[str], file: Path, wish: RejudgeOptions = EVER) -> dict[str, Any]:
    capsys.readouterr()
    assert rejudge(file, wish, json=True) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def in_order(found: list[Evidence]) -> list[tuple[object, ...]]:
    return sorted((e.at, e.subject_kind, e.subject, e.detector, e.stream, e.log_e, e.n, e.round) for e in found)


def words(found: list[Verdict]) -> list[dict[str, object]]:
    rows = [verdict_row(verdict) for verdict in found]
    return sorted(rows, key=lambda row: (row["at"], row["subject_kind"], row["subject"], row["reason"]))


@pytest.mark.parametrize("responses", [False, True])
def test_the_same_configuration_says_the_same_to_the_last_bit(
    tmp_path: Path, goldens: Path, config: Path, responses: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watched(tmp_path, goldens, config, responses) as world:
        story(world, ["none", "scale:0.5", "scale:0.5", "failing", "none", "none", "none"], responses=responses)
        if not responses:
            world.runner.inject(None, "swapped_and_lost")
            world.turn_round()
    was = [e for e in world.sink.of(Evidence) if e.detector != "embedding_drift"]
    evidence, verdicts = again(config)
    assert in_order(evidence) == in_order(was)
    of_rounds = [v for v in world.sink.verdicts if v.reason.value not in BY_REPLAY]
    assert len(verdicts) == len(of_rounds) > 20
    assert repr(words(verdicts)) == repr(words(of_rounds))
    alarmed = [v.round for v in world.sink.verdicts if v.reason is Reason.ALARM]
    assert len(alarmed) >= 1
    if responses:
        assert any(e.detector == "traffic_likelihood" and e.log_e > 0 for e in was)

    told = report(capsys, config)
    replays = len(world.sink.verdicts) - len(of_rounds)
    assert (told["differ"], told["not_compared"], told["not_judged"]) == (0, replays, [])
    assert told["earlier_versions"] == {"rounds": 0, "response_rounds": 0}
    assert told["largest_difference_nats"] == 0.0
    assert told["alarms"]["then"] == told["alarms"]["now"]
    assert told["alarms"]["then"]["count"] == len(alarmed)
    assert told["alarms"]["then"]["first"]["round"] == alarmed[0]
    assert told["verdicts_compared"] == len(verdicts) == len(told["verdicts"]) - replays


def test_what_was_judged_while_canaries_were_replayed_is_judged_again_in_that_order(
    tmp_path: Path, goldens: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both lines find the same fault. The canary round began first and was judged last."""
    schedule = replace(PLAIN, responses_every_s=20.0)
    with Watched(tmp_path, goldens, config, True, schedule) as world:
        world.turn_round()
        world.turn_first_responses()
        serve(world, "alpha", None, n=16)
        world.turn_until(lambda: len(world.scores) >= 16)
        world.runner.inject("alpha", "not_applied")
        begun, hold, refresh = threading.Event(), threading.Event(), world.runner.refresh
        world.runner.refresh = lambda: (begun.set(), hold.wait(30), refresh())[2]  # type: ignore[func-returns-value, method-assign]
        world.clock.advance(EVERY_S)
        assert begun.wait(30)
        world.clock.advance(30.0)
        world.turn_until(lambda: bool(world.sink.notices))
        world.clock.advance(1.0)
        hold.set()
        world.turn_until(lambda: len(world.rounds) == 2)
        alarms = [v for v in world.sink.verdicts if v.reason is Reason.ALARM]
        assert [v.at - world.rounds[1].at for v in alarms] == [30.0, 0.0]
    _, verdicts = again(config)
    assert repr(words(verdicts)) == repr(words(world.sink.verdicts))
    assert report(capsys, config)["differ"] == 0


def test_another_tolerance_moves_the_alarm_and_nothing_is_written(
    tmp_path: Path, goldens: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watched(tmp_path, goldens, config) as world:
        story(world, ["scale:0.9"] * 4 + ["not_applied"] * 3)
    (alarmed,) = [v for v in world.sink.verdicts if v.reason is Reason.ALARM]
    assert alarmed.subject == "alpha" and alarmed.round < 5

    rows = counted(config)
    lenient = written(tmp_path, goldens, "lenient.yaml")
    data = yaml.safe_load(lenient.read_text())
    data["models"][0]["adapters"][0]["tolerance"] = 0.3
    lenient.write_text(yaml.safe_dump(data))
    told = report(capsys, lenient)
    then, now = told["alarms"]["then"], told["alarms"]["now"]
    assert (then["count"], then["first"]["round"]) == (1, alarmed.round)
    assert (now["count"], now["first"]["subject"]) == (1, "alpha")
    assert now["first"]["round"] >= 5 > alarmed.round
    assert told["differ"] > 0
    of_round = [r for r in told["verdicts"] if r["subject"] == "alpha" and r["round"] == alarmed.round]
    (row,) = [r for r in of_round if not r["not_compared"]]
    assert row["differs"] and row["then"]["reason"] == "alarm" and row["now"]["status"] == "healthy"
    assert {r["subject"] for r in told["verdicts"] if r["differs"]} <= {"alpha", "tiny"}
    by_option = report(
        capsys, config, RejudgeOptions("1d", lead_in="0s", changes=["models.0.adapters.0.tolerance=0.3"])
    )
    assert by_option["verdicts"] == told["verdicts"]
    assert counted(config) == rows

    with console.capture() as said:
        assert rejudge(config, RejudgeOptions("1d", lead_in="0s", adapter="alpha", changed=True), json=False) == 0
    shown = said.get()
    assert "8 rounds judged again" in shown and "0 of 16 verdicts differ; alarms then 1, now 1" in shown


def counted(file: Path) -> dict[str, int]:
    sql = "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine LIKE '%MergeTree'"
    with opened(file) as client:
        names = [name for (name,) in client.query(sql).result_rows]
        return {name: int(client.command(f"SELECT count() FROM {name}")) for name in names}


@contextmanager
def opened(file: Path) -> Iterator[store.Client]:
    client = store.connect(load(file).clickhouse.dsn)
    try:
        yield client
    finally:
        client.close()


def test_rounds_that_lost_rows_are_named_and_not_judged_on_less(
    tmp_path: Path, goldens: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watched(tmp_path, goldens, config) as world:
        story(world, ["none"] * 3)
    changed(config, "ALTER TABLE comparisons DELETE WHERE round = 2 AND adapter = 'beta' AND place < 3")
    told = report(capsys, config)
    (lost,) = told["not_judged"]
    assert lost["round"].startswith("canaries of tiny, round 2 at ") and "of beta (present)" in lost["why"]
    assert told["rounds"] == 3 and told["not_compared"] == 4
    silent = [row for row in told["verdicts"] if row["round"] == 2]
    assert {row["now"] for row in silent} == {None} == {None if row["not_compared"] else "" for row in silent}


def changed(file: Path, statement: str) -> None:
    with opened(file) as client:
        client.command(statement, settings={"mutations_sync": 2})


EARLIER = (
    "ALTER TABLE rounds DROP COLUMN members, DROP COLUMN place",
    "ALTER TABLE rounds DROP COLUMN raw_canaries, DROP COLUMN warm_canaries",
    "ALTER TABLE rounds DROP COLUMN golden_tokenizer, DROP COLUMN live_tokenizer, DROP COLUMN hash_scheme",
    "ALTER TABLE rounds DROP COLUMN golden_template, DROP COLUMN live_template",
    "ALTER TABLE comparisons DROP COLUMN place, DROP COLUMN replica",
    "ALTER TABLE traffic_scores DROP COLUMN judged_at, DROP COLUMN agent, DROP COLUMN place, DROP COLUMN ranks",
    "DROP TABLE traffic_rounds",
)


@pytest.mark.parametrize("responses", [False, True])
def test_rows_of_an_earlier_version_are_judged_and_what_they_lack_is_said(
    tmp_path: Path, goldens: Path, config: Path, responses: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watched(tmp_path, goldens, config, responses) as world:
        story(world, ["none", "scale:0.5"], responses=responses)
    for statement in EARLIER:
        changed(config, statement)
    told = report(capsys, config)
    heard = 2 if responses else 0
    assert told["rounds"] == 3 and told["earlier_versions"] == {"rounds": 3, "response_rounds": heard}
    if not responses:
        assert told["differ"] == 0 and told["largest_difference_nats"] < 1e-9
        assert told["alarms"]["now"] == told["alarms"]["then"] and told["alarms"]["now"]["count"] == 1
    with console.capture() as said:
        assert rejudge(config, EVER, json=False) == 0
    shown = said.get()
    assert "3 rounds are of an earlier version" in shown
    assert ("2 rounds of responses are of an earlier version" in shown) == responses


def test_a_release_that_was_accepted_in_between_starts_its_evidence_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goldens = tmp_path / "goldens"
    enrolled(goldens)
    file = written(tmp_path, goldens)
    with Watched(tmp_path, goldens, file) as world:
        story(world, ["scale:0.5", "scale:0.5"])
        halved = new_runner()
        halved.inject("alpha", "scale:0.5")
        accept(goldens, "alpha", halved, at=world.clock.now(), why="on purpose")
        world.turn_round()
        world.turn_round()
    assert [v for v in world.sink.verdicts if v.subject == "alpha"][-1].status is Status.HEALTHY
    told = report(capsys, file)
    assert (told["differ"], told["largest_difference_nats"], told["rounds"]) == (0, 0.0, 5)
    # The records themselves are in the store: a machine without the folder judges them too.
    elsewhere = report(capsys, written(tmp_path, tmp_path / "none", "elsewhere.yaml"))
    assert elsewhere["verdicts"] == told["verdicts"]


def test_a_span_shows_what_is_in_it_and_counts_what_came_before(
    tmp_path: Path, goldens: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watched(tmp_path, goldens, config) as world:
        story(world, ["none", "none", "scale:0.9", "none"])
    start = world.clock.at - EVERY_S
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start - 10))
    told = report(capsys, config, RejudgeOptions(since, lead_in="1h"))
    assert {row["round"] for row in told["verdicts"]} == {3, 4} and told["rounds"] == 2
    assert (told["differ"], told["largest_difference_nats"]) == (0, 0.0)
    alone = report(capsys, config, RejudgeOptions(since, lead_in="0s"))
    assert alone["rounds"] == 2 and alone["largest_difference_nats"] > 0


def test_a_store_without_such_rounds_cannot_tell_and_wrong_usage_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rejudge(config, EVER, json=True) == 2
    told = capsys.readouterr()
    assert told.out == "" and "no round of cluster test is stored" in told.err
    assert rejudge(config, RejudgeOptions("9999999d", lead_in="9999999d"), json=True) == 2
    assert "is stored from 1900-01-01 00:00:00 to " in capsys.readouterr().err
    wrong = {
        "--since": RejudgeOptions("yesterday"),
        "--lead-in": RejudgeOptions("1d", lead_in="long"),
        "adapter": RejudgeOptions("1d", adapter="delta"),
        "--set": RejudgeOptions("1d", changes=["tolerance"]),
        "--set models.7.name": RejudgeOptions("1d", changes=["models.7.name=x"]),
        "--set cluster.name": RejudgeOptions("1d", changes=["cluster.name=x"]),
    }
    for place, wish in wrong.items():
        with pytest.raises(Refused, match=place):
            rejudge(config, wish, json=False)
    with pytest.raises(Refused, match="a time before"):
        rejudge(config, RejudgeOptions("1h", until="2h"), json=False)


def test_a_value_that_is_set_is_read_as_in_the_file(config: Path) -> None:
    changes = ["cluster=no", "pod=010", "detectors.logit_shift.reference=1e-3"]
    told = configured(config, changes)
    assert (told.cluster, told.pod) == ("no", "010")
    assert told.detectors == {"logit_shift": {"reference": 0.001}}
