"""The configuration file: what it may contain, and the messages for one that is wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.assemble import stream_counts
from agent.config import load, missing_files, seconds, sink_configs
from agent.errors import Refused
from agent.worker.watched_bases import runner_of
from probes.serving.load_limits import LoadLimits

GOOD: dict[str, Any] = {
    "models": [{"name": "m", "path": "org/model", "adapters": [{"name": "a", "path": "adapters/a"}]}]
}

TRAFFIC: dict[str, Any] = {"bootstrap_servers": ["a:1"], "topic": "t"}

ONE: dict[str, Any] = {"name": "a", "path": "adapters/a"}
MORE: dict[str, Any] = {"name": "m", "path": "org/other", "adapters": [ONE | {"name": "b"}]}
SERVED: dict[str, Any] = {"name": "m", "served": {"url": "http://localhost:8000"}, "adapters": [{"name": "a"}]}
BOTH = SERVED | {"path": "org/model", "adapters": [ONE]}
UNLOADED = GOOD["models"][0] | {"replay": False}


def asked(**settings: str) -> dict[str, Any]:
    return SERVED | {"served": SERVED["served"] | settings}


def written(folder: Path, data: object) -> Path:
    path = folder / "gapwatch.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load(written(tmp_path, GOOD))
    assert config.models[0].adapters[0].path == tmp_path / "adapters" / "a"


def test_a_hub_id_is_left_alone_and_a_local_folder_is_anchored(tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    hub = load(written(tmp_path, GOOD))
    local = load(written(tmp_path, {"models": [GOOD["models"][0] | {"path": "local"}]}))
    assert hub.models[0].path == "org/model"
    assert local.models[0].path == str(tmp_path / "local")


@pytest.mark.parametrize(
    ("change", "place", "wanted"),
    [
        ({"kafak": {}}, "kafak", "no key of that name"),
        ({"probes": {"every": "soon"}}, "probes.every", "a duration"),
        ({"scoring": {"every": "0s"}}, "scoring.every", "greater than 0"),
        ({"probes": {"token_budget_per_round": 1}}, "probes.token_budget_per_round", "greater than or equal to 64"),
        ({"alerts": {"sidecars": 0}}, "alerts.sidecars", "greater than or equal to 1"),
        ({"alerts": {"sidecars": 2, "fleet_streams": 9}}, "alerts", "one of the two"),
        (
            {"alerts": {"policy": {"adapters": {"A": {"severity": "critical"}}}}},
            "",
            "saw a policy of A, wanted names of adapters that are watched: a",
        ),
        (
            {"alerts": {"policy": {"causes": {"ignored": {"owner": "x"}}}}},
            "alerts.policy.causes",
            "saw ignored, wanted one of: adapter_not_applied, base_swapped",
        ),
        (
            {
                "alerts": {
                    "policy": {"causes": {"base_swapped": {"owner": "x"}}},
                    "pagerduty": {"routing_key_file": "k"},
                }
            },
            "alerts",
            "saw no service of x, whom the policy names, wanted a file with a routing key for each",
        ),
        ({"clickhouse": {"keep": {"goldens": "90d"}}}, "clickhouse", "tables among: aside, batches"),
        ({"clickhouse": {"keep": {"rounds": "7d"}}}, "clickhouse.keep.rounds", "whole days, 8d or more"),
        ({"clickhouse": {"keep": {"rounds": "200h"}}}, "clickhouse.keep.rounds", "saw 8.33333 days"),
        ({"clickhouse": {"migrations": {"user": "m"}}}, "clickhouse", "saw migrations with an embedded engine"),
        ({"clickhouse": {"migrations": {"user": ""}}}, "clickhouse.migrations.user", "at least 1"),
        ({"clickhouse": {"on_cluster": "a'b"}}, "clickhouse.on_cluster", "pattern"),
        ({"role": "master"}, "role", "'all', 'sidecar', 'witness' or 'apart'"),
        ({"role": "sidecar"}, "file", "saw role sidecar with neither the section kafka nor a model with served"),
        ({"models": [UNLOADED]}, "file", "wanted one of them: it would have nothing to do"),
        ({"role": "apart"}, "file", "saw role apart without the section kafka"),
        ({"role": "witness"}, "file", "wanted that section: it shares the bases with the other witnesses by a topic"),
        (
            {"role": "witness", "kafka": TRAFFIC | {"mode": "assign", "group_id": None}},
            "file",
            "without kafka.group_id",
        ),
        (
            {"role": "witness", "kafka": TRAFFIC | {"replays_topic": "t"}},
            "file",
            "saw kafka.replays_topic t, the topic of the traffic, wanted a topic of its own, which `gapwatch migrate`",
        ),
        (
            {"role": "witness", "kafka": TRAFFIC, "models": [GOOD["models"][0] | {"replay": False}]},
            "file",
            "saw role witness with replay: false for every model, wanted a model to replay, or another role",
        ),
        ({"kafka": TRAFFIC | {"replays_topic": "a b"}}, "kafka.replays_topic", "pattern"),
        ({"kafka": TRAFFIC | {"replays_partitions": 0}}, "kafka.replays_partitions", "greater than or equal to 1"),
        ({"alerts": {"false_pages_per_year": 0}}, "alerts.false_pages_per_year", "greater than 0"),
        ({"models": []}, "models", "at least 1"),
        ({"models": [GOOD["models"][0] | {"adapters": [{"name": "a", "path": "x"}] * 2}]}, "models.0", "adapter names"),
        ({"kafka": {"bootstrap_servers": {}, "topic": "t"}}, "kafka.bootstrap_servers", "tuple"),
        (
            {"kafka": {"bootstrap_servers": "a:1,b", "topic": "t"}},
            "kafka.bootstrap_servers",
            "saw no port, or no host, in number 2, wanted host:port, and [address]",
        ),
        ({"kafka": {"bootstrap_servers": ["::1:9092"], "topic": "t"}}, "kafka.bootstrap_servers", "[address]:port"),
        ({"kafka": {"bootstrap_servers": ["a:1", "b:0"], "topic": "t"}}, "kafka.bootstrap_servers", "in number 2"),
        ({"kafka": {"bootstrap_servers": ["a b:1"], "topic": "t"}}, "kafka.bootstrap_servers", "host:port"),
        ({"kafka": {"bootstrap_servers": ["a..b:1"], "topic": "t"}}, "kafka.bootstrap_servers", "host:port"),
        ({"kafka": {"bootstrap_servers": ["a" * 64 + ":1"], "topic": "t"}}, "kafka.bootstrap_servers", "host:port"),
        (
            {"kafka": {"bootstrap_servers": ["SSL://a:1"], "topic": "t"}},
            "kafka.bootstrap_servers",
            "saw a scheme in number 1, wanted host:port alone",
        ),
        ({"kafka": {"bootstrap_servers": " , ", "topic": "t"}}, "kafka.bootstrap_servers", "at least 1"),
        ({"kafka": {"bootstrap_servers": ["a:1"], "topic": "one,two"}}, "kafka.topic", "pattern"),
        (
            {"kafka": {"bootstrap_servers": ["a:1"], "topic": "t", "sasl_username": "me"}},
            "kafka",
            "security_protocol SASL_SSL or SASL_PLAINTEXT",
        ),
        (
            {"kafka": {"bootstrap_servers": ["a:1"], "topic": "t", "ssl_cafile": "ca"}},
            "kafka",
            "security_protocol SSL or SASL_SSL",
        ),
        ({"models": [GOOD["models"][0], MORE]}, "file", "saw ['m'] twice, wanted names of models that differ"),
        ({"models": [GOOD["models"][0], MORE | {"name": "n", "adapters": [ONE]}]}, "file", "saw ['a'] twice"),
        ({"models": [MORE | {"name": " m"}]}, "models.0.name", "space at an end"),
        ({"models": [MORE | {"adapters": [ONE | {"name": "a\tb"}]}]}, "models.0.adapters.0.name", "printable"),
        (
            {"models": [MORE | {"adapters": [ONE | {"name": "the base"}]}]},
            "models.0.adapters.0.name",
            "saw 'the base', which is what pages call the base, wanted another name",
        ),
        ({"models": [MORE | {"adapters": [ONE | {"golden": "abc"}]}]}, "models.0.adapters.0.golden", "sha256"),
        ({"models": [MORE | {"adapters": [ONE | {"tolerance": 5}]}]}, "models.0.adapters.0.tolerance", "less than 1"),
        ({"sampling": {"rate": 1.5}}, "sampling.rate", "less than or equal to 1"),
        ({"sampling": {"rate": True}}, "sampling.rate", "saw true, wanted a number"),
        ({"sampling": {"rate": "few"}}, "sampling.rate", "saw 'few', wanted a valid number"),
        ({"models": [{"name": "m"}]}, "models.0.adapters", "saw nothing, wanted a value: this key has no default"),
        ({"models": [{"name": "m", "adapters": [ONE]}]}, "models.0", "saw neither path nor served, wanted path: the"),
        (
            {"models": [MORE | {"adapters": [{"name": "b"}]}]},
            "models.0",
            "saw no path of b, wanted path: the adapter's",
        ),
        ({"models": [SERVED | {"replay": False}]}, "models.0", "saw served with replay: false, wanted one of the two"),
        ({"models": [asked(url="localhost:8000")]}, "models.0.served.url", "without http:// or https:// and a host"),
        ({"models": [asked(url="http://u:secret@h")]}, "models.0.served.url", "a token is read from token_file"),
        ({"models": [asked(url="http://h/v1/models")]}, "models.0.served.url", "saw another path or a query"),
        ({"models": [asked(url="http://h:port")]}, "models.0.served.url", "saw one that cannot be read"),
        ({"models": [asked(engine="ollama")]}, "models.0.served.engine", "saw ollama, wanted one of: auto"),
        ({"models": [asked(every="soon")]}, "models.0.served.every", "a duration"),
        ({"models": [asked(token="secret")]}, "models.0.served.token", "wanted token_file, the path of a file that"),
        ({"models": [SERVED], "probes": {"canaries": False}}, "file", "saw probes.canaries false with served"),
        ({"probes": {"runner": "served"}}, "probes.runner", "saw served, wanted models[].served: {url"),
        ({"probes": {"threads": False}}, "probes.threads", "saw false, wanted a number"),
        ({"probes": {"every": "5"}}, "probes.every", 'a duration such as "60s"'),
        ({"probes": {"every": float("inf")}}, "probes.every", "finite"),
        ({"alerts": {"false_pages_per_year": float("inf")}}, "alerts.false_pages_per_year", "finite"),
        ({"probes": {"device": "gpu"}}, "probes.device", "cuda"),
        ({"probes": {"seed": -1}}, "probes.seed", "greater than or equal to 0"),
        ({"clickhouse": {"store_text": "perhaps"}}, "clickhouse.store_text", "boolean"),
        (
            {"clickhouse": {"dsn": "mysql://u@h/db"}},
            "clickhouse.dsn",
            "saw mysql://, another protocol, wanted clickhouse://user@host:8443/database",
        ),
        (
            {"clickhouse": {"dsn": "clickhouse://u@h:9000/db"}},
            "clickhouse.dsn",
            "saw port 9000, ClickHouse's native protocol, wanted its HTTP interface: port 8123",
        ),
        ({"telemetry": {"prometheus_port": 9, "control_port": 9}}, "telemetry", "two ports that differ"),
        (
            {"alerts": {"pagerduty": {"routing_key_file": "k", "url": "http://events.pagerduty.com"}}},
            "alerts.pagerduty.url",
            "https://events.pagerduty.com",
        ),
        (
            {"sinks": {"pigeon": {}}},
            "sinks.pigeon",
            "this key, wanted one of: alertmanager, clickhouse, dead_mans_switch",
        ),
        (
            {"sinks": {"memory": {"keep": 0}}},
            "sinks.memory.keep",
            "saw 0, wanted a value greater than or",
        ),
        ({"sinks": {"memory": {"kepe": 5}}}, "sinks.memory.kepe", "saw this key, wanted no key of that name here"),
        ({"sinks": {"memory": {"keep": True}}}, "sinks.memory.keep", "saw true, wanted a number"),
        ({"sinks": {"memory": None}}, "sinks.memory", "dictionary"),
        ({"sinks": {"clickhouse": {"dsn": "chdb:///x"}}}, "sinks.clickhouse.dsn", "wanted clickhouse.dsn, where it is"),
        ({"sinks": {"clickhouse": {"max_rows": 0}}}, "sinks.clickhouse.max_rows", "greater than or equal to 1"),
        ({"sinks": {"pagerduty": {}}}, "sinks.pagerduty", "saw no alerts.pagerduty, wanted that section"),
        ({"probes": {"runner": "in_proces"}}, "probes.runner", "saw in_proces, wanted one of: in_process, memory"),
        (
            {"probes": {"runner_settings": {"dtyp": "float32"}}},
            "probes.runner_settings",
            "saw dtyp, wanted one of: dt",
        ),
        (
            {"probes": {"runner": "memory", "runner_settings": {"noise": "loud"}}},
            "probes.runner_settings",
            "saw noise: str, wanted noise: a number",
        ),
        (
            {"probes": {"runner": "memory", "runner_settings": {"noise": True}}},
            "probes.runner_settings",
            "saw noise: bool, wanted noise: a number",
        ),
        ({"cluster": ""}, "cluster", "at least 1 character"),
        ({"state_dir": "${STATE}/gapwatch"}, "state_dir", "the value itself: nothing is expanded here"),
        ({"models": [MORE | {"path": "$(BASE)"}]}, "models.0.path", "the value itself"),
        ({"models": [MORE | {"path": "$HOME/base"}]}, "models.0.path", "the value itself"),
        ({"cluster": "{{ .Values.cluster }}"}, "cluster", "the value itself"),
        (
            {"models": [GOOD["models"][0] | {"adapters": [{"name": "a", "path": "x", "tolerance": 0}]}]},
            "models.0.adapters.0.tolerance",
            "greater than 0",
        ),
    ],
)
def test_a_wrong_file_gets_one_line_with_the_place_and_what_was_wanted(
    tmp_path: Path, change: dict[str, Any], place: str, wanted: str
) -> None:
    path = written(tmp_path, GOOD | change)
    with pytest.raises(Refused) as refused:
        load(path)
    said = str(refused.value)
    assert "\n" not in said
    assert place in said
    assert wanted in said


def test_an_owners_key_is_a_file_beside_the_configuration_that_must_be_there(tmp_path: Path) -> None:
    alerts = {
        "policy": {"causes": {"base_swapped": {"owner": "models"}}},
        "pagerduty": {"routing_key_file": "k", "owners": {"models": "m"}},
    }
    config = load(written(tmp_path, GOOD | {"alerts": alerts}))
    assert config.alerts.pagerduty is not None and config.alerts.pagerduty.owners == {"models": tmp_path / "m"}
    places = [str(missing) for missing in missing_files(config)]
    assert any(place.startswith("alerts.pagerduty.owners.models: ") for place in places)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://events.pagerduty.com/v2/enqueue", "https://events.pagerduty.com"),
        ("https://events.eu.pagerduty.com", "https://events.eu.pagerduty.com"),
    ],
)
def test_the_address_of_pagerduty_may_be_written_as_other_tools_want_it(tmp_path: Path, url: str, host: str) -> None:
    config = load(written(tmp_path, GOOD | {"alerts": {"pagerduty": {"routing_key_file": "k", "url": url}}}))
    assert config.alerts.pagerduty is not None and config.alerts.pagerduty.url == host


@pytest.mark.parametrize(
    ("servers", "listed"),
    [
        ("a:9092,b:9093", ("a:9092", "b:9093")),
        (" a:9092 , b:9093, ", ("a:9092", "b:9093")),
        (["a:9092", "b:9093"], ("a:9092", "b:9093")),
        (["a:9092,b:9093"], ("a:9092", "b:9093")),
        ("[::1]:9092", ("[::1]:9092",)),
    ],
)
def test_brokers_may_be_one_text_with_commas(tmp_path: Path, servers: object, listed: tuple[str, ...]) -> None:
    config = load(written(tmp_path, GOOD | {"kafka": {"bootstrap_servers": servers, "topic": "t"}}))
    assert config.kafka is not None and config.kafka.bootstrap_servers == listed


@pytest.mark.parametrize("name", ["org/model@v2", "base:adapter", "a+b#1", "größer als 3", "_a", "-a", "x" * 255])
def test_names_that_engines_allow_are_allowed(tmp_path: Path, name: str) -> None:
    config = load(written(tmp_path, {"models": [MORE | {"adapters": [ONE | {"name": name}]}]}))
    assert config.adapter(name)[1].name == name


def test_paths_from_the_home_folder_are_not_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    models = [MORE | {"path": "~/base", "adapters": [ONE | {"path": "~/a"}]}]
    config = load(written(tmp_path, {"models": models, "state_dir": "~/state"}))
    assert config.models[0].path == "/home/somebody/base"
    assert config.models[0].adapters[0].path == Path("/home/somebody/a")
    assert config.state_dir == Path("/home/somebody/state")


@pytest.mark.parametrize("path", ["base", "models/team/base", "./org/model", "a/b.gguf"])
def test_a_base_that_is_no_hub_id_is_relative_to_the_file(tmp_path: Path, path: str) -> None:
    config = load(written(tmp_path, {"models": [MORE | {"path": path}]}))
    assert config.models[0].path == str(tmp_path / path)


@pytest.mark.parametrize(
    ("change", "place", "file"),
    [
        (
            {"kafka": {"bootstrap_servers": ["h:1"], "topic": "t", "sasl_password": "hunter2"}},
            "kafka.sasl_password",
            "sasl_password_file, the path of a file",
        ),
        ({"clickhouse": {"password": "hunter2"}}, "clickhouse.password", "password_file, the path of a file"),
        ({"clickhouse": {"token": "hunter2"}}, "clickhouse.token", "password_file, the path of a file"),
        (
            {"alerts": {"pagerduty": {"routing_key_file": "k", "routing_key": "hunter2"}}},
            "alerts.pagerduty.routing_key",
            "routing_key_file, the path of a file",
        ),
        (
            {"alerts": {"pagerduty": {"routing_key_file": "k", "integration_key": "hunter2"}}},
            "alerts.pagerduty.integration_key",
            "routing_key_file, the path of a file",
        ),
        (
            {"sinks": {"alertmanager": {"urls": ["http://a"], "token": "hunter2"}}},
            "sinks.alertmanager.token",
            "token_file",
        ),
        ({"api_key": "hunter2"}, "api_key", "alerts.pagerduty.routing_key_file"),
        ({"alerts": {"pagerduty_api_token": "hunter2"}}, "alerts.pagerduty_api_token", "kafka.sasl_password_file"),
    ],
)
def test_a_secret_in_the_file_is_refused_with_the_key_that_names_its_file(
    tmp_path: Path, change: dict[str, Any], place: str, file: str
) -> None:
    with pytest.raises(Refused) as refused:
        load(written(tmp_path, GOOD | change))
    assert refused.value.place.endswith(f": {place}")
    assert file in refused.value.wanted
    assert "hunter2" not in str(refused.value)


PASSWORD = "hunter2"
ADDRESS = f"clickhouse://gapwatch:{PASSWORD}@host:8443/gapwatch"


@pytest.mark.parametrize(
    "change",
    [
        {"password": PASSWORD},
        {"kafka": {"bootstrap_servers": ["h:1"], "topic": "t", "sasl_password": PASSWORD}},
        {
            "kafka": {
                "bootstrap_servers": ["h:1"],
                "topic": "t",
                "security_protocol": "SASL_SSL",
                "sasl_username": PASSWORD,
            }
        },
        {"kafka": {"bootstrap_servers": f"user:{PASSWORD}@h:1", "topic": "t"}},
        {"kafka": {"bootstrap_servers": ["h:1"], "topic": "t", "sasl_mechanism": PASSWORD}},
        {"kafka": PASSWORD},
        {"clickhouse": ADDRESS},
        {"clickhouse": {"dsn": [ADDRESS]}},
        {"clickhouse": {"store_text": ADDRESS}},
        {"alerts": {"pagerduty": {"url": f"https://user:{PASSWORD}@host", "routing_key_file": "x"}}},
        {"models": [{"name": "m", "path": "p", "adapters": [{"path": "a", "golden": PASSWORD}]}]},
        {ADDRESS: 1},
        {"kafka": {"bootstrap_servers": [f"SASL_SSL://user:{PASSWORD}@h:1"], "topic": "t"}},
        {"clickhouse": {"dsn": ADDRESS}},
        {"clickhouse": {"dsn": PASSWORD}},
        {"alerts": {"pagerduty": {"url": f"https://events.pagerduty.com/{PASSWORD}", "routing_key_file": "x"}}},
        {"clickhouse": {"dsn": f"${{{PASSWORD}}}"}},
        {"sinks": {"pagerduty": {"routing_key": PASSWORD}}},
        {"sinks": {ADDRESS: {}}},
        {"sinks": {"memory": ADDRESS}},
        {"probes": {"runner": ADDRESS}},
        f"password: {PASSWORD}\npassword: {PASSWORD}",
        f"{PASSWORD}: 1\n{ADDRESS}: 1\n{ADDRESS}: 1",
        f"models: *{PASSWORD}",
        f"models: !{PASSWORD} x",
    ],
)
def test_a_secret_in_a_wrong_place_is_not_repeated(tmp_path: Path, change: dict[str, Any] | str) -> None:
    path = written(tmp_path, GOOD | change if isinstance(change, dict) else change)
    with pytest.raises(Refused) as refused:
        load(path)
    assert PASSWORD not in str(refused.value)


def test_a_secret_in_place_of_its_file_is_not_repeated(tmp_path: Path) -> None:
    (problem,) = missing_files(load(written(tmp_path, GOOD | {"clickhouse": {"password_file": PASSWORD}})))
    assert problem.place == "clickhouse.password_file" and PASSWORD not in str(problem)


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere\.yaml: saw no such file"):
        load(tmp_path / "nowhere.yaml")


def test_sinks_are_on_by_their_section_or_by_their_key_and_pagerduty_is_first(tmp_path: Path) -> None:
    pager = {"pagerduty": {"routing_key_file": "key", "dashboard_url": "https://grafana"}}
    more = {"pagerduty": {"throttle_s": 5}, "clickhouse": {"max_rows": 9}, "memory": {"keep": 7}}
    config = load(written(tmp_path, GOOD | {"alerts": pager, "clickhouse": {"store_text": True}, "sinks": more}))
    sinks = {name: own.model_dump() for name, own in sink_configs(config).items()}
    assert list(sinks) == ["pagerduty", "clickhouse", "memory", "prometheus", "status_page"]
    assert (sinks["pagerduty"]["routing_key_file"], sinks["pagerduty"]["throttle_s"]) == (tmp_path / "key", 5.0)
    assert sinks["pagerduty"]["dashboard_url"] == "https://grafana"
    assert (sinks["clickhouse"]["store_text"], sinks["clickhouse"]["max_rows"]) == (True, 9)
    assert sinks["memory"] == {"keep": 7}
    assert list(sink_configs(load(written(tmp_path, GOOD)))) == ["clickhouse", "prometheus", "status_page"]


def test_sinks_and_runner_are_checked_without_the_model_libraries(tmp_path: Path) -> None:
    settings = {"sinks": {"memory": {}}, "probes": {"runner_settings": {"dtype": "float32"}}}
    path = written(tmp_path, GOOD | settings)
    code = f"""
