"""``gapwatch demo lifecycle`` on a tiny base: the warning, the swap, the page, a successor, the end of the incident.

The same story with the real model is ``make demo-lifecycle``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from agent.__main__ import cli
from agent.cli.demo import running
from agent.cli.enrol import EnrolOptions, enrol_adapter
from agent.config import Config
from agent.config import load as load_config
from agent.demo.broker import free_port, start_broker
from agent.demo.lifecycle import LifecycleCast, LifecycleStory
from agent.demo.receiver import Receiver
from agent.demo.stage import ROUTING_KEY, TOPIC, Stage
from agent.errors import Refused
from agent.kafka.client import ensure_topic
from agent.terminal.console import console
from probes.golden.archive import load, newest
from probes.golden.weights import find
from tests.probes.tiny import ends_now_and_then, tiny_adapter, tiny_base

NAME = "router"
QUESTIONS = [f"q {i} {i * 37 % 101} item" for i in range(160)]


def settings(broker: str, pagerduty: str) -> dict[str, object]:
    own = {"name": NAME, "path": f"volume/adapters/{NAME}", "canaries": "canaries.jsonl"}
    return {
        "cluster": "test",
        "state_dir": "state",
        "kafka": {"bootstrap_servers": [broker], "topic": TOPIC, "group_instance_id": ""},
        "models": [{"name": "tiny", "path": "./volume/base", "adapters": [own]}],
        "scoring": {"enabled": False},
        "probes": {
            "every": "1s",
            "golden_dir": "golden",
            "cache_dir": "cache",
            "device": "cpu",
            "threads": 1,
            "keep_golden_weights": True,
        },
        "alerts": {"pagerduty": {"routing_key_file": "routing-key", "url": pagerduty}},
        "telemetry": {"prometheus_port": free_port(), "control_port": free_port()},
    }


def laid_out(folder: Path, broker: str, pagerduty: str) -> tuple[Stage, Config]:
    """A volume whose adapter is enrolled."""
    base = ends_now_and_then(tiny_base(folder / "volume" / "base", tied=False))
    tiny_adapter(folder / "volume" / "adapters" / NAME, base, r=8, lora_alpha=12)
    rows = [{"id": f"c{i}", "messages": [{"role": "user", "content": text}]} for i, text in enumerate(QUESTIONS)]
    (folder / "canaries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "routing-key").write_text(ROUTING_KEY)
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings(broker, pagerduty)))
    assert enrol_adapter(file, NAME, EnrolOptions(), json=False) == 0
    record = newest(folder / "golden", NAME)
    assert record is not None
    kept = find(folder / "golden", load(folder / "golden", record).base_hash)
    assert kept is not None
    return Stage(folder, base, kept), load_config(file)


@pytest.mark.timeout(900)
def test_from_the_warning_to_a_healthy_successor(tmp_path: Path) -> None:
    with (
        console.capture() as said,
        start_broker(tmp_path / "broker", kind="tansu") as broker,
        Receiver() as receiver,
    ):
        ensure_topic(broker.bootstrap, TOPIC, partitions=2)
        stage, config = laid_out(tmp_path, broker.bootstrap, receiver.url)
        outcome = LifecycleStory(LifecycleCast(stage, config, receiver, running)).play()
        assert receiver.open_incidents == []
    assert outcome.passed, [claim for holds, claim in outcome.claims if not holds]
    assert (outcome.checked, outcome.rebuilt, outcome.accepted, outcome.enrolled) == (1, 0, 0, 0)
    told = " / ".join(outcome.history)
    for word in ("lost on", "rebuilt on", "passed the acceptance test", "enrolled as"):
        assert word in told
    assert told.index("lost on") < told.index("rebuilt on") < told.index("enrolled as")
    words = said.get()
    assert "will lose" in words and "hidden units permuted" in words


def test_a_story_that_there_is_not_is_refused() -> None:
    with pytest.raises(Refused, match="faults or lifecycle"):
        cli(["demo", "another"], standalone_mode=False)
