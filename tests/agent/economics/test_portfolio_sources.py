"""Is every figure of the portfolio a row of the store, a line of the configuration, the passport or what was measured?

Each is made again here by plain SQL over the tables and the arithmetic of docs/economics.md, without the code that
makes the table. A figure that is added to the table fails until it has a source here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from agent.config import load
from agent.economics import worth_file
from agent.economics.portfolio import facts, portfolio
from agent.economics.stored_cost import Ask
from agent.lifecycle import passport_file
from agent.lifecycle.passport import Economics, Passport, PinnedBase
from agent.lifecycle.passport_feed import read_clocks
from agent.store import client as store
from detectors.economics.choices import Assumptions
from detectors.records import Interval
from tests.agent import findings
from tests.agent.economics.stores import configured, fill
from tests.agent.economics.test_worth_file import measured
from tests.agent.findings import ACCEPTED, BASE, ROUTER
from tests.agent.store.stored import insert

PRICES = {"cpu_hour": 0.05, "input_million": 0.2, "output_million": 0.6, "stored_gb_month": 0.3, "person_day": 700.0}
PRICES |= {"gpu_hour": 3.0}
FORM = {"upkeep_days_year": 8.0, "wrong_answer": 0.01, "removal_days": 1.0, "horizon_days": 200.0}
BY_ADAPTER = ("comparisons", "rounds", "traffic_scores", "embeddings", "interactions", "request_counts")


@dataclass(frozen=True, slots=True)
class World:
    """client: the store; config, passport, worth: what lies in their files; at: when the table was made

    answers: SQL -> what the store said, which does not change
    """

    client: store.Client
    config: Mapping[str, Any]
    passport: Mapping[str, Any]
    worth: Mapping[str, Any]
    at: float
    answers: dict[str, Any] = field(default_factory=dict)

    def rows(self, sql: str) -> Any:
        if sql not in self.answers:
            self.answers[sql] = self.client.query(sql, parameters={"adapter": ROUTER}).result_rows
        return self.answers[sql]

    def one(self, sql: str) -> Any:
        ((value,),) = self.rows(sql)
        return value

    def price(self, name: str) -> float:
        return float(self.config["costs"][name])

    def assumed(self, name: str) -> float:
        """A line of the passport, or the default that the table names beside its figures."""
        return float(self.passport["economics"].get(name) or getattr(Assumptions(), name))

    @property
    def a_day(self) -> float:
        first = min(
            self.one(f"SELECT toFloat64(toUnixTimestamp64Milli(min({column}))) / 1000 FROM {table}")
            for table, column in (("rounds", "at"), ("traffic_rounds", "at"), ("heartbeats", "at"))
        )
        counted = self.one("SELECT toUnixTimestamp(min(minute)) FROM request_counts")
        return 86_400.0 / (self.at - min(first, counted))


def requests(world: World) -> float:
    return world.a_day * float(world.one("SELECT sum(n) FROM request_counts WHERE adapter = {adapter:String}"))


def watch(world: World) -> float:
    core_s = world.price("cpu_hour") / 3600
    return world.a_day * core_s * (_models_s(world) + _agent_s(world)) + _storage(world)


def _models_s(world: World) -> float:
    """CPU seconds of the model process by the seconds that its canaries and scored responses took of all."""
    replayed = world.one("SELECT sum(duration_s) FROM rounds WHERE adapter = {adapter:String}")
    scored = world.one("SELECT sum(duration_s) FROM traffic_rounds") * world.one(
        "SELECT sumIf(tokens, adapter = {adapter:String}) / sum(tokens) FROM traffic_scores"
    )
    whole = world.one("SELECT sum(duration_s) FROM rounds") + world.one("SELECT sum(duration_s) FROM traffic_rounds")
    used = world.one("SELECT max(models_cpu_s) - min(models_cpu_s) FROM heartbeats")
    return float(used * (replayed + scored) / whole)


def _agent_s(world: World) -> float:
    """CPU seconds of the agent by the requests that were counted."""
    share = world.one("SELECT sumIf(n, adapter = {adapter:String}) / sum(n) FROM request_counts")
    return float(share * world.one("SELECT max(agent_cpu_s) - min(agent_cpu_s) FROM heartbeats"))


def _storage(world: World) -> float:
    """Bytes of each table by the adapter's share of its rows; of the others by its share of those."""
    sizes = dict(
        world.rows(
            "SELECT table, sum(bytes_on_disk) FROM system.parts WHERE database = currentDatabase() AND active"
            " AND table NOT IN ('rolled_up', 'schema_begun', 'schema_version') GROUP BY table"
        )
    )
    shares = {
        table: world.one(f"SELECT countIf(adapter = {{adapter:String}}) / count() FROM {table}")
        for table in BY_ADAPTER
        if table in sizes
    }
    own, of_all = sum(sizes[table] * share for table, share in shares.items()), sum(sizes[table] for table in shares)
    common = sum(sizes.values()) - of_all
    return float(world.price("stored_gb_month") / 1e9 / 30.4 * (own + common * own / of_all))


