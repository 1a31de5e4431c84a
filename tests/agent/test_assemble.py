"""From a configuration to the parts of an agent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet_size import FleetSize
from agent.alerting.judge import Judge
from agent.assemble import (
    _beat,
    _share_budget,
    _telemetry,
    assemble,
    log_threshold,
    monitor_of,
    sampler_of,
    scoring_options,
    stream_counts,
)
from agent.clock import HandClock
from agent.config import Adapter, Alerts, Config, Desired, Model, Role, Scoring, Served, ServedLimits, load
from agent.kafka.client import Config as KafkaConfig
from agent.kafka.contract import Share
from agent.kafka.owned_bases import OwnedBases
from agent.worker.response_scorer import NO_SCORING
from agent.worker.watched_bases import ModelSettings, runner_of, watched_bases
from agent.worker.worker import Schedule
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.alarm_budget import YEAR_S, rounds_per_year
from detectors.evidence.alternative import BASE, HALF_STRENGTH
from detectors.monitor import default_configs, paging
from detectors.records import Mode, SubjectKind
from probes import runner_registry
from probes.golden.archive import save
from probes.golden.statistical_power import draws_to_alarm
from probes.golden.weights import folder_of
from probes.runner import Runner
from probes.runners.memory import Runner as MemoryRunner
from probes.runners.served import Runner as EngineRunner
from probes.scoring.scoring_job import ScoringOptions
from probes.scoring.token_distribution import SamplingParameters, sampling_of
from tests.agent import findings
from tests.detectors.record_streams import traffic_round
from tests.detectors.synthetic import make_base_round
from tests.probes.goldens import golden

TOPIC = KafkaConfig(bootstrap_servers=("127.0.0.1:9",), topic="t")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A golden record whose base was kept."""
    accepted = golden()
    save(accepted, tmp_path / "golden")
    folder_of(tmp_path / "golden", accepted.base_hash).mkdir(parents=True)
    settings = {
        "models": [{"name": "toy", "path": "./base", "adapters": [{"name": "router", "path": "adapters/a"}]}],
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "probes": {"golden_dir": "golden", "cache_dir": "cache"},
        "state_dir": "state",
    }
    path = tmp_path / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load(path)


def test_one_base_under_the_names_of_two_hash_schemes_is_one_kept_base(config: Config) -> None:
    (model,), folder = config.models, config.probes.golden_dir
    renamed = replace(golden("beta"), base_hash="sha256:" + "f" * 64, hash_scheme=2)
    save(renamed, folder)
    beside = model.adapters[0].model_copy(update={"name": "beta", "golden": None})
    both = model.model_copy(update={"adapters": (*model.adapters, beside)})
    kept = folder_of(folder, golden().base_hash)
    folder_of(folder, renamed.base_hash).symlink_to(kept.name)
    watching: Any = runner_of(config, both)
    assert watching.config.golden_base == str(kept)


def test_the_kept_base_is_for_the_agent_and_not_for_enrolment_which_accepts_the_present_files(config: Config) -> None:
    (model,) = config.models
    watching: Any = runner_of(config, model)
    enrolling: Any = runner_of(config, model, golden=False)
    assert watching.config.golden_base == str(folder_of(config.probes.golden_dir, golden().base_hash))
    assert enrolling.config.golden_base is None


def test_how_attention_is_computed_is_what_the_file_says(config: Config) -> None:
    for wanted in ("auto", "eager"):
        probes = config.probes.model_copy(update={"attention": wanted})
        runner: Any = runner_of(config.model_copy(update={"probes": probes}), config.models[0])
        assert runner.config.attention == wanted
    assert config.probes.attention == "auto"


def test_what_responses_are_asked_is_what_the_file_says(config: Config) -> None:
    options = scoring_options(config.model_copy(update={"kafka": TOPIC, "scoring": Scoring(numeric=0.005, passes=1)}))
    assert options is not None and (options.tokens.numeric, options.passes) == (0.005, 1)
    assert scoring_options(config) is None
    weights = ((BASE, 0.6), (HALF_STRENGTH, 0.3))
    own = config.model_copy(update={"kafka": TOPIC, "detectors": {"traffic_likelihood": {"weights": weights}}})
    drawn_by = scoring_options(own)
    assert drawn_by is not None and drawn_by.weights == weights


