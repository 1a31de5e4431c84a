"""Every fault that a sidecar meets in its pod, and what each cost: seconds in which the pod was not Ready through it.

A row is one pod: its inputs are changed before it starts, or it is disturbed once it is Ready; where the fault can be
mended from outside, it is, and the part that was unwell has to recover without a restart.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import yaml

from agent.alerting.checkpoint import VERSION
from agent.worker.memory_ceiling import ADAPTER_BYTES, AGENT_BYTES
from benchmarks.node import timeline
from benchmarks.node.light_site import light_site
from benchmarks.node.sidecar_pod import (
    ROOT,
    ROUTING_KEY,
    USER,
    Inputs,
    ask_engine,
    healthy,
    with_models,
    witness,
    write_secret,
)
from benchmarks.node.single_node import Node
from benchmarks.node.trial import START_PATIENCE_S, Outcome, Trial, beside, trial
from benchmarks.node.watcher import HEALTH_PORTS
from probes.model.base_memory import base_memory
from probes.model.build import AUTO, Placement

MEND_PATIENCE_S = 90.0
ROUND_PATIENCE_S = 120.0
# A swap is told after a look at changing files, a load and a round, each of which takes long on a busy machine.
TOLD_PATIENCE_S = 240.0
# The model process without a base: RssAnon, 0.50 to 0.54 GB with torch 2.13 and one tokenizer read twice.
LIBRARIES_BYTES = 550_000_000
ON_CPU = Placement(torch.device("cpu"), torch.float32, AUTO)
HEALTHY, DEGRADED, UNMONITORABLE = 0, 2, 3
TAKEN = HEALTH_PORTS[-1]
TOY_PORT = 8001


def _nothing(_: Inputs) -> None: ...


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. name: in words

    prepare: changes the inputs of a healthy pod; disturb: what happens once the pod is Ready; mend: ends the fault
    told_by: parts of /readyz of which one has to say that it is not ok; () where the fault is over before it is read
    status: what the adapter's has to be at the end, by its number in the metrics; None for any
    watch_s: seconds to watch after it was told, or could have been; models: a pod with a base and an adapter
    beside: what else runs in the node meanwhile, as words for benchmarks.node.neighbour
    """

    name: str
    prepare: Callable[[Inputs], None] = _nothing
    disturb: Callable[[Trial], None] | None = None
    mend: Callable[[Trial], None] | None = None
    told_by: tuple[str, ...] = ()
    status: int | None = None
    watch_s: float = 12.0
    models: bool = False
    beside: tuple[str, ...] = ()


# ---- configuration ----------------------------------------------------------------------------------


def unknown_key(inputs: Inputs) -> None:
    inputs.text = _written(inputs) + "smapling: {rate: 0.5}\n"


def broken_yaml(inputs: Inputs) -> None:
    inputs.text = _written(inputs) + "kafka: [\n"


def no_config_file(inputs: Inputs) -> None:
    inputs.configured = False


def write_good_config(running: Trial) -> None:
    running.inputs.text = None
    running.inputs.write_config()


def _written(inputs: Inputs) -> str:
    return str(yaml.safe_dump(inputs.settings))


def break_the_running_config(running: Trial) -> None:
    unknown_key(running.inputs)
    running.inputs.write_config()


# ---- files ------------------------------------------------------------------------------------------


def missing_secret(inputs: Inputs) -> None:
    (inputs.secrets / "pagerduty-routing-key").unlink()


def unreadable_secret(inputs: Inputs) -> None:
    """As defaultMode 0440 gives it in a pod without fsGroup."""
    write_secret(inputs.secrets / "pagerduty-routing-key", ROUTING_KEY, group=0)


def write_good_secret(running: Trial) -> None:
    write_secret(running.inputs.secrets / "pagerduty-routing-key", ROUTING_KEY)


def unwritable_state(inputs: Inputs) -> None:
    folder = inputs.folder / "state"
    folder.mkdir(mode=0o755)
    inputs.volume("gapwatch-state", {"hostPath": {"path": str(folder)}})


def state_of_the_next_version(inputs: Inputs) -> None:
    folder = inputs.folder / "state"
    (folder / "state").mkdir(parents=True)
    (folder / "state/monitor.json").write_text(json.dumps({"version": VERSION + 1, "state": {"of": "another layout"}}))
    subprocess.run(["chown", "-R", f"{USER}:{USER}", folder], check=True)
    inputs.volume("gapwatch-state", {"hostPath": {"path": str(folder)}})


