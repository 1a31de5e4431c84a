"""gapwatch drift on a real store: the new kind of prompts is listed first, with and without stored texts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.cli.drift import explain_drift
from agent.errors import Refused
from agent.sinks import clickhouse
from agent.surroundings import Surroundings
from detectors.traffic_records import Embedding, Side
from tests.agent import findings
from tests.agent.findings import ROUTER


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = {
        "models": [{"name": "m", "path": "./base", "adapters": [{"name": ROUTER, "path": "a"}]}],
        "clickhouse": {"dsn": f"chdb://{tmp_path / 'store'}", "store_text": True},
        "telemetry": {"prometheus_port": 0, "control_port": 1},
    }
    file = tmp_path / "gapwatch.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def stored(tmp_path: Path, kinds: dict[float, tuple[str, float]], store_text: bool) -> None:
    """hours ago -> (prompt, centre of its embeddings): stores twenty requests each, through the sink."""
    dsn = f"chdb://{tmp_path / 'store'}"
    sink = clickhouse.Sink(clickhouse.Config(dsn=dsn, store_text=store_text), Surroundings(state_dir=tmp_path))
    sink.open()
    random = np.random.default_rng(0)
    for number, (hours, (text, place)) in enumerate(kinds.items()):
        at = time.time() - 3600.0 * hours
        base = findings.batch(100 * number, n=20, at=at)
        asked = [
            replace(base.interactions[0], request_id=f"{hours}-{i}", offset=100 * number + i, at=at,
                    messages=({"role": "user", "content": f"{text} {i}"},))
            for i in range(20)
        ]  # fmt: skip
        sink.submit(replace(base, interactions=tuple(asked)))
        for seen in asked:
            vector = (place + random.normal(0, 0.1, 8)).astype(np.float32)
            sink.submit(Embedding(ROUTER, Side.PROMPT, seen.request_id, vector, at))
    sink.flush()
    sink.close(10.0)


@pytest.mark.parametrize("store_text", [True, False])
def test_the_new_kind_is_first_and_has_terms_only_where_texts_are_stored(
    tmp_path: Path, config: Path, store_text: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path, {72.0: ("refund for kettle", 0.0), 2.0: ("Wo ist mein Paket", 5.0)}, store_text)
    assert explain_drift(config, ROUTER, "prompt", 24, json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["p_values"]) == {"mmd", "energy"} and max(told["p_values"].values()) < 0.01
    found = told["clusters"]
    grown = max(found, key=lambda one: one["now"] - one["before"])
    assert grown["before"] == 0.0 and grown["now"] > 0.2
    shrunk = [one for one in found if one["before"] > 0]
    assert all(one["now"] == 0.0 for one in shrunk)
    if store_text:
        assert "paket" in {term for one in found for term in one["terms"]}
    else:
        assert not any(one["terms"] or one["examples"] for one in found)


def test_too_little_to_compare_and_unknown_names(tmp_path: Path, config: Path) -> None:
    stored(tmp_path, {2.0: ("refund", 0.0)}, store_text=False)
    assert explain_drift(config, ROUTER, "prompt", 24, json=False) == 2
    with pytest.raises(Refused, match="prompt or output"):
        explain_drift(config, ROUTER, "inside", 24, json=False)
    with pytest.raises(Refused, match="nobody"):
        explain_drift(config, "nobody", "prompt", 24, json=False)
