"""gapwatch demo: an agent on this machine has to catch two faults, other weights on the volume and lost adapters.

The acts are in agent/demo/ (story.py, served.py). The last lines that it prints are in README.md: change both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from agent.app import App
from agent.assemble import assemble
from agent.clock import Clock
from agent.config import Config
from agent.demo.broker import start_broker
from agent.demo.receiver import Receiver
from agent.demo.served import Served, ServedCast, ServedStory
from agent.demo.show import Show
from agent.demo.stage import BASE, HELPDESK, TOPIC, need_checkout, set_up, write_config
from agent.demo.story import Cast, Outcome, Story, act
from agent.demo.traffic import DemoTraffic
from agent.health import Health
from agent.kafka.client import ensure_topic, publisher
from agent.terminal.console import as_json, console, people_to_stderr, say

EVERY_S = 10.0
FAILED = 1


def run_demo(folder: Path | None, json: bool) -> int:
    """0 when both faults were detected and named, the first one resolved, and no healthy round paged; else 1."""
    need_checkout()
    if json:
        people_to_stderr()
    clock = Clock()
    began = clock.steady()
    where = (folder or Path(".gapwatch") / "demo").resolve()
    with ExitStack() as opened:
        outcome, served = _play(where, opened)
    passed = outcome.passed and served.passed
    _close_with(outcome, served, where, clock.steady() - began)
    if json:
        as_json(asdict(outcome) | {"served": asdict(served), "passed": passed})
    return 0 if passed else FAILED


def _play(where: Path, opened: ExitStack) -> tuple[Outcome, Served]:
    act("0", "Setting the stage: broker, PagerDuty receiver, a volume with the base and three adapters")
    stage = set_up(where)
    broker = opened.enter_context(start_broker(where / "broker"))
    receiver = opened.enter_context(Receiver())
    ensure_topic(broker.bootstrap, TOPIC, partitions=2)
    config = write_config(stage, broker.bootstrap, receiver.url, EVERY_S)
    say(f"broker: {broker.kind} on {broker.bootstrap}; PagerDuty receiver on {receiver.url}")
    say(f"everything lies in {_near(where)}")
    out = opened.enter_context(publisher(broker.bootstrap, TOPIC))
    traffic = DemoTraffic(HELPDESK / "traffic", BASE, out.send)
    opened.callback(traffic.close)
    story, served = Outcome(), Served()
    try:
        with running(_canaries_alone(config)) as (show, alive):
            traffic.open()
            first = Story(Cast(stage, config, show, receiver, traffic), alive)
            story = first.outcome
            first.play()
        alone = _responses_alone(config)
        with running(alone) as (show, alive):
            second = ServedStory(ServedCast(alone, show, receiver, traffic), alive)
            served = second.outcome
            second.play()
    except TimeoutError as error:
        console.print(f"[red]The demo ends here: {error}[/red]")
    return story, served


def _canaries_alone(config: Config) -> Config:
    """Responses are embedded and not scored: on a CPU scores come a minute late, and this part is about canaries."""
    return config.model_copy(update={"scoring": config.scoring.model_copy(update={"enabled": False})})


def _responses_alone(config: Config) -> Config:
    """The same agent with canaries off, more responses a minute, and without the state of the first part."""
    changed = {
        "probes": config.probes.model_copy(update={"canaries": False}),
        "sampling": config.sampling.model_copy(update={"per_adapter_per_minute": 20}),
        "state_dir": config.state_dir.with_name("state.served"),
    }
    return config.model_copy(update=changed)


@contextmanager
def running(config: Config) -> Iterator[tuple[Show, Callable[[], bool]]]:
    """An agent as ``gapwatch run`` runs it, and a function that returns whether it still runs."""
    show = Show()
    with ExitStack() as opened:
        parts = assemble(config, extra_sinks=(show,))
        ports = config.telemetry
        health = Health(parts.routes, parts.clock, ports.prometheus_port, ports.control_port)
        health.open()
        opened.callback(health.close)
        thread = _start(App(parts), opened)
        yield show, thread.is_alive


def _start(app: App, opened: ExitStack) -> threading.Thread:
    stop = threading.Event()
    thread = threading.Thread(target=app.run, args=(stop,), name="agent")
    thread.start()
    opened.callback(thread.join, 10.0)
    opened.callback(stop.set)
    return thread


def _close_with(outcome: Outcome, served: Served, where: Path, seconds: float) -> None:
    act("6", "What you saw")
    for holds, claim in (*_claims(outcome), _served_claim(served), (True, f"in {seconds:.0f} s")):
        say(f"[{'green' if holds else 'red'}]{'✓' if holds else '✗'}[/] {claim}")
    say(f"The store is still there: gapwatch query --config {_near(where) / 'gapwatch.yaml'}")


def _near(where: Path) -> Path:
    """The path as one would type it here: relative, where it is below the current folder."""
    return where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where


def _claims(outcome: Outcome) -> list[tuple[bool, str]]:
    evidence = ", ".join(f"{name} {level:.1f}" for name, level in outcome.evidence.items())
    return [
        (
            outcome.healthy_rounds >= 2 and outcome.healthy_pages == 0 and outcome.worst_healthy_deviation < 1e-3,
            f"{outcome.healthy_rounds} healthy rounds, {outcome.healthy_pages} pages, retention within "
            f"{outcome.worst_healthy_deviation:.1e} of 1",
        ),
        (
            outcome.rounds_to_alarm == 1,
            f"the swap was caught in round {outcome.rounds_to_alarm} after it: {evidence} nats, "
            f"page at {outcome.log_threshold:.1f} (one false page a year for this fleet)",
        ),
        (
            outcome.scored <= 512,
            f"at most {outcome.scored} canary tokens scored per adapter and round, "
            f"{outcome.processed} tokens processed (prompts, and the base beside the adapter); "
            f"the longest round took {outcome.round_s:.1f} s",
        ),
        (bool(outcome.cause), f"cause: {outcome.cause.replace('_', ' ') or 'not named'}"),
        (outcome.flips > 0, f"{outcome.flips} flipped canaries stored with golden and present text"),
        (outcome.resolved, "the incident resolved after the rollback"),
    ]


def _served_claim(served: Served) -> tuple[bool, str]:
    if not served.responses:
        return False, "responses alone: not caught"
    alarms = ", ".join(f"{name} after {n} ({served.evidence[name]:.1f} nats)" for name, n in served.responses.items())
    causes = ", ".join(sorted({cause.replace("_", " ") for cause in served.causes.values()}))
    claim = (
        f"from responses alone, canaries off: {alarms}; cause: {causes}; {len(served.open_incidents)} incident "
        f"({', '.join(served.open_incidents)}); before that {served.healthy} healthy responses, {served.pages} pages"
    )
    return served.passed, claim
