"""gapwatch demo lifecycle: from the warning before a base swap to an accepted successor, on this machine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from agent.cli.demo import EVERY_S, FAILED, running
from agent.clock import Clock
from agent.demo.broker import start_broker
from agent.demo.lifecycle import Lifecycle, LifecycleCast, LifecycleStory
from agent.demo.receiver import Receiver
from agent.demo.stage import TOPIC, keep_accepted, need_checkout, set_up, write_single_config
from agent.demo.story import act
from agent.kafka.client import ensure_topic
from agent.terminal.console import as_json, console, people_to_stderr, say

# Of the helpdesk, the adapter whose answers are the shortest.
ADAPTER = "order-extractor"


def run_lifecycle_demo(folder: Path | None, json: bool) -> int:
    """0 when the loss was told before and paged after the swap, and a successor was made, accepted and is healthy; else
    1."""
    need_checkout()
    if json:
        people_to_stderr()
    clock = Clock()
    began = clock.steady()
    where = (folder or Path(".gapwatch") / "demo").resolve()
    with ExitStack() as opened:
        outcome = _play(where, opened)
    act("8", "What happened")
    for holds, claim in (*outcome.claims, (True, f"in {clock.steady() - began:.0f} s")):
        say(f"[{'green' if holds else 'red'}]{'✓' if holds else '✗'}[/] {claim}")
    if json:
        as_json(asdict(outcome) | {"passed": outcome.passed})
    return 0 if outcome.passed else FAILED


def _play(where: Path, opened: ExitStack) -> Lifecycle:
    act("0", "Setting the stage: broker, PagerDuty receiver, a volume with the base and one adapter")
    stage = set_up(where)
    keep_accepted(stage, ADAPTER)
    broker = opened.enter_context(start_broker(where / "broker"))
    receiver = opened.enter_context(Receiver())
    ensure_topic(broker.bootstrap, TOPIC, partitions=2)
    config = write_single_config(stage, ADAPTER, broker.bootstrap, receiver.url, EVERY_S)
    config = config.model_copy(update={"scoring": config.scoring.model_copy(update={"enabled": False})})
    story = LifecycleStory(LifecycleCast(stage, config, receiver, running))
    try:
        story.play()
    except TimeoutError as error:
        console.print(f"[red]The demo ends here: {error}[/red]")
    return story.outcome
