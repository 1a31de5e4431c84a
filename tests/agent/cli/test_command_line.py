"""Exit codes and messages of the commands, each run in its own process, as a user starts it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from ast import literal_eval
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from probes.golden.archive import save
from probes.golden.weights import folder_of
from tests.probes.goldens import golden

ROOT = Path(__file__).resolve().parents[3]


def gapwatch(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", **variables}
    command = [sys.executable, "-m", "agent", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of which nothing exists: no broker, no server, no base."""
    (tmp_path / "key").write_text("k" * 32)
    adapter = {"name": "a", "path": "adapters/a"}
    settings = {
        "models": [{"name": "m", "path": "./base", "adapters": [adapter]}],
        "kafka": {"bootstrap_servers": ["127.0.0.1:9"], "topic": "t"},
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "alerts": {"pagerduty": {"routing_key_file": "key", "url": "http://127.0.0.1:9"}},
        "probes": {"golden_dir": "golden", "cache_dir": "cache"},
        "telemetry": {"prometheus_port": 0, "control_port": 9},
        "state_dir": "state",
    }
    path = tmp_path / "gapwatch.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.parametrize("words", [("fly",), ("query", "--fast"), ("probe", "--config")])
def test_wrong_usage_ends_with_64_and_a_line(words: tuple[str, ...]) -> None:
    done = gapwatch(*words)
    assert done.returncode == 64
    assert "Traceback" not in done.stderr
    assert "gapwatch --help" in done.stderr


def test_an_unknown_log_level_ends_with_64_and_the_known_ones() -> None:
    """1 would mean that an adapter is degraded."""
    done = gapwatch("sample-config", GAPWATCH_LOG="verbose")
    assert done.returncode == 64 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "refused: GAPWATCH_LOG: saw 'verbose', wanted one of: debug, info, warning, error, critical"
    ]


@pytest.mark.parametrize("columns", ["", "wide"])
def test_a_terminal_width_that_is_no_number_is_ignored(columns: str, config: Path) -> None:
    done = gapwatch("query", "--config", str(config), COLUMNS=columns)
    assert done.returncode == 0 and "requests_since" in done.stdout, done.stderr


def test_an_unknown_question_is_refused_before_any_store_is_asked(config: Path) -> None:
    done = gapwatch("query", "no_such_question", "--config", str(config))
    assert done.returncode == 64
    assert "no_such_question" in done.stderr and "requests_since" in done.stderr, done.stderr


def test_an_unknown_key_ends_with_64_and_its_place(config: Path) -> None:
    config.write_text(config.read_text() + "\nkafak: {}\n")
    done = gapwatch("check-config", "--config", str(config))
    assert done.returncode == 64
    wanted = "no key of that name here (gapwatch sample-config prints them all)"
    assert done.stderr.strip().splitlines()[-1] == f"refused: {config}: kafak: saw this key, wanted {wanted}"


def test_check_config_passes_a_sound_file_and_names_a_missing_one(config: Path) -> None:
    assert gapwatch("check-config", "--config", str(config)).returncode == 0
    (config.parent / "key").unlink()
    done = gapwatch("check-config", "--json", "--config", str(config))
    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"] == [
        f"alerts.pagerduty.routing_key_file: saw no file of that name under {config.parent}, wanted a file that exists"
    ]


def test_check_config_notes_what_follows_when_the_base_is_not_kept(config: Path) -> None:
    told = gapwatch("check-config", "--json", "--config", str(config))
    assert not any("keep_golden_weights" in note for note in json.loads(told.stdout)["notes"])
    config.write_text(
        config.read_text().replace("golden_dir: golden", "golden_dir: golden\n  keep_golden_weights: false")
    )
    told = gapwatch("check-config", "--config", str(config))
    assert told.returncode == 0
    assert "probes.keep_golden_weights is false: of base m, once the base has moved" in told.stdout + told.stderr


def test_doctor_says_whether_the_accepted_base_is_kept(config: Path) -> None:
    accepted = replace(golden(), adapter="a")
    save(accepted, config.parent / "golden")
    (before,) = kept_bases(config)
    assert not before["ok"] and "no response is scored" in before["seen"] and "gapwatch enrol a" in before["wanted"]
    folder_of(config.parent / "golden", accepted.base_hash).mkdir(parents=True)
    (after,) = kept_bases(config)
    assert after["ok"] and "kept in" in after["seen"]


def kept_bases(config: Path) -> list[dict[str, Any]]:
    checks = json.loads(gapwatch("doctor", "--json", "--config", str(config)).stdout)
    return [check for check in checks if check["part"] == "accepted base of a"]


