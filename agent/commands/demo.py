"""gapwatch demo: the whole story on this machine, no set-up."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from agent.app import App
from agent.assemble import assemble
from agent.demo.broker import start_broker
from agent.demo.receiver import Receiver
from agent.demo.show import Show
from agent.demo.stage import BASE, HELPDESK, TOPIC, set_up, write_config
from agent.demo.story import Cast, Outcome, Story, act
from agent.demo.traffic import Traffic
from agent.kafka import ensure_topic, publisher
from agent.screen import as_json, console, people_to_stderr, say

EVERY_S = 10.0
FAILED = 1


def run_demo(folder: Path | None, json: bool) -> int:
    """0 when the fault was caught, named and resolved and no healthy round paged; 1 otherwise."""
    if json:
        people_to_stderr()
    where = (folder or Path(".gapwatch") / "demo").resolve()
    with ExitStack() as opened:
        outcome = _play(where, opened)
    _close_with(outcome, where)
    if json:
        as_json(asdict(outcome) | {"passed": outcome.passed})
    return 0 if outcome.passed else FAILED


def _play(where: Path, opened: ExitStack) -> Outcome:
    act("0", "Setting the stage: broker, PagerDuty receiver, a volume with the base and three adapters")
    stage = set_up(where)
    broker = opened.enter_context(start_broker(where / "broker"))
    receiver = opened.enter_context(Receiver())
    ensure_topic(broker.bootstrap, TOPIC, partitions=2)
    config = write_config(stage, broker.bootstrap, receiver.url, EVERY_S)
    say(f"broker: {broker.kind} on {broker.bootstrap}; PagerDuty receiver on {receiver.url}")
    say(f"everything lies in {_near(where)}")
    out = opened.enter_context(publisher(broker.bootstrap, TOPIC))
    traffic = Traffic(HELPDESK / "traffic", BASE, out.send)
    opened.callback(traffic.close)
    show = Show()
    alive = _start(App(assemble(config, extra_sinks=(show,))), opened)
    traffic.open()
    story = Story(Cast(stage, config, show, receiver, traffic), alive.is_alive)
    try:
        return story.play()
    except TimeoutError as error:
        console.print(f"[red]The play ends here: {error}[/red]")
        return story.outcome


def _start(app: App, opened: ExitStack) -> threading.Thread:
    stop = threading.Event()
    thread = threading.Thread(target=app.run, args=(stop,), name="agent")
    thread.start()
    opened.callback(thread.join, 10.0)
    opened.callback(stop.set)
    return thread


def _close_with(outcome: Outcome, where: Path) -> None:
    act("5", "What you saw")
    for seen, words in _claims(outcome):
        say(f"[{'green' if seen else 'red'}]{'✓' if seen else '✗'}[/] {words}")
    say(f"The store is still there: gapwatch query --config {_near(where) / 'gapwatch.yaml'}")


def _near(where: Path) -> Path:
    """As a person in this folder would type it."""
    return where.relative_to(Path.cwd()) if where.is_relative_to(Path.cwd()) else where


def _claims(seen: Outcome) -> list[tuple[bool, str]]:
    evidence = ", ".join(f"{name} {level:.1f}" for name, level in seen.evidence.items())
    return [
        (
            seen.healthy_rounds >= 2 and seen.healthy_pages == 0 and seen.worst_healthy_deviation < 1e-3,
            f"{seen.healthy_rounds} healthy rounds, {seen.healthy_pages} pages, retention within "
            f"{seen.worst_healthy_deviation:.1e} of 1",
        ),
        (
            seen.rounds_to_alarm == 1,
            f"the swap was caught in round {seen.rounds_to_alarm} after it: {evidence} nats, "
            f"page at {seen.log_threshold:.1f} (one false page a year for this fleet)",
        ),
        (
            seen.scored <= 512,
            f"at most {seen.scored} canary tokens scored per adapter and round, {seen.processed} tokens processed "
            f"(prompts, and the base beside the adapter); the longest round took {seen.round_s:.1f} s",
        ),
        (bool(seen.cause), f"cause: {seen.cause.replace('_', ' ') or 'not named'}"),
        (seen.flips > 0, f"{seen.flips} flipped canaries stored with golden and present text"),
        (seen.resolved, "the incident resolved after the rollback"),
        (seen.passed, f"in {seen.seconds:.0f} s"),
    ]