def serving(world: World) -> float:
    tokens = "SELECT avg({}) FROM interactions WHERE adapter = {{adapter:String}}"
    read, written = (world.one(tokens.format(name)) for name in ("prompt_tokens", "output_tokens"))
    return requests(world) * (read * world.price("input_million") + written * world.price("output_million")) / 1e6


def right(world: World, column: str) -> float:
    return float(world.worth[column] / world.worth["checked"])


def daily(world: World) -> float:
    return watch(world) + world.assumed("upkeep_days_year") * world.price("person_day") / 365


def wrong(world: World, share_right: float) -> float:
    """A day of wrong answers."""
    return requests(world) * (1 - share_right) * world.assumed("wrong_answer")


def totals(world: World) -> dict[str, float]:
    """Of the choices that do the task, over the horizon. The accepted adapter is as good as it was, so no pin."""
    days, person = world.assumed("horizon_days"), world.price("person_day")
    shots, held_out = world.worth["prompted"][1], world.worth["adapter_held_out"]
    answered = shots["right"] / shots["checked"]
    assert answered >= held_out / shots["checked"] - 0.1, "the prompt does the task"
    prompt_day = requests(world) * shots["extra_tokens"] * world.price("input_million") / 1e6
    once = person * (world.assumed("prompt_days") + world.assumed("removal_days"))
    return {
        "keep": days * (daily(world) + wrong(world, right(world, "adapter_right"))),
        f"prompt ({shots['examples']} examples)": once + days * (prompt_day + wrong(world, answered)),
    }


def verdict(world: World) -> str:
    return min(totals(world), key=lambda name: totals(world)[name])


def at_stake(world: World) -> float:
    return (totals(world)["keep"] - totals(world)[verdict(world)]) * 365 / world.assumed("horizon_days")


def break_even(world: World) -> float:
    shots = world.worth["prompted"][1]
    better = (world.worth["adapter_held_out"] - shots["right"]) / shots["checked"]
    saved = shots["extra_tokens"] * world.price("input_million") / 1e6 + better * world.assumed("wrong_answer")
    return daily(world) / saved


def pays_back(world: World) -> float:
    """Against the prompt: what a rebuild takes more at once, by what it costs less a day; inf where it is no less."""
    shots, person = world.worth["prompted"][1], world.price("person_day")
    prompt_day = requests(world) * shots["extra_tokens"] * world.price("input_million") / 1e6
    saved = prompt_day + wrong(world, shots["right"] / shots["checked"]) - daily(world)
    assert saved < 0, f"of {person} a day"
    return math.inf