def test_doctor_explains_each_part_that_is_away(config: Path) -> None:
    done = gapwatch("doctor", "--json", "--config", str(config))
    assert done.returncode == 1
    wrong = {check["part"]: check for check in json.loads(done.stdout) if not check["ok"]}
    assert {"kafka tcp", "clickhouse", "pagerduty host", "base m", "golden a"} <= {part.lower() for part in wrong}
    assert all(check["seen"] and check["wanted"] for check in wrong.values())


def test_query_without_a_name_lists_the_questions(config: Path) -> None:
    done = gapwatch("query", "--json", "--config", str(config))
    assert done.returncode == 0
    listed = {question["name"] for question in json.loads(done.stdout)}
    assert {"degraded", "since", "flipped", "requests_since"} <= listed


def test_query_of_a_store_that_is_away_says_so(config: Path) -> None:
    done = gapwatch("query", "degraded", "--config", str(config))
    assert done.returncode == 2
    assert "Connection refused" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_probe_without_golden_records_cannot_tell(config: Path) -> None:
    done = gapwatch("probe", "--json", "--config", str(config))
    assert done.returncode == 2
    (verdict,) = json.loads(done.stdout)
    assert verdict["status"] == "unmonitorable"
    assert verdict["reason"] == "no_golden"
    told = gapwatch("probe", "--config", str(config))
    assert "first action: put the golden record of a back" in " ".join((told.stdout + told.stderr).split())


def test_enrol_refuses_a_replacement_without_a_reason(config: Path) -> None:
    done = gapwatch("enrol", "a", "--replace", "--config", str(config))
    assert done.returncode == 64
    assert "--why" in done.stderr


def test_a_damaged_golden_record_is_one_line_and_no_traceback(config: Path) -> None:
    (config.parent / "golden").mkdir()
    (config.parent / "golden" / f"{'0' * 64}.golden").write_bytes(b"torn")
    done = gapwatch("enrol", "a", "--config", str(config))
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "a header that cannot be read" in line and "restore or remove the file" in line


def test_check_config_needs_no_path_of_a_model_whose_engine_is_asked_and_notes_what_is_not_scored(
    tmp_path: Path,
) -> None:
    models = [{"name": "m", "served": {"url": "http://127.0.0.1:9"}, "adapters": [{"name": "a"}, {"name": "b"}]}]
    file = tmp_path / "engine.yaml"
    file.write_text(yaml.safe_dump({"models": models, "kafka": {"bootstrap_servers": ["a:1"], "topic": "t"}}))
    told = json.loads(gapwatch("check-config", "--json", "--config", str(file)).stdout)
    assert told["ok"] and told["notes"] == [
        "alerts.pagerduty is missing: nobody is paged",
        "of m the engine answers the canaries; no sampled response is scored",
    ]


def test_check_config_says_of_a_sidecar_what_it_leaves_to_others_and_looks_for_no_base(tmp_path: Path) -> None:
    adapter = {"name": "a", "path": "adapters/a"}
    models = [
        {"name": "m", "path": "base", "served": {"url": "http://127.0.0.1:9"}, "adapters": [adapter]},
        {"name": "n", "path": "other", "adapters": [{"name": "b", "path": "adapters/b"}]},
    ]
    file = tmp_path / "sidecar.yaml"
    kafka = {"bootstrap_servers": ["a:1"], "topic": "t"}
    file.write_text(yaml.safe_dump({"models": models, "role": "sidecar", "kafka": kafka}))
    printed = json.loads(gapwatch("check-config", "--json", "--config", str(file)).stdout)
    assert printed["ok"] and printed["notes"] == [
        "alerts.pagerduty is missing: nobody is paged",
        "of m the engine answers the canaries; a witness scores the responses",
        "base n is watched by a witness; this pod replays nothing of it",
        f"models.0.adapters.0.path: {tmp_path / 'adapters/a'} does not exist yet",
    ]


def test_check_config_reads_what_run_and_enrol_would_read(config: Path) -> None:
    (config.parent / "c.jsonl").write_text('{"id": "x", "messages": []}\n{"id": "y"\n')
    said = yaml.safe_load(config.read_text())
    said["models"][0]["adapters"] = [{"name": n, "path": "adapters/a", "canaries": "c.jsonl"} for n in ("a", "b")]
    said["sampling"] = {"rate": 0}
    config.write_text(yaml.safe_dump(said))
    told = json.loads(gapwatch("check-config", "--json", "--config", str(config)).stdout)
    (problem,) = told["problems"]
    assert problem.startswith("models.0.adapters.0.canaries: canary file")
    assert "line 1: messages []" in problem and "line 2: no JSON" in problem
    notes = "\n".join(told["notes"])
    assert "sampling.rate is 0" in notes
    assert f"models.0.path: {config.parent / 'base'} does not exist yet" in notes
    assert f"a and b have the same path, {config.parent / 'adapters/a'}" in notes


