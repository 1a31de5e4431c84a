"""What doctor reports about the files of a base and its adapters, of which no weights are loaded, and about a serving
engine: whether it is reachable, how it can be asked, and whether it lists what is watched."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli.doctor import cpu_check, desired_checks, model_checks, pagerduty_checks, receiver_checks, watcher_checks
from agent.config import Config, Desired, PagerDuty, load
from agent.demo.receiver import Receiver
from agent.records import Watching
from agent.store import client as store
from agent.store.table_rows import Origin
from agent.terminal.check import Check
from detectors.records import Mode
from probes.golden.archive import save
from tests.agent.desired_state.test_kserve import GROUP, PLACE, kubernetes, source
from tests.agent.findings import heartbeat
from tests.agent.stand_in import StandIn
from tests.agent.store.stored import insert
from tests.probes.goldens import golden
from tests.probes.tiny import tiny_adapter, tiny_base
from tests.probes.worlds import enrolled
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine
from tests.serving_engines.transport import html

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A valid base with one adapter and two canaries."""
    base = tiny_base(tmp_path / "base")
    tiny_adapter(tmp_path / "a", base)
    turns = [[{"role": "user", "content": "q"}], [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]]
    rows = [{"id": f"c{i}", "messages": messages} for i, messages in enumerate(turns)]
    (tmp_path / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    adapter = {"name": "router", "path": "a", "canaries": "canaries.jsonl"}
    path = tmp_path / "gapwatch.yaml"
    settings = {"models": [{"name": "m", "path": "./base", "adapters": [adapter]}], "probes": {"golden_dir": "golden"}}
    path.write_text(yaml.safe_dump(settings))
    return load(path)


def seen(config: Config, part: str) -> Check:
    (found,) = [check for check in model_checks(config) if check.part == part]
    return found


def template(base: Path, text: str) -> None:
    (base / "chat_template.jinja").write_text(text)


def untemplated(base: Path) -> None:
    (base / "chat_template.jinja").unlink()


def torn(base: Path) -> None:
    file = base / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:100])


def lost(base: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (base / name).unlink(missing_ok=True)


def test_a_valid_base_and_adapter_pass(config: Config, tmp_path: Path) -> None:
    told = seen(config, "tokenizer m")
    assert told.ok and told.result == "can be read; prompts that its chat template renders: 2"
    assert seen(config, "adapter router") == Check("adapter router", True, str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (torn, "base: its tokenizer cannot be read (Expecting value: line 7"),
        (lost, "holds no tokenizer files"),
        (untemplated, "2 of 2 prompts cannot be rendered: its tokenizer has no chat template (chat_template.jinja, "),
        (
            lambda base: template(base, NO_SYSTEM),
            "1 of 2 prompts cannot be rendered: the chat template cannot render it (System role not supported): "
            "c1 of router",
        ),
        (
            lambda base: template(base, "{% if %}"),
            "2 of 2 prompts cannot be rendered: the chat template cannot render it (Expected an expression",
        ),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_one_line(
    config: Config, tmp_path: Path, fault: Callable[[Path], None], why: str
) -> None:
    fault(tmp_path / "base")
    told = seen(config, "tokenizer m")
    assert not told.ok and why in told.result and "\n" not in told.result, told.result
    assert seen(config, "base m").ok


def test_a_base_of_weights_alone_uses_the_tokenizer_of_the_golden_one(config: Config, tmp_path: Path) -> None:
    tiny_base(tmp_path / "golden base")
    lost(tmp_path / "base")
    (model,) = config.models
    model = model.model_copy(update={"golden_path": str(tmp_path / "golden base")})
    told = seen(config.model_copy(update={"models": (model,)}), "tokenizer m")
    assert told.ok and f"{tmp_path / 'golden base'}, since {tmp_path / 'base'} holds weights alone" in told.result


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("adapter_model.safetensors", "torn", "adapter_model.safetensors"),
        ("adapter_config.json", '{"peft_type": "LORA", "use_qalora": true}', "use_qalora"),
    ],
)
def test_an_adapter_that_cannot_be_replayed_fails_with_the_reason(
    config: Config, tmp_path: Path, name: str, text: str, why: str
) -> None:
    (tmp_path / "a" / name).write_text(text)
    told = seen(config, "adapter router")
    assert not told.ok and why in told.result