def test_the_deployments_sampler_holds_where_only_its_temperature_is_unknown(config: Config) -> None:
    sampler = sampler_of(config.model_copy(update={"scoring": Scoring(top_p=0.8, top_k=20)}))
    assert sampling_of({"temperature": 0.7}, sampler) == SamplingParameters(0.7, top_p=0.8, top_k=20)
    assert sampling_of({}, sampler) is None


def streams(config: Config) -> int:
    return sum(stream_counts(config).values())


def test_the_budget_counts_every_process_that_may_page_and_no_other(config: Config) -> None:
    """Each detector that pages, once an adapter; the base's once there are two; that of requests which name the base
    once where responses are scored. One more that is told to page: more."""
    canaries_alone = config.model_copy(update={"kafka": None})
    assert streams(canaries_alone) == 1
    config = config.model_copy(update={"kafka": TOPIC})
    each = paging(default_configs(Tolerances())).count(SubjectKind.ADAPTER) - len(Mode)  # no engine is asked
    assert streams(config) == each + 1 > 2
    embedded_alone = config.model_copy(update={"scoring": Scoring(enabled=False)})
    assert streams(embedded_alone) == 1
    three = with_adapters(config, "a", "b", "c")
    assert streams(three) == 3 * each + 2
    louder = three.model_copy(update={"detectors": {"logit_shift": {"pages": True}}})
    assert streams(louder) == 3 * (each + 1) + 2
    unwatched = louder.models[0].model_copy(update={"replay": False, "name": "other"})
    assert streams(louder.model_copy(update={"models": (*config.models, unwatched)})) == each + 1 + 1
    namesake = with_adapters(config, "a", config.models[0].name)
    assert streams(namesake) == 2 * each + 1, "whose requests these are is not known"


def with_adapters(config: Config, *names: str) -> Config:
    (model,) = config.models
    adapters = tuple(model.adapters[0].model_copy(update={"name": name}) for name in names)
    return config.model_copy(update={"models": (model.model_copy(update={"adapters": adapters}),)})


def test_with_one_interval_for_both_lines_the_threshold_is_to_the_last_bit_what_all_streams_of_that_interval_need(
    config: Config,
) -> None:
    """And so is what earlier versions saved as the threshold of a round."""
    three = with_adapters(config.model_copy(update={"kafka": TOPIC}), "a", "b", "c")
    assert log_threshold(three) == math.log(streams(three) * rounds_per_year(60.0) / 1.0)
    said = three.model_copy(update={"scoring": Scoring(every=60.0)})
    assert log_threshold(said) == log_threshold(three)


def test_each_stream_counts_with_the_rounds_of_its_own_line(config: Config) -> None:
    """Three adapters: three streams of their canaries and one of their base's a minute, three of their responses
    and one of requests that name the base."""
    config = with_adapters(config.model_copy(update={"kafka": TOPIC}), "a", "b", "c")
    quick = config.model_copy(update={"scoring": Scoring(every=5.0)})
    assert stream_counts(quick) == {60.0: 4, 5.0: 4}
    assert log_threshold(quick) == pytest.approx(math.log((4 / 60 + 4 / 5) * YEAR_S))
    assert (promised(quick), promised(config)) == pytest.approx((1.0, 1.0))


def test_each_base_counts_with_its_own_cadence(config: Config) -> None:
    """Of a base that an engine serves, two adapters and the base itself, each in five modes besides, no responses:
    every ten minutes."""
    config = with_adapters(config.model_copy(update={"kafka": TOPIC}), "a")
    served = Served(url="http://localhost:8000")
    other = Model(name="other", served=served, adapters=(Adapter(name="b"), Adapter(name="c")))
    both = config.model_copy(update={"models": (*config.models, other)})
    assert stream_counts(config) == {60.0: 3}
    assert stream_counts(both) == {60.0: 3, 600.0: 3 * (1 + len(Mode))}
    assert log_threshold(both) == pytest.approx(math.log((3 / 60 + 18 / 600) * YEAR_S))