import sys
from pathlib import Path
from agent.cli.check_config import check
assert check(Path({str(path)!r}), json=True) == 0
assert "torch" not in sys.modules
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def test_files_that_the_configuration_names_must_exist(tmp_path: Path) -> None:
    models = [GOOD["models"][0] | {"adapters": [{"name": "a", "path": "x", "canaries": "c.jsonl"}]}]
    config = load(written(tmp_path, {"models": models}))
    assert [problem.place for problem in missing_files(config)] == ["models.0.adapters.0.canaries"]
    (tmp_path / "c.jsonl").touch()
    assert missing_files(config) == []


@pytest.mark.parametrize(("text", "value"), [("250ms", 0.25), ("60s", 60.0), ("5m", 300.0), (2, 2.0), ("1.5h", 5400.0)])
def test_durations_are_read_in_the_usual_units(text: object, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("written_as", "value"),
    [(0.05, 0.05), (1, 1.0), ("6GB", 6e9), ("1.5 GiB", 1.5 * 2**30), ("500MB", 5e8), (6_000_000_000, 6e9)],
)
def test_the_memory_of_a_gpu_is_a_share_of_it_or_bytes(tmp_path: Path, written_as: object, value: float) -> None:
    assert load(written(tmp_path, GOOD | {"probes": {"device_memory": written_as}})).device_memory == value


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "5%", "0GB", "6", "6 TB"])
def test_what_is_neither_share_nor_bytes_is_refused(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(Refused, match=r"probes.device_memory.*share of the card up to 1, such as 0.05, or bytes"):
        load(written(tmp_path, GOOD | {"probes": {"device_memory": wrong}}))


def test_beside_an_engine_a_gpu_is_left_to_it_and_a_witness_has_its_own(tmp_path: Path) -> None:
    kafka = {"bootstrap_servers": "k:9092", "topic": "t", "group_id": "g", "replays_topic": "r"}
    by_role = {
        role: load(written(tmp_path, GOOD | {"role": role, "kafka": kafka})).device_memory
        for role in ("all", "witness")
    }
    assert by_role == {"all": 0.05, "witness": 0.9}


def test_an_unknown_adapter_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="one of: a"):
        load(written(tmp_path, GOOD)).adapter("b")