def test_an_adapter_that_does_not_exist_fails(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a").rename(tmp_path / "b")
    told = seen(config, "adapter router")
    assert not told.ok and told.result == f"{tmp_path / 'a'} does not exist"


def test_a_damaged_golden_record_is_to_be_restored_and_a_missing_one_recorded(config: Config, tmp_path: Path) -> None:
    name = config.models[0].adapters[0].name
    assert seen(config, f"golden {name}").wanted == f"gapwatch enrol {name}"
    folder = tmp_path / "golden"
    folder.mkdir(exist_ok=True)
    (folder / f"{'a' * 64}.golden").write_bytes(b"no record")
    damaged = seen(config, f"golden {name}")
    assert not damaged.ok and damaged.wanted.startswith("the accepted file, restored in probes.golden_dir")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ToyEngine()) as server:
        yield server


def of_engine(folder: Path, url: str, adapters: tuple[str, ...] = ("alpha", "beta"), **served: Any) -> Config:
    file = folder / "gapwatch.yaml"
    (folder / "canaries.jsonl").write_text('{"id": "c", "messages": [{"role": "user", "content": "q"}]}\n')
    rows = [{"name": name, "canaries": "canaries.jsonl"} for name in adapters]
    model = {"name": "toy", "served": {"url": url, "base": "base-v1"} | served, "adapters": rows}
    file.write_text(yaml.safe_dump({"models": [model], "probes": {"golden_dir": "golden"}}))
    return load(file)


def checks(config: Config) -> dict[str, Check]:
    return {check.part: check for check in model_checks(config)}


def test_an_engine_that_serves_what_is_watched_passes_with_its_identity_routes_and_sources(
    server: Server, tmp_path: Path
) -> None:
    made = checks(of_engine(tmp_path, server.url))
    wrong = {part for part, check in made.items() if not check.ok}
    assert wrong == {"golden alpha", "golden beta"}
    assert made["engine toy"].result.startswith("vllm 0.33.0, vllm-0.33.0-1f2e3d4c")
    assert made["routes toy"].result == "prompt, walk, generated; lists 20 tokens at a position, context 2048"
    assert made["modes toy"].result == "written, streamed, chat, warm"
    assert made["tokenizer toy"].result == "the engine's; prompts that its chat template renders: 2"
    assert made["adapter alpha"].result.startswith("loaded from ")
    assert made["names toy"].result == "a name that is not loaded is refused"
    assert made["golden alpha"].wanted == "gapwatch enrol alpha"


def test_which_modes_of_an_adapter_can_page_is_said(server: Server, tmp_path: Path) -> None:
    """In process nothing measures their noise, and then none can."""
    accepted, config = enrolled("alpha"), of_engine(tmp_path, server.url, ("alpha",))
    for floors, words in (
        ({}, "none pages: not enrolled through this engine (gapwatch enrol"),
        ({Mode.WRITTEN: 0.01, Mode.CHAT: 0.02}, "page: written, chat; inform alone: streamed, warm, long"),
    ):
        canaries = (replace(c, reference=replace(c.reference, mode_floors=floors)) for c in accepted.canaries)
        shutil.rmtree(tmp_path / "golden", ignore_errors=True)
        save(replace(accepted, canaries=tuple(canaries)), tmp_path / "golden")
        made = checks(config)["modes of alpha"]
        assert made.ok and made.result.startswith(words)


def test_files_beside_an_engine_are_checked_by_names_of_their_own(server: Server, tmp_path: Path) -> None:
    config = of_engine(tmp_path, server.url)
    (model,) = config.models
    at_hand = tuple(adapter.model_copy(update={"path": tmp_path / adapter.name}) for adapter in model.adapters)
    both = model.model_copy(update={"path": str(tmp_path / "base"), "adapters": at_hand})
    made = checks(config.model_copy(update={"models": (both,), "role": "all"}))
    assert made["base toy"].ok and made["causes toy"].ok
    assert not made["files of base toy"].ok and "does not exist" in made["files of base toy"].result
    alone = checks(config.model_copy(update={"models": (both,), "role": "sidecar"}))
    assert not [part for part in alone if part.startswith("files of")], "which loads none"