def test_an_engine_is_asked_by_the_runner_served_with_names_and_address_alone(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    monkeypatch.setattr(runner_registry, "make", lambda *arguments: given.append(arguments))
    engine = Served(
        url="http://localhost:8000/v1",
        base="org/Base",
        token_file=Path("/t"),
        pause_file=Path("/p"),
        limits=ServedLimits(logit_bytes=1, tokens_per_minute=2, requests_per_minute=3),
    )
    adapters = (Adapter(name="a"), Adapter(name="b", path=Path("/files/b")))
    runner_of(config, Model(name="m", served=engine, adapters=adapters))
    settings = {"url": "http://localhost:8000", "engine": "auto", "token_file": "/t", "ca_file": "", "pause_file": "/p"}
    settings["desired_file"] = ""
    limits = {"most_logit_bytes": 1, "tokens_a_minute": 2, "requests_a_minute": 3}
    names = {
        "base": "org/Base",
        "adapters": {"a": "", "b": "/files/b"},
        "listed_as": {},
        "evict_every_s": 21_600.0,
        "served": settings,
        "limits": limits,
    }
    assert given == [("served", names, {})]


def beside_its_engine(config: Config) -> Config:
    """A base with files and an engine; of one of its adapters no folder is at hand."""
    config = with_adapters(config.model_copy(update={"kafka": TOPIC}), "a", "b")
    (model,) = config.models
    adapters = (model.adapters[0], Adapter(name="c"))
    both = model.model_copy(update={"served": Served(url="http://localhost:8000"), "adapters": adapters})
    return config.model_copy(
        update={"models": (both,), "probes": config.probes.model_copy(update={"runner": "memory"})}
    )


def test_files_beside_an_engine_score_the_responses_and_are_replayed_by_a_runner_of_their_own(config: Config) -> None:
    config = beside_its_engine(config)
    schedule = Schedule(60.0, 512, seed=1)
    (base,) = watched_bases(ModelSettings(config, schedule, ScoringOptions(), sampler_of(config)), lambda *_: None)
    assert isinstance(base.runner, EngineRunner) and set(base.runner.config.adapters) == {"a", "c"}
    assert base.files is not None and base.responses is not None and base.responses.runner is base.files.runner
    assert isinstance(base.files.runner, MemoryRunner) and set(base.files.runner.config.adapters) == {"a"}
    assert (base.files.adapters, base.files.every_s) == (("a",), 60.0)
    assert stream_counts(config) == {600.0: 3 * (1 + len(Mode)), 60.0: 3}, "canaries of the engine, and responses"


def test_without_the_model_libraries_an_engine_is_asked_all_the_same(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = runner_registry.make

    def without(name: str, filled_in: Mapping[str, Any], settings: Mapping[str, Any]) -> Runner:
        if name != "served":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return make(name, filled_in, settings)

    monkeypatch.setattr(runner_registry, "make", without)
    settings = ModelSettings(
        beside_its_engine(config), Schedule(60.0, 512, seed=1), ScoringOptions(), sampler_of(config)
    )
    (base,) = watched_bases(settings, lambda *_: None)
    assert isinstance(base.runner, EngineRunner) and base.files is None
    assert base.responses is not None
    base.responses.process([findings.interaction(0, "a")], {}, lambda: False)
    assert [score.detail for score in base.responses.take().scores] == [NO_SCORING]


def promised(config: Config) -> float:
    page = _telemetry(config).page().decode()
    (line,) = [line for line in page.splitlines() if line.startswith("gapwatch_expected_false_pages")]
    return float(line.split()[-1])


def of_sidecars(config: Config, sidecars: int) -> Config:
    return config.model_copy(update={"alerts": Alerts(sidecars=sidecars)})


@pytest.mark.parametrize("sidecars", [1, 8, 64])
def test_every_sidecar_of_the_fleet_has_streams_of_its_own_and_the_promise_is_the_fleets(
    config: Config, sidecars: int
) -> None:
    one = with_adapters(config.model_copy(update={"kafka": TOPIC, "scoring": Scoring(every=5.0)}), "a", "b", "c")
    fleet = of_sidecars(one, sidecars)
    assert stream_counts(fleet) == {60.0: 4 * sidecars, 5.0: 4 * sidecars}
    assert log_threshold(fleet) == pytest.approx(log_threshold(one) + math.log(sidecars))
    assert promised(fleet) == pytest.approx(1.0)


@pytest.mark.parametrize("role", ["witness", "sidecar", "apart"])
def test_what_a_witness_judges_counts_once_for_the_fleet_however_many_pods_there_are(
    config: Config, role: Role
) -> None:
    one = with_adapters(config.model_copy(update={"kafka": TOPIC, "scoring": Scoring(every=5.0)}), "a", "b", "c")
    fleet = of_sidecars(one, 64).model_copy(update={"role": role})
    counted = one.model_copy(update={"role": role})
    assert stream_counts(fleet) == stream_counts(counted, 66) == {60.0: 4, 5.0: 4}
    assert monitor_of(fleet).log_threshold == log_threshold(counted, 66) == log_threshold(one)
    assert promised(fleet) == pytest.approx(1.0)


@pytest.mark.parametrize("role", ["witness", "sidecar"])
def test_what_each_sidecar_asks_its_engine_counts_in_each_pod_beside_what_witnesses_judge(
    config: Config, role: Role
) -> None:
    """Both roles count both, because one file may serve both and the fleet has one budget."""
    one = with_adapters(config.model_copy(update={"kafka": TOPIC, "role": role}), "a", "b", "c")
    served = Served(url="http://localhost:8000")
    models = tuple(model.model_copy(update={"served": served}) for model in one.models)
    both = of_sidecars(one.model_copy(update={"models": models}), 64)
    assert stream_counts(one) == {60.0: 8}
    in_modes = 4 * (1 + len(Mode))
    assert stream_counts(both) == {60.0: 8, 600.0: in_modes * 64}
    by_engine_alone = tuple(model.model_copy(update={"path": None}) for model in models)
    assert stream_counts(both.model_copy(update={"models": by_engine_alone})) == {600.0: in_modes * 64}


def test_sixty_four_sidecars_cost_one_draw_or_two_an_alarm(config: Config) -> None:
    """ln 64 = 4.2 nats, at 2.95 nats a draw beyond tolerance."""
    for adapters in (1, 10, 100):
        one = with_adapters(config, *(f"adapter {n}" for n in range(adapters)))
        needed = [draws_to_alarm(1.0, 0.05, log_threshold(of_sidecars(one, sidecars))) or 0 for sidecars in (1, 64)]
        assert needed[0] > 0 and needed[1] - needed[0] in (1, 2)


def test_saved_evidence_goes_on_where_the_number_of_sidecars_has_changed(config: Config) -> None:
    one = config.model_copy(update={"kafka": TOPIC})
    before, after = monitor_of(one), monitor_of(of_sidecars(one, 64))
    for number in range(3):
        before.observe(make_base_round({"router": "healthy"}, number))
        before.observe(traffic_round("healthy", number, 4))
    after.restore(json.loads(json.dumps(before.state_json())))
    canaries, responses = make_base_round({"router": "healthy"}, 3), traffic_round("healthy", 3, 4)
    assert after.observe(canaries).evidence == before.observe(canaries).evidence
    # The most that one response adds to the clipped mixture follows from the threshold; what is there counts on.
    assert {e.n for e in after.observe(responses).evidence} == {16}


def test_of_a_configured_number_of_streams_all_count_as_judged_at_the_shorter_interval(config: Config) -> None:
    fleet = Alerts(fleet_streams=500, false_pages_per_year=2.0)
    config = config.model_copy(update={"kafka": TOPIC, "alerts": fleet, "scoring": Scoring(every=5.0)})
    assert stream_counts(config) == {5.0: 500}
    assert log_threshold(config) == pytest.approx(math.log(500 * YEAR_S / 5 / 2))


def test_pods_that_are_counted_share_the_budget_as_configured_ones_do(config: Config) -> None:
    """A configured number goes before the one that the store knows, and a number of streams before both."""
    one = config.model_copy(update={"kafka": TOPIC})
    assert one.alerts.pods_are_counted and one.alerts.sidecars is None
    assert stream_counts(one, 20) == stream_counts(of_sidecars(one, 20))
    assert log_threshold(one, 20) == pytest.approx(log_threshold(one) + math.log(20))
    assert monitor_of(one, 20).log_threshold == log_threshold(one, 20)
    configured = of_sidecars(one, 3)
    assert not configured.alerts.pods_are_counted
    assert log_threshold(configured, 20) == log_threshold(configured)
    streams = config.model_copy(update={"alerts": Alerts(fleet_streams=7)})
    assert not streams.alerts.pods_are_counted and log_threshold(streams, 20) == log_threshold(streams)


def test_the_threshold_follows_the_fleet_while_the_agent_runs_and_over_a_restart(
    config: Config, clock: HandClock
) -> None:
    answers = [20, 20, 1]
    for pods in (20, 20, 1):
        judge = Judge(monitor_of(config), "prod", StateFile(config.state_dir), lambda _: None)
        _share_budget(config, judge, judge.pods)
        fleet = FleetSize(judge.pods, partial(answers.pop, 0))
        _beat(config, judge, fleet, clock, [])
        assert judge.log_threshold == log_threshold(config, pods)
        judge.save()
    assert answers == []


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1000.0)


@pytest.mark.parametrize("role", ["sidecar", "apart"])
def test_a_sidecar_and_an_agent_apart_read_the_traffic_and_start_no_models(config: Config, role: str) -> None:
    parts = assemble(config.model_copy(update={"kafka": TOPIC, "role": role}))
    assert parts.worker is None and parts.ownership is None
    assert parts.feeds == (parts.traffic,) and parts.stores_traffic
    left = "base toy is watched by a witness; this pod replays nothing of it"
    does = f"{role}: samples and counts the traffic; loads no model"
    statuses = parts.routes.parts()
    assert statuses["role"] == (True, f"{does}; {left}")
    assert statuses["bases"] == (True, "left to others: toy; nobody is known yet who judges them")
    parts.closing()


def test_the_desired_state_is_a_part_of_its_own_and_nothing_waits_for_it(config: Config, tmp_path: Path) -> None:
    wanted = Desired(llm_inference_service="n/s", api_url="http://127.0.0.1:9", api_dir=tmp_path / "none")
    models = (config.models[0].model_copy(update={"desired": wanted}),)
    parts = assemble(config.model_copy(update={"kafka": TOPIC, "role": "apart", "models": models}))
    assert parts.routes.parts()["desired state"] == (True, "not read yet")
    parts.closing()
    without = assemble(config.model_copy(update={"kafka": TOPIC, "role": "apart"}))
    assert "desired state" not in without.routes.parts()
    without.closing()


def test_a_configuration_that_names_an_engine_alone_is_a_sidecar_which_needs_no_broker(config: Config) -> None:
    asked = Model(name="asked", served=Served(url="http://127.0.0.1:9"), adapters=(Adapter(name="c"),))
    own = {"models": (asked,), "state_dir": config.state_dir, "probes": config.probes, "clickhouse": config.clickhouse}
    parts = assemble(Config(**own))
    assert parts.worker is not None and parts.traffic is None and parts.ownership is None
    assert parts.routes.parts()["role"] == (True, "sidecar: asks engines of `served` for canaries; loads no model")
    parts.closing()


def test_a_witness_owns_nothing_before_its_group_says_so_and_stores_no_traffic(config: Config) -> None:
    parts = assemble(config.model_copy(update={"kafka": TOPIC, "role": "witness"}))
    assert parts.worker is not None and parts.ownership is not None and not parts.stores_traffic
    assert parts.ownership.owned == frozenset() and len(parts.own) == 5
    assert parts.traffic not in parts.feeds and len(parts.feeds) == 4
    statuses = parts.routes.parts()
    assert statuses["role"][1].startswith("witness: ") and not statuses["bases"][0]
    parts.closing()


def test_a_witness_shares_out_the_bases_that_it_replays_and_no_others(config: Config) -> None:
    """Of the others nothing is loaded or judged: to be told that one is its own would be an error."""
    (model,) = config.models
    others = [
        Model(name="seldom", path="/seldom", replay=False, adapters=(Adapter(name="b", path=Path("/b")),)),
        Model(name="asked", served=Served(url="http://127.0.0.1:9"), adapters=(Adapter(name="c"),)),
    ]
    models = (others[0], model, others[1])
    parts = assemble(config.model_copy(update={"kafka": TOPIC, "role": "witness", "models": models}))
    assert isinstance(parts.ownership, OwnedBases)
    everything = parts.ownership._of(Share(frozenset({("gapwatch.replays", 0)}), 1))
    assert everything == {"toy"}
    for owned in (everything, frozenset[str](), everything):
        for own in parts.own:
            own(owned)
    parts.closing()


def test_an_agent_that_does_everything_says_nothing_of_roles(config: Config) -> None:
    parts = assemble(config)
    assert parts.ownership is None and {"role", "bases"}.isdisjoint(parts.routes.parts())
    parts.closing()


def test_the_status_page_has_every_adapter_before_anything_was_judged(config: Config) -> None:
    parts = assemble(config)
    page = parts.routes.page(parts.routes.parts(), False).decode()
    for adapter in config.models[0].adapters:
        assert f'<th scope="row">{adapter.name}' in page
    assert "not judged yet" in page
    parts.closing()
