"""An assembled agent whose models run in a process of their own: the story goes through both, and outlives its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from agent.config import load
from agent.records import Flip, GoldenAccepted, NoticeReason
from agent.worker.watched_bases import runner_of
from detectors.records import Cause, Reason, Status, Verdict
from tests.end_to_end.assembled import Assembled
from tests.end_to_end.world import ADAPTERS, accept

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0


class Agent(Assembled):
    def __init__(self, config: Path, opened: ExitStack) -> None:
        super().__init__(config, opened, PATIENCE_S)

    def verdicts(self, subject: str) -> list[Verdict]:
        return [verdict for verdict in self.sink.verdicts if verdict.subject == subject]

    def kill_models(self) -> None:
        assert self.models._life is not None
        os.kill(self.models._life.process.pid, signal.SIGKILL)


def configured(folder: Path, every_s: float = 1.0, **faults: str) -> Path:
    settings = {
        "models": [{"name": "tiny", "path": "./base", "adapters": [{"name": name, "path": name} for name in ADAPTERS]}],
        "probes": {
            "runner": "memory",
            "runner_settings": {"faults": faults},
            "golden_dir": "golden",
            "every": every_s,
            "seed": 5,
        },
        "clickhouse": {"dsn": "clickhouse://default@127.0.0.1:9/gapwatch"},
        "telemetry": {"prometheus_port": 0, "control_port": 0},
        "state_dir": "state",
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    return folder / "gapwatch.yaml"


@pytest.fixture
def enrolled_in(tmp_path: Path) -> Path:
    config = load(configured(tmp_path))
    for name in ADAPTERS:
        accept(config.probes.golden_dir, name, runner_of(config, config.models[0], golden=False))
    return tmp_path


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_broken_adapter_pages_its_cause_is_refined_and_its_worst_canaries_are_kept_as_text(
    enrolled_in: Path, opened: ExitStack
) -> None:
    """The verdicts go down, and what the models make of them comes up."""
    agent = Agent(configured(enrolled_in, alpha="without:part.0"), opened)
    agent.until(lambda: any(v.reason is Reason.CAUSE_REFINED for v in agent.verdicts("alpha")))
    (refined,) = [v for v in agent.verdicts("alpha") if v.reason is Reason.CAUSE_REFINED]
    assert refined.cause is Cause.PARTLY_APPLIED and "part.0" in refined.explanation
    assert [notice.reason for notice in agent.sink.notices] == [NoticeReason.DEGRADED, NoticeReason.CAUSE_SHARPER]
    agent.until(lambda: len(agent.sink.of(Flip)) == 2)
    assert all(flip.golden_text != flip.present_text for flip in agent.sink.of(Flip))


def test_after_the_models_were_killed_evidence_and_incident_go_on_and_the_signatures_are_made_again(
    enrolled_in: Path, opened: ExitStack
) -> None:
    agent = Agent(configured(enrolled_in, alpha="without:part.0"), opened)
    agent.until(lambda: any(v.reason is Reason.CAUSE_REFINED for v in agent.verdicts("alpha")))
    agent.kill_models()
    agent.until(lambda: agent.models.restarts == 1)
    before = len(agent.rounds)
    agent.until(lambda: sum(bool(done.members[0].measurements) for done in agent.rounds[before:]) >= 2)
    last = agent.verdicts("alpha")[-1]
    assert (last.status, last.reason, last.cause) == (Status.DEGRADED, Reason.STILL_DEGRADED, Cause.PARTLY_APPLIED)
    assert len(agent.sink.of(GoldenAccepted)) == len(ADAPTERS)
    assert {v.status for v in agent.verdicts("beta")} <= {Status.HEALTHY, Status.UNMONITORABLE}
    assert [notice.reason for notice in agent.sink.notices].count(NoticeReason.DEGRADED) == 1


def test_models_that_stay_away_are_told_once_as_unmonitorable_and_never_as_degraded(
    enrolled_in: Path, opened: ExitStack
) -> None:
    config = configured(enrolled_in, every_s=0.5)
    agent = Agent(config, opened)
    agent.until(lambda: len(agent.rounds) >= 1)
    agent.models._wait_s = 8.0
    agent.kill_models()
    agent.until(lambda: any(notice.reason is NoticeReason.CANNOT_TELL for notice in agent.sink.notices))
    told = agent.verdicts("alpha")[-1]
    assert (told.status, told.reason) == (Status.UNMONITORABLE, Reason.REPLAY_FAILED)
    assert "the model process was ended by signal 9" in told.explanation
    words = page(agent, "/readyz")
    assert "the model process was ended by signal 9" in words and "starts again in" in words
    agent.until(lambda: agent.verdicts("alpha")[-1].status is Status.HEALTHY)
    assert [notice.reason for notice in agent.sink.notices] == [NoticeReason.CANNOT_TELL]
    assert not any(verdict.status is Status.DEGRADED for verdict in agent.sink.verdicts)
    agent.parts.beat()
    assert "gapwatch_models_restarts_total 1.0" in page(agent, "/metrics")


def page(agent: Agent, path: str) -> str:
    """As the health server has it, which the supervisor opens."""
    routes = agent.parts.routes
    return routes.telemetry.page().decode() if path == "/metrics" else str(dict(routes.parts()))


def test_the_agents_own_process_never_imports_a_model_library(enrolled_in: Path) -> None:
    configuration = configured(enrolled_in).read_text().replace("runner: memory", "runner: in_process")
    (enrolled_in / "gapwatch.yaml").write_text(configuration.replace("runner_settings:\n    faults: {}", ""))
    program = (
        "import sys; from pathlib import Path; from agent.assemble import assemble; from agent.config import load\n"
        "parts = assemble(load(Path(sys.argv[1])))\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(enrolled_in / "gapwatch.yaml")]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"