def test_an_engine_that_is_away_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    (away,) = [check for check in model_checks(of_engine(tmp_path, "http://127.0.0.1:9")) if check.part == "engine toy"]
    assert not away.ok and "http://127.0.0.1:9" in away.result and away.wanted.startswith("served.url")


def test_what_is_no_engine_and_a_token_that_is_missing_are_named(server: Server, tmp_path: Path) -> None:
    server.settings.token = "hunter2"
    refused = checks(of_engine(tmp_path, server.url))["engine toy"]
    assert not refused.ok and "401" in refused.result and "token_file" in refused.wanted
    server.transport.set(html)
    page = checks(of_engine(tmp_path, server.url))["engine toy"]
    assert not page.ok and "no serving engine that is known" in page.result


def test_names_that_are_missing_twice_or_answered_although_unknown_are_named(server: Server, tmp_path: Path) -> None:
    server.settings.twice = "alpha"
    server.engine.faults.unknown_is_base = True
    made = checks(of_engine(tmp_path, server.url, ("alpha", "beta", "gamma")))
    assert made["adapter alpha"].result == "the engine lists 2 models named alpha" and not made["adapter alpha"].ok
    assert made["adapter gamma"].result == "the engine does not list it" and not made["adapter gamma"].ok
    assert made["adapter beta"].ok and not made["names toy"].ok


def test_where_the_engine_is_not_as_its_sidecars_file_wants_it_that_is_told(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "loras.yaml"
    rows = [{"id": "alpha", "source": f"/adapters/{server.engine.adapters['alpha']}"}, {"id": "delta"}]
    file.write_text(
        yaml.safe_dump({"vLLMLoRAConfig": {"defaultBaseModel": "base-v1", "ensureExist": {"models": rows}}})
    )
    config = of_engine(tmp_path, server.url, ("alpha", "delta"), desired_file=str(file))
    told = checks(config)["desired toy"]
    assert not told.ok and told.result == f"{file} wants delta, and the engine does not list it"
    assert checks(of_engine(tmp_path, server.url, ("alpha",), desired_file=str(file)))["desired toy"].ok
    file.unlink()
    assert "is not known" in checks(config)["desired toy"].result


def test_an_adapter_under_the_bases_name_is_a_fault_of_the_base(server: Server, tmp_path: Path) -> None:
    server.engine.faults.base_serves = "alpha"
    made = checks(of_engine(tmp_path, server.url))
    assert not made["base toy"].ok and "the base's name" in made["base toy"].result


def test_a_base_that_the_engine_does_not_list_ends_the_checks_with_the_names_that_it_does(
    server: Server, tmp_path: Path
) -> None:
    made = checks(of_engine(tmp_path, server.url, base="other"))
    assert made["base toy"].result == "the engine lists base-v1, alpha, beta"
    assert made["base toy"].wanted.startswith("served.base") and "adapter alpha" not in made


def test_of_a_sidecar_neither_base_nor_torch_is_looked_at(config: Config) -> None:
    lost = config.models[0].model_copy(update={"path": "/nowhere"})
    checks = list(model_checks(config.model_copy(update={"role": "sidecar", "models": (lost,)})))
    assert [(check.part, check.ok, check.result) for check in checks] == [
        ("base m", True, "base m is watched by a witness; this pod replays nothing of it")
    ]


@pytest.mark.parametrize("dsn", ["server"], indirect=True)
def test_what_a_sidecar_leaves_to_others_has_to_be_watched_by_one_that_is_alive(
    config: Config, dsn: str, migrated: store.Client
) -> None:
    stored = config.clickhouse.model_copy(update={"dsn": dsn})
    sidecar = config.model_copy(update={"role": "sidecar", "cluster": "prod", "clickhouse": stored})
    (unwatched,) = watcher_checks(sidecar)
    assert (unwatched.part, unwatched.ok) == ("watched m", False)
    assert unwatched.result == "by no pod of prod that is alive: router" and "witness.yaml" in unwatched.wanted
    place, now = Origin("prod", "witness-0"), time.time()
    insert(migrated, Watching(now, ("adapter/router",)), replace(heartbeat(now), pod="witness-0"), place=place)
    assert [*watcher_checks(sidecar)] == [Check("watched m", True, "by witness-0")]
    assert [*watcher_checks(sidecar.model_copy(update={"role": "all"}))] == []


def test_what_should_be_served_is_compared_with_what_is_watched_and_what_is_listed(
    tmp_path: Path, server: Server
) -> None:
    config, names = of_engine(tmp_path, server.url), ["alpha", "beta"]
    for desired, words in (
        (names, "llm-serving/support: alpha, beta, as watched"),
        (names[:1], "watched and not desired: beta; listed by the engine and not desired: beta"),
        ([*names, "gamma"], "desired and not watched: gamma; desired and not listed by the engine: gamma"),
    ):
        adapters = [{"name": name, "uri": f"s3://x/{name}"} for name in desired]
        spec = {"model": {"uri": "hf://o/m", "name": "base-v1", "lora": {"adapters": adapters}}}
        answers = {"/apis/serving.kserve.io": (200, GROUP), PLACE: (200, {"metadata": {"name": "m"}, "spec": spec})}
        with kubernetes(answers) as url:
            source(url, tmp_path)
            wanted = Desired(llm_inference_service="llm-serving/support", api_url=url, api_dir=tmp_path)
            models = (config.models[0].model_copy(update={"desired": wanted}),)
            [check] = desired_checks(config.model_copy(update={"models": models}))
        assert (check.ok, words in check.result) == (desired == names, True), check.result
    assert [*desired_checks(config)] == []


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread as configured, "), (2, "2 threads as configured, ")])
def test_one_thread_is_one(config: Config, threads: int, words: str) -> None:
    one = config.model_copy(update={"probes": config.probes.model_copy(update={"threads": threads})})
    (check,) = cpu_check(one)
    assert check.result.startswith(words)


def test_a_canary_file_that_was_edited_after_the_enrolment_is_named(config: Config, tmp_path: Path) -> None:
    made = replace(golden(), adapter="router")
    save(made, tmp_path / "golden")
    rows = [{"id": canary.id, "messages": [{"role": "user", "content": "q"}]} for canary in made.canaries]
    file = tmp_path / "canaries.jsonl"
    adapter = config.models[0].adapters[0].model_copy(update={"canaries": file})
    model = config.models[0].model_copy(update={"adapters": (adapter,)})
    edited = config.model_copy(update={"models": (model,)})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "canaries router" not in checks(edited), "the record is of before texts were stored"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"id": "new"}]))
    stale = checks(edited)["canaries router"]
    assert not stale.ok and stale.result == "the file is not what is replayed; not in the golden record: new"
    assert stale.wanted.startswith("gapwatch enrol router --replace")