SCORED: dict[str, Any] = {"kafka": {"bootstrap_servers": ["host:1"], "topic": "t"}}


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, False),
        (SCORED, True),
        (SCORED | {"scoring": {"enabled": False}}, False),
        (SCORED | {"models": [GOOD["models"][0] | {"golden_path": "org/accepted"}]}, False),
        (SCORED | {"models": [GOOD["models"][0] | {"replay": False}]}, False),
        (SCORED | {"probes": {"keep_golden_weights": False}}, False),
        ({"probes": {"keep_golden_weights": True}}, True),
    ],
)
def test_the_accepted_base_is_kept_where_scoring_needs_it_unless_the_file_says(
    tmp_path: Path, change: dict[str, Any], kept: bool
) -> None:
    config = load(written(tmp_path, GOOD | change))
    assert config.keeps_weights(config.models[0]) is kept


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://localhost:8000", "http://localhost:8000"),
        ("https://engine.internal/v1/", "https://engine.internal"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_one_address_is_enough_for_a_model_whose_engine_is_asked(tmp_path: Path, url: str, read: str) -> None:
    config = load(written(tmp_path, {"models": [asked(url=url)]}))
    (model,) = config.models
    assert model.served is not None and model.path is None and model.adapters[0].path is None
    assert model.served.settings == {"url": read, "engine": "auto"} | dict.fromkeys(
        ("token_file", "ca_file", "pause_file", "desired_file"), ""
    )
    assert LoadLimits(**model.served.limits.settings) == LoadLimits()
    assert not config.keeps_weights(model) and not config.in_process(model)


def test_files_of_an_engine_are_relative_to_the_configuration_and_have_to_exist(tmp_path: Path) -> None:
    config = load(written(tmp_path, {"models": [asked(token_file="token", ca_file="ca.crt")]}))
    assert config.models[0].served is not None
    assert config.models[0].served.settings["token_file"] == str(tmp_path / "token")
    assert [problem.place for problem in missing_files(config)] == [
        "models.0.served.token_file",
        "models.0.served.ca_file",
    ]
    assert "ca.crt" in str(missing_files(config)[1]) and "token'" not in str(missing_files(config)[0])


def test_an_engine_is_asked_every_ten_minutes_and_files_every_minute_unless_the_file_says(tmp_path: Path) -> None:
    def cadence(**settings: str) -> list[float]:
        models = [asked(**settings), MORE | {"name": "n"}]
        config = load(written(tmp_path, {"models": models, "probes": {"every": "30s"}}))
        return [config.canaries_every(model) for model in config.models]

    assert cadence() == [600.0, 30.0]
    assert cadence(every="5s") == [5.0, 30.0]


def test_responses_of_a_served_base_are_not_scored(tmp_path: Path) -> None:
    kafka = {"bootstrap_servers": ["a:1"], "topic": "t"}
    config = load(written(tmp_path, {"models": [SERVED, MORE | {"name": "n"}], "kafka": kafka}))
    assert [config.scores(model) for model in config.models] == [False, True]


@pytest.mark.parametrize(
    ("role", "by_engine", "in_process", "scored"),
    [("all", True, True, True), ("sidecar", True, False, False), ("witness", False, True, True)],
)
def test_a_base_with_files_and_an_engine_is_asked_of_the_one_loaded_from_the_other_or_both_by_the_role(
    tmp_path: Path, role: str, by_engine: bool, in_process: bool, scored: bool
) -> None:
    both = GOOD["models"][0] | {"served": {"url": "http://localhost:8000", "every": "5m"}}
    settings = {"models": [both], "probes": {"every": "30s"}, "kafka": TRAFFIC, "role": role}
    config = load(written(tmp_path, GOOD | settings))
    (model,) = config.models
    assert (config.by_engine(model), config.in_process(model), config.scores(model)) == (by_engine, in_process, scored)
    assert config.canaries_every(model) == (300.0 if by_engine else 30.0)
    no_folder = [{key: value for key, value in own.items() if key != "path"} for own in both["adapters"]]
    if role != "witness":  # which needs something to replay
        (model,) = (
            bare := load(written(tmp_path, GOOD | settings | {"models": [both | {"adapters": no_folder}]}))
        ).models
        assert bare.by_engine(model) and not bare.in_process(model), "nothing of its adapters is at hand"


def test_rounds_of_responses_come_as_often_as_those_of_canaries_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    as_canaries = load(written(tmp_path, GOOD | {"probes": {"every": "5m"}}))
    of_their_own = load(written(tmp_path, GOOD | {"probes": {"every": "5m"}, "scoring": {"every": "10s"}}))
    assert (as_canaries.responses_every, of_their_own.responses_every) == (300.0, 10.0)


@pytest.mark.parametrize(
    ("given", "name"),
    [({}, "gr--er--3"), ({"group_instance_id": "own"}, "own"), ({"group_instance_id": ""}, "")],
    ids=["the pod's", "its own", "none"],
)
def test_an_agent_has_the_name_of_its_pod_in_the_consumer_group(
    tmp_path: Path, given: dict[str, str], name: str
) -> None:
    """As far as Kafka allows the characters."""
    kafka = {"bootstrap_servers": "a:1", "topic": "t", **given}
    config = load(written(tmp_path, GOOD | {"kafka": kafka, "pod": "größer #3"}))
    assert config.kafka is not None and config.kafka.group_instance_id == name


@pytest.mark.parametrize(("role", "replayed"), [("all", 1), ("witness", 1), ("sidecar", 0), ("apart", 0)])
def test_only_an_agent_that_does_everything_and_a_witness_replay(tmp_path: Path, role: str, replayed: int) -> None:
    config = load(written(tmp_path, GOOD | {"role": role, "kafka": TRAFFIC}))
    assert len(config.replayed) == replayed
    unwatched = [GOOD["models"][0] | {"replay": False}]
    if role != "witness":
        assert load(written(tmp_path, GOOD | {"role": role, "kafka": TRAFFIC, "models": unwatched})).replayed == ()


@pytest.mark.parametrize(
    ("models", "role"),
    [
        ([SERVED], "sidecar"),
        ([BOTH], "sidecar"),
        ([SERVED, UNLOADED | {"name": "n", "adapters": [ONE | {"name": "b"}]}], "sidecar"),
        (GOOD["models"], "all"),
        ([SERVED, MORE | {"name": "n"}], "all"),
    ],
    ids=["engine", "engine and files", "engine, and counted alone", "files", "of one the files alone"],
)
def test_where_no_role_is_written_every_model_is_watched_and_none_is_loaded_without_need(
    tmp_path: Path, models: list[dict[str, Any]], role: str
) -> None:
    config = load(written(tmp_path, {"models": models}))
    assert config.role == role and not config.left_to_others
    loaded = {model.name for model in config.replayed if config.in_process(model)}
    assert loaded == {model["name"] for model in models if "served" not in model and model.get("replay", True)}


OTHERS = {"by files": "a witness", "by engine": "a sidecar beside its engine"}
OTHERS["by both"] = f"{OTHERS['by engine']} and {OTHERS['by files']}"


@pytest.mark.parametrize(
    ("role", "left"),
    [
        ("sidecar", ["by files"]),
        ("apart", ["by both", "by files", "by engine"]),
        ("witness", ["by engine"]),
        ("all", []),
    ],
)
def test_a_role_that_is_written_holds_and_what_it_does_not_replay_is_said_to_be_left_to_whom(
    tmp_path: Path, role: str, left: list[str]
) -> None:
    models = [
        BOTH | {"name": "by both"},
        MORE | {"name": "by files"},
        SERVED | {"name": "by engine", "adapters": [{"name": "c"}]},
        UNLOADED | {"name": "counted alone", "adapters": [ONE | {"name": "d"}]},
    ]
    config = load(written(tmp_path, {"role": role, "models": models, "kafka": TRAFFIC}))
    assert config.role == role
    assert config.left_to_others == {
        name: f"base {name} is watched by {OTHERS[name]}; this pod replays nothing of it" for name in left
    }


@pytest.mark.parametrize(
    "more", [{"role": "apart"}, {"models": [{"name": "m", "replay": False, "adapters": [{"name": "a"}]}]}]
)
def test_who_replays_nothing_needs_no_path(tmp_path: Path, more: dict[str, Any]) -> None:
    nameless = {"models": [{"name": "m", "adapters": [{"name": "a"}]}], "kafka": TRAFFIC}
    config = load(written(tmp_path, nameless | more))
    assert not config.replayed and config.base_requests == {"m": "m"}
    left = {"m": "base m is watched by another agent; this pod replays nothing of it"}
    assert config.left_to_others == (left if config.role == "apart" else {})
    assert stream_counts(config)
    with pytest.raises(Refused, match="model m: saw no path, wanted path: the base's folder"):
        runner_of(config, config.models[0])


def test_witnesses_are_one_group_for_the_bases_and_each_its_own_for_the_traffic(tmp_path: Path) -> None:
    witness = load(written(tmp_path, GOOD | {"role": "witness", "pod": "w-0", "kafka": TRAFFIC}))
    assert witness.kafka is not None
    owning, reading = witness.kafka.of_ownership(), witness.kafka.of_witness("w-0")
    assert (owning.topic, owning.group_id, owning.group_instance_id) == ("gapwatch.replays", "gapwatch.witness", "w-0")
    assert (reading.topic, reading.group_id, reading.mode) == ("t", "gapwatch.witness.w-0", "group")
    assert witness.consumer_group == "gapwatch.witness"
    assert load(written(tmp_path, GOOD | {"role": "sidecar", "kafka": TRAFFIC})).consumer_group == "gapwatch"


def test_requests_ask_for_a_base_by_its_name_or_by_the_one_that_its_engine_lists(tmp_path: Path) -> None:
    """Where two bases, or a base and an adapter, have that name, nobody knows whose requests they are."""

    def names(*models: dict[str, Any]) -> dict[str, str]:
        return load(written(tmp_path, {"models": list(models)})).base_requests

    engine, again = asked(base="org/Base"), asked(base="org/Base") | {"name": "again", "adapters": [{"name": "c"}]}
    other = MORE | {"name": "n"}
    assert names(engine, other) == {"org/Base": "m", "n": "n"}
    assert names(engine, again, other) == {"n": "n"}
    assert names(engine, other | {"adapters": [ONE | {"name": "n"}]}) == {"org/Base": "m"}
