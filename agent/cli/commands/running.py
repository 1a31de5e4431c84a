"""The sidecar itself, the demo, and a first configuration."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from agent.cli.commands.arguments import DEFAULT_CONFIG, ConfigFile, Json
from agent.errors import Refused
from agent.terminal.log import log_to_stderr

commands = typer.Typer()


@commands.command()
def run(
    config: ConfigFile = DEFAULT_CONFIG,
    health_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port of /livez and /metrics; default: GAPWATCH_HEALTH_PORT, else as the configuration says.",
        ),
    ] = None,
) -> int:
    """Run the sidecar: sample traffic, replay canaries, judge, store, page. Ends with 0 on SIGTERM, and not before:
    what is wrong is a state, shown by /readyz and the metrics."""
    stop = threading.Event()
    stop_on_signals(stop)  # before anything that takes time is imported
    from agent.cli.run import run_agent

    return run_agent(config, health_port, stop)


def stop_on_signals(stop: threading.Event) -> None:
    """From now on SIGTERM and SIGINT set it, by a thread of their own.

    A handler runs between two instructions of the main thread. Setting the event there would wait for ever for its
    lock where this thread holds it: while it waits for the event, or sets it for a first signal. put() may be
    interrupted so (docs.python.org/3/library/queue.html, SimpleQueue.put).
    """
    received: SimpleQueue[int] = SimpleQueue()

    def set_after_one() -> None:
        received.get()
        stop.set()

    threading.Thread(target=set_after_one, name="signals", daemon=True).start()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: received.put(number))


@commands.command()
def demo(
    story: Annotated[
        str, typer.Argument(help="faults, or lifecycle: from the warning before a base swap to an accepted successor.")
    ] = "faults",
    folder: Annotated[Path | None, typer.Option(help="Cleared first; default: .gapwatch/demo here.")] = None,
    json: Json = False,
) -> int:
    """Show everything on this machine: a real model, adapters, broker and store, an upstream swap, the page."""
    if story not in ("faults", "lifecycle"):
        raise Refused("gapwatch demo", story, "faults or lifecycle")
    log_to_stderr(os.environ.get("GAPWATCH_LOG", "error"))
    if story == "lifecycle":
        from agent.cli.lifecycle.demo import run_lifecycle_demo

        return run_lifecycle_demo(folder, json)
    from agent.cli.demo import run_demo

    return run_demo(folder, json)


@commands.command()
def init(
    url: Annotated[str, typer.Option("--url", help="Of a serving engine, such as http://localhost:8000.")],
    engine: Annotated[str, typer.Option("--engine", help="vllm, sglang ... ; auto: as it shows itself.")] = "auto",
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = DEFAULT_CONFIG,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    base: Annotated[str, typer.Option("--base", help="The base's name, where the engine's list does not tell.")] = "",
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="Holds the bearer token that the engine wants.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca-file", help="Its certificate is checked against this.")] = None,
    json: Json = False,
) -> int:
    """Write a configuration from what an engine lists, and say whether each adapter differs from its base at all.

    0 where each does, 1 where one does not or a name is wrong, 2 where one could not be compared.
    """
    from agent.cli.init import InitOptions
    from agent.cli.init import init as write_config

    return write_config(InitOptions(url, engine, token_file, ca_file, base, out, force), json)