def decided_by(world: World) -> str:
    """The line that has to change least, up or down, until the verdict is another one."""
    lines = [("costs", name) for name in ("gpu_hour", "person_day")]
    lines += [("economics", name) for name in Assumptions.__dataclass_fields__]
    changed = [
        (factor, name)
        for factor in (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
        for by in (factor, 1 / factor)
        for part, name in lines
        if verdict(with_line(world, part, name, by)) != verdict(world)
    ]
    return min(changed)[1]


def with_line(world: World, part: str, name: str, by: float) -> World:
    """One line of the configuration or the passport multiplied."""
    if part == "costs":
        return replace(world, config={**world.config, part: {**world.config[part], name: by * world.price(name)}})
    return replace(world, passport={**world.passport, part: {**world.passport[part], name: by * world.assumed(name)}})


def of_worth(name: str) -> Callable[[World], Any]:
    return lambda world: world.one(f"SELECT {name} FROM worth WHERE adapter = {{adapter:String}}")


def last_verdict(column: str) -> Callable[[World], Any]:
    return lambda world: world.one(f"SELECT argMax({column}, at) FROM verdicts WHERE subject = {{adapter:String}}")


SOURCES: Mapping[str, Callable[[World], Any]] = {
    "adapter": lambda world: world.config["models"][0]["adapters"][0]["name"],
    "base": lambda world: world.config["models"][0]["name"],
    "owner": lambda world: world.passport["owner"],
    "status": last_verdict("status"),
    "retention": last_verdict("retention"),
    **{name: of_worth(name) for name in ("worth", "gain", "gain_low", "gain_high", "gain_left")},
    "requests_a_day": requests,
    "watch_a_day": watch,
    "share_of_serving": lambda world: watch(world) / serving(world),
    "clock": lambda world: str(world.passport["base"]["end_of_life"]),
    "verdict": verdict,
    "at_stake_a_year": at_stake,
    "break_even_requests_a_day": break_even,
    "rebuild_pays_back_days": pays_back,
    "decided_by": decided_by,
    "why": lambda world: "" if world.worth["base_hash"] == last_verdict("live_base")(world) else "measured otherwise",
    "currency": lambda world: world.config["costs"]["currency"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration, passport and measurement of one adapter."""
    folder = tmp_path_factory.mktemp("sources")
    path = configured(folder, costs={**PRICES, "currency": "CHF"})
    golden_dir = load(path).probes.golden_dir
    soon = datetime.now(UTC).date() + timedelta(days=20)
    known = Passport(adapter=ROUTER, owner="Ada", base=PinnedBase(name=BASE, end_of_life=soon))
    passport_file.write(golden_dir, known.model_copy(update={"economics": Economics(**FORM)}))
    worth_file.write(golden_dir, measured(ROUTER, base=BASE, base_hash=ACCEPTED.live_base))
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[store.Client]:
    """Two hours of rows, and what an agent stores of the measurement that lies beside the passport."""
    fill(folder / "store")
    with closing(store.connect(f"chdb://{folder / 'store'}")) as client:
        insert(client, read_clocks(load(folder / "gapwatch.yaml"), time.time()))
        insert(client, findings.verdict(at=time.time(), retention=Interval(0.97, 0.95, 0.99, 12)))
        yield client


@pytest.fixture(scope="module")
def world(folder: Path, client: store.Client) -> World:
    path = folder / "gapwatch.yaml"
    home = passport_file.folder_of(load(path).probes.golden_dir, ROUTER)
    files = (path, home / passport_file.FILE, home / worth_file.FILE)
    settings, passport, worth = (yaml.safe_load(file.read_text()) for file in files)
    return World(client, settings, passport, worth, time.time())


@pytest.fixture(scope="module")
def row(folder: Path, world: World) -> dict[str, Any]:
    return made(folder / "gapwatch.yaml", world)


def made(path: Path, world: World) -> dict[str, Any]:
    """The adapter's line, as gapwatch portfolio --json has it."""

    def ask(name: str, params: Mapping[str, str]) -> Any:
        columns, rows = store.run_query(world.client, name, dict(params))
        return list(columns), list(rows)

    config, question = load(path), cast(Ask, ask)
    return next(facts(line, config) for line in portfolio(config, question, world.at).lines if line.adapter == ROUTER)


def test_every_figure_has_a_source(row: dict[str, Any]) -> None:
    assert set(row) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_a_figure_is_what_its_rows_and_lines_give(name: str, row: dict[str, Any], world: World) -> None:
    wanted = SOURCES[name](world)
    if isinstance(wanted, float):
        assert row[name] == pytest.approx(wanted, rel=1e-3, nan_ok=True)
    elif name == "clock":
        assert wanted in row[name]
    else:
        assert row[name] == wanted


# Line of the section costs -> the amounts of the table in which it is a factor.
MOVED = {
    "cpu_hour": {"watch_a_day", "share_of_serving", "at_stake_a_year", "break_even_requests_a_day"},
    "stored_gb_month": {"watch_a_day", "share_of_serving", "at_stake_a_year", "break_even_requests_a_day"},
    "input_million": {"share_of_serving", "at_stake_a_year", "break_even_requests_a_day"},
    "output_million": {"share_of_serving"},
    "person_day": {"at_stake_a_year", "break_even_requests_a_day"},
    "gpu_hour": set(),
}


@pytest.mark.parametrize("name", PRICES)
def test_a_price_moves_the_amounts_that_it_is_in_and_no_other(
    name: str, row: dict[str, Any], folder: Path, world: World, tmp_path: Path
) -> None:
    settings = yaml.safe_load((folder / "gapwatch.yaml").read_text())
    settings["costs"][name] *= 1.01
    settings["probes"]["golden_dir"] = str(load(folder / "gapwatch.yaml").probes.golden_dir)
    other = tmp_path / "gapwatch.yaml"
    other.write_text(yaml.safe_dump(settings))
    dearer = made(other, world)
    assert {figure for figure in row if dearer[figure] != row[figure]} == MOVED[name]