@pytest.mark.parametrize(("held", "result"), [("read-only", "tells what is open"), ("other", "HTTP 401")])
def test_a_key_of_pagerdutys_api_is_tried(config: Config, tmp_path: Path, held: str, result: str) -> None:
    (tmp_path / "token").write_text(held)
    with Receiver(api_token="read-only") as receiver:
        pagerduty = PagerDuty(
            routing_key_file=tmp_path / "key", url=receiver.url, api_url=receiver.url, api_token_file=tmp_path / "token"
        )
        alerts = config.alerts.model_copy(update={"pagerduty": pagerduty})
        by_part = {check.part: check for check in pagerduty_checks(config.model_copy(update={"alerts": alerts}))}
        check = by_part["pagerduty API"]
    assert check.ok == (held == "read-only") and result in check.result


def test_receivers_beside_pagerduty_are_looked_at_and_a_webhook_is_not_repeated(config: Config, tmp_path: Path) -> None:
    (tmp_path / "webhook").write_text("http://hooks.example:hunter2/services")
    with StandIn() as stand_in:
        sinks = {"alertmanager": {"urls": (stand_in.url,)}, "slack": {"webhook_file": tmp_path / "webhook"}}
        by_part = {check.part: check for check in receiver_checks(config.model_copy(update={"sinks": sinks}))}
        assert by_part["alertmanager"].ok and by_part["alertmanager"].result.endswith(" answers")
    assert (by_part["slack"].ok, by_part["slack"].result) == (False, "a text that is no such address")
    assert "sinks.slack.webhook_file" in by_part["slack"].wanted and stand_in.requests == []