def test_check_config_refuses_a_setting_that_no_detector_has(config: Path) -> None:
    config.write_text(config.read_text() + "\ndetectors: {logit_shift: {colour: 1}}\n")
    done = gapwatch("check-config", "--config", str(config))
    assert done.returncode == 64
    assert "detectors.logit_shift: saw colour" in done.stderr and "wanted one of: " in done.stderr


def test_doctor_reports_the_threads_and_warns_of_more_than_can_run(config: Path) -> None:
    (taken,) = parts_of(config, "cpu")
    assert taken["ok"] and re.match(r"(1 thread|\d+ threads), by ", taken["seen"])
    config.write_text(config.read_text().replace("golden_dir: golden", "golden_dir: golden\n  threads: 4096"))
    (configured,) = parts_of(config, "cpu")
    assert not configured["ok"] and "4096 threads as configured, where " in configured["seen"]
    assert configured["wanted"].startswith("probes.threads at most ")


def parts_of(config: Path, part: str) -> list[dict[str, Any]]:
    checks = json.loads(gapwatch("doctor", "--json", "--config", str(config)).stdout)
    return [check for check in checks if check["part"] == part]


@pytest.mark.parametrize("words", [("--health-port", "high"), ("--health-port", "70000"), ("--fast",)])
def test_a_wrong_command_line_is_all_that_keeps_run_from_running(words: tuple[str, ...], config: Path) -> None:
    done = gapwatch("run", "--config", str(config), *words)
    assert done.returncode == 64 and "gapwatch --help" in done.stderr


class Stranger(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_another_program_on_the_control_port_is_not_taken_for_an_agent(config: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        said = yaml.safe_load(config.read_text()) | {"clickhouse": {"dsn": f"chdb://{config.parent}/store"}}
        said["telemetry"]["control_port"] = server.server_port
        config.write_text(yaml.safe_dump(said))
        asked = gapwatch("query", "degraded", "--config", str(config))
        (agent,), (store,) = parts_of(config, "agent"), parts_of(config, "clickhouse")
        server.shutdown()
    assert asked.returncode == 64 and "a store with this version's tables" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert not agent["ok"] and agent["seen"] == f"another program answers on port {server.server_port}"
    assert store["ok"] and store["seen"].startswith("version ")


def test_warnings_of_libraries_are_lines_of_the_same_form_and_those_we_log_ourselves_are_left_out() -> None:
    code = """
import logging
from agent.terminal.log import log_to_stderr
log_to_stderr("error")
log_to_stderr("info")  # a second time, as gapwatch demo does: each line still once
logging.getLogger("a.library").warning("it %s", "broke")
logging.getLogger("a.library").info("nothing of interest")
logging.getLogger("urllib3.connectionpool").warning("Retrying")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    (line,) = map(json.loads, ended.stderr.splitlines())
    assert (line["event"], line["level"], line["logger"]) == ("it broke", "warning", "a.library")
    assert line["timestamp"].endswith("Z")


# The main thread holds the lock of the event for a moment whenever it waits for it; here a signal arrives just then.
SIGNAL_DURING_A_WAIT = """
import os, signal, threading
from agent.cli.commands.running import stop_on_signals
stop = threading.Event()
stop_on_signals(stop)
with stop._cond:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
os._exit(0 if stop.wait(30) else 1)
"""


def test_a_signal_ends_the_agent_also_in_the_moment_in_which_it_waits() -> None:
    assert subprocess.run([sys.executable, "-c", SIGNAL_DURING_A_WAIT], cwd=ROOT, timeout=60).returncode == 0


COMMANDS = [
    "run", "demo", "init", "enrol", "canaries", "probe", "query", "explain", "report", "drift", "rejudge",
    "doctor", "check", "compose", "bisect", "check-config", "migrate",
    "passport", "cost", "worth", "portfolio", "passports", "retire", "rebuild", "accept",
    "runbook", "glossary", "sample-config",
]  # fmt: skip


def test_the_help_lists_every_command_in_the_order_of_use() -> None:
    listed = gapwatch("--help", TERM="dumb", NO_COLOR="1")
    assert listed.returncode == 0
    assert re.findall(r"^(?:│ )?\s*([a-z][a-z-]+) {2,}\S", listed.stdout, re.MULTILINE) == COMMANDS


def test_no_command_is_imported_before_it_is_called() -> None:
    """What makes `gapwatch --help` and every other command start fast."""
    code = "import sys, agent.__main__; print([n for n in sys.modules if n.startswith('agent.cli.')])"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert {name.split(".")[2] for name in literal_eval(ended.stdout)} == {"commands"}
