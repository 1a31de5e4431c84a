"""One line an adapter: is the verdict that of what was measured, and is there none where nothing was?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.cli.query import asking
from agent.config import Config, load
from agent.economics import worth_file
from agent.economics.portfolio import MEASURE, Portfolio, facts, portfolio, situation_of
from agent.economics.stored_cost import Ask
from agent.errors import Refused
from agent.lifecycle import passport_file
from agent.lifecycle.passport import Economics, Passport, PinnedBase
from detectors.economics.worth import Worth
from tests.agent.economics.stores import configured
from tests.agent.economics.test_worth_file import measured
from tests.agent.findings import ACCEPTED, ROUTER, TONE

LIVE = ACCEPTED.live_base


@pytest.fixture(scope="module")
def config(store_of_costs: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load(configured(tmp_path_factory.mktemp("config"), store_of_costs))


@pytest.fixture
def ask(config: Config) -> Iterator[Ask]:
    with asking(config) as question:
        yield question


def test_one_line_each_the_most_at_stake_first(config: Config, ask: Ask) -> None:
    folder = config.probes.golden_dir
    soon = datetime.now(UTC).date() + timedelta(days=20)
    passport = Passport(adapter=TONE, owner="Ada", base=PinnedBase(name="m", end_of_life=soon))
    passport_file.write(folder, passport.model_copy(update={"economics": Economics(upkeep_days_year=12.0)}))
    worth_file.write(folder, measured(TONE, Worth.BASE_PASSES, base_hash=LIVE))
    worth_file.write(folder, measured(ROUTER, base_hash=LIVE, prompted=()))
    whole: Portfolio = portfolio(config, ask, time.time())
    tone, router = whole.lines
    assert (tone.adapter, tone.owner, tone.verdict, tone.status) == (TONE, "Ada", "retire", "healthy")
    assert tone.clock is not None and "end of life" in tone.clock.words
    assert tone.decision is not None and tone.decision.at_stake > 6000 and router.verdict == "keep"
    assert "upkeep_days_year" not in tone.decision.defaults and "curation_days" in tone.decision.defaults
    row = facts(router, config)
    # The store is as old as the tests before this one took.
    assert 100 * 86_400 / 9000 < row["requests_a_day"] <= 100 * 86_400 / 7000 * 1.001 and row["at_stake_a_year"] == 0.0
    assert row["watch_a_day"] == router.cost.money(config.costs.prices) if router.cost else False


def test_what_was_measured_on_another_base_or_never_is_no_verdict(config: Config, ask: Ask) -> None:
    folder = config.probes.golden_dir
    worth_file.write(folder, measured(ROUTER, base_hash="sha256:another"))
    passport_file.folder_of(folder, TONE).joinpath(worth_file.FILE).unlink(missing_ok=True)
    lines = {line.adapter: line for line in portfolio(config, ask, time.time()).lines}
    assert {line.verdict for line in lines.values()} == {MEASURE}
    assert "another base" in lines[ROUTER].why and "never measured" in lines[TONE].why


def test_an_adapter_that_is_degraded_now_does_not_add_what_was_measured(config: Config) -> None:
    own = situation_of(config, measured(), None, is_degraded=True, rebuildable=True)
    assert own.worth is Worth.LOST
    own = situation_of(config, measured(worth=Worth.BASE_PASSES), None, is_degraded=True, rebuildable=True)
    assert own.worth is Worth.BASE_PASSES and own.adapter_held_out == 1.0 and own.examples[1].extra_tokens == 130.0


def test_a_passport_that_cannot_be_read_is_told(config: Config, ask: Ask) -> None:
    path = passport_file.write(config.probes.golden_dir, Passport(adapter=TONE))
    path.write_text("adapter: x\n")
    with pytest.raises(Refused, match=TONE):
        portfolio(config, ask, time.time())
    path.unlink()