def small_state(inputs: Inputs) -> None:
    """A folder that is soon full. It is written to after each round."""
    inputs.volume("gapwatch-state", {"emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}})


def fill_the_state_folder(running: Trial) -> None:
    place = running.volume("gapwatch-state") / "filler"
    running.node.run("sh", "-c", f"dd if=/dev/zero of={place} bs=1M 2>/dev/null; chmod a+r {place}")


def empty_the_state_folder(running: Trial) -> None:
    running.node.run("rm", str(running.volume("gapwatch-state") / "filler"))


# ---- the world outside ------------------------------------------------------------------------------


def wrong_topic(inputs: Inputs) -> None:
    inputs.settings["kafka"]["topic"] = "llm.no-such-topic"


def no_broker(inputs: Inputs) -> None:
    inputs.settings["kafka"]["bootstrap_servers"] = ["127.0.0.1:9"]


def no_store(inputs: Inputs) -> None:
    inputs.settings["clickhouse"] = {"dsn": "clickhouse://gapwatch@127.0.0.1:9/gapwatch"}


# ---- models -----------------------------------------------------------------------------------------


def missing_canaries(inputs: Inputs) -> None:
    _adapter(inputs)["canaries"] = "/models/canaries/no-such-file.jsonl"


def missing_adapter(inputs: Inputs) -> None:
    _adapter(inputs)["path"] = "/models/no-such-adapter"


def _adapter(inputs: Inputs) -> dict[str, str]:
    adapter: dict[str, str] = inputs.settings["models"][0]["adapters"][0]
    return adapter


def no_model_packages(inputs: Inputs) -> None:
    """As the image without models has it (VARIANT=traffic)."""
    site = light_site(inputs.folder / "site")
    inputs.mount("site", str(inputs.folder / "site"))
    inputs.sidecar["command"] = [sys.executable, "-S", "-P", "-s", "-m", "agent"]
    [path] = [entry for entry in inputs.sidecar["env"] if entry["name"] == "PYTHONPATH"]
    path["value"] = str(site)


def no_gpu(inputs: Inputs) -> None:
    inputs.settings["probes"]["device"] = "cuda"


def too_little_memory(inputs: Inputs) -> None:
    """Beside the agent not even the model libraries fit, once a tokenizer is read."""
    inputs.set_limit("800Mi")


def one_base_fits(inputs: Inputs) -> None:
    """Half way between what one base needs and what it takes to hold a second one beside it."""
    need = base_memory(base_folder(inputs), ON_CPU)
    inputs.set_limit(str(AGENT_BYTES + ADAPTER_BYTES + LIBRARIES_BYTES + need.needed + need.held // 2))


def swap_the_base(running: Trial) -> None:
    """Upstream ships another release of the base, in a single rename."""
    base = base_folder(running.inputs)
    fresh = base.with_name("next")
    command = [sys.executable, "-m", "examples.helpdesk.releases", "reparameterised"]
    subprocess.run([*command, "--base", base, "--out", fresh], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["chmod", "-R", "a+rX", fresh], check=True)
    base.rename(base.with_name("former"))
    fresh.rename(base)


def base_folder(inputs: Inputs) -> Path:
    [volume] = [volume["hostPath"]["path"] for volume in inputs.spec["volumes"] if volume["name"] == "models"]
    return Path(volume) / "SmolLM2-135M-Instruct"


def asks_its_engine(inputs: Inputs) -> None:
    ask_engine(inputs, TOY_PORT)


# ---- processes --------------------------------------------------------------------------------------


def kill_the_model_process(running: Trial) -> None:
    """Raises LookupError where the models are in the main process, which a killed model then takes with it."""
    children = running.node.children(running.main_process())
    if not children:
        raise LookupError("the sidecar has no model process of its own")
    running.node.kill(children[-1])


def kill_the_sidecar(running: Trial) -> None:
    running.kill_sidecar()


CONFIG, MODELS = ("config",), ("models", "config")
# Both write there: the saved state after a round, the outbox whenever there is a notice.
STATE_DIR = ("state", "sink pagerduty")
FAULTS = (
    Fault("unknown key", unknown_key, mend=write_good_config, told_by=CONFIG),
    Fault("broken YAML", broken_yaml, mend=write_good_config, told_by=CONFIG),
    Fault("no configuration file", no_config_file, mend=write_good_config, told_by=CONFIG),
    Fault(
        "configuration broken while it runs", disturb=break_the_running_config, mend=write_good_config, told_by=CONFIG
    ),
    Fault("missing secret", missing_secret, mend=write_good_secret, told_by=("sink pagerduty",)),
    Fault("secret 0440 without fsGroup", unreadable_secret, mend=write_good_secret, told_by=("sink pagerduty",)),
    Fault("state folder not writable", unwritable_state, told_by=STATE_DIR),
    Fault("state of the next version", state_of_the_next_version),
    Fault(
        "state folder full",
        small_state,
        disturb=fill_the_state_folder,
        mend=empty_the_state_folder,
        told_by=STATE_DIR,
        models=True,
    ),
    Fault("port taken", told_by=("health",), beside=("engine", str(TAKEN))),
    Fault("wrong topic", wrong_topic, told_by=("kafka",)),
    Fault("no broker", no_broker, told_by=("kafka",)),
    Fault("no store", no_store, told_by=("sink clickhouse",)),
    Fault("image without models, replay: true", no_model_packages, told_by=MODELS, models=True),
    Fault("missing canaries", missing_canaries, told_by=MODELS, models=True),
    Fault("missing adapter folder", missing_adapter, status=UNMONITORABLE, models=True),
    Fault("no GPU", no_gpu, status=UNMONITORABLE, models=True),
    Fault("memory limit below the base", too_little_memory, told_by=MODELS, models=True, watch_s=30.0),
    Fault("model process killed", disturb=kill_the_model_process, status=HEALTHY, models=True),
    Fault("base swapped where one base fits", one_base_fits, disturb=swap_the_base, status=DEGRADED, models=True),
)
HEALTHY_POD = Fault("none")
ASKING_POD = Fault(
    "none, an engine is asked", asks_its_engine, status=HEALTHY, watch_s=30.0, beside=("toy", str(TOY_PORT))
)
HEALTHY_MODELS = Fault("none, models replayed", status=HEALTHY, models=True)
# What the sidecar cannot prevent; its cost is told.
KILLED = Fault("sidecar killed", disturb=kill_the_sidecar, watch_s=30.0)


def measure_fault(node: Node, fault: Fault, folder: Path, volume: Path | None) -> Outcome:
    """Run one pod through the fault. volume: of ``lay_models``, needed where the fault's pod has models."""
    inputs = with_models(folder, volume) if fault.models and volume else healthy(folder)
    fault.prepare(inputs)
    with ExitStack() as opened:
        if fault.beside:
            opened.enter_context(beside(node, "benchmarks.node.neighbour", *fault.beside))
        running = opened.enter_context(trial(node, inputs))
        if not running.wait(lambda look: look.ready, START_PATIENCE_S):
            return replace(running.outcome(), mended_s=None if fault.mend else math.nan)
        if fault.disturb:
            if fault.models:
                _wait_for_a_round(running)
            fault.disturb(running)
        _wait_until_told(running, fault)
        time.sleep(fault.watch_s)
        during = running.outcome()
        mended_s = _mend(running, fault)
        outcome = replace(running.outcome(), mended_s=mended_s, unwell=during.unwell, in_metrics=during.in_metrics)
    _put_the_base_back(inputs)
    return outcome


def measure_witness(node: Node, folder: Path, volume: Path) -> Outcome:
    """Run one pod of the witness's manifest until it has judged."""
    with trial(node, witness(folder, volume)) as running:
        running.wait(lambda look: look.ready, START_PATIENCE_S)
        _wait_until_told(running, HEALTHY_MODELS)
        return running.outcome()


def _wait_until_told(running: Trial, fault: Fault) -> None:
    """Until the sidecar says what the fault asks it to say; the figures show where it did not."""
    give_up = time.monotonic() + TOLD_PATIENCE_S
    while not is_told(running.outcome(), fault) and time.monotonic() < give_up:
        time.sleep(1.0)


def is_told(outcome: Outcome, fault: Fault) -> bool:
    """Do /readyz and the metrics name an unwell part, and the metrics the adapter's status, where they have to?"""
    named = not fault.told_by or bool(set(outcome.unwell) & outcome.in_metrics & set(fault.told_by))
    return named and (fault.status is None or fault.status in outcome.statuses.values())


def _put_the_base_back(inputs: Inputs) -> None:
    former = base_folder(inputs).with_name("former")
    if former.exists():
        shutil.rmtree(base_folder(inputs))
        former.rename(base_folder(inputs))


def _wait_for_a_round(running: Trial) -> None:
    """Until the adapter was judged once; goes on without it where that takes too long, which the figures then show."""
    give_up = time.monotonic() + ROUND_PATIENCE_S
    while not timeline.last_statuses(running.looks) and time.monotonic() < give_up:
        time.sleep(1.0)


def _mend(running: Trial, fault: Fault) -> float | None:
    """Seconds until every part that has to tell the fault was ok again; nan where there is nothing to mend."""
    if fault.mend is None:
        return math.nan
    fault.mend(running)
    began = time.monotonic()
    if running.wait(lambda look: _all_ok(look.parts, fault.told_by), MEND_PATIENCE_S):
        return time.monotonic() - began
    return None


def _all_ok(parts: dict[str, tuple[bool, str]], names: tuple[str, ...]) -> bool:
    named = [ok for name, (ok, _) in parts.items() if name in names]
    return bool(named) and all(named)


@dataclass(frozen=True, slots=True)
class Rollout:
    """A pod that ends, and the next one that starts in its place.

    end_s: from the order to end until all its processes had ended; start_s: from the next one's manifest until it was
    Ready, None for never
    """

    end_s: float
    start_s: float | None


def replaced_pod(node: Node, folder: Path) -> Rollout:
    """Both pods have the node's network, so the next one can only come after the former."""
    with trial(node, healthy(folder / "former")) as running:
        running.wait(lambda look: look.ready, START_PATIENCE_S)
        began = time.monotonic()
    end_s = time.monotonic() - began
    with trial(node, healthy(folder / "next")) as running:
        running.wait(lambda look: look.ready, START_PATIENCE_S)
        return Rollout(end_s, running.outcome().start_s)
