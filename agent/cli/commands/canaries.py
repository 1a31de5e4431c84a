"""Canaries: chosen, recorded, replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands.arguments import DEFAULT_CONFIG, Adapters, ConfigFile, Json
from agent.errors import Refused

commands = typer.Typer()


@commands.command()
def enrol(
    adapters: Annotated[list[str] | None, typer.Argument(help="Adapter names, as in the configuration.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    every: Annotated[bool, typer.Option("--all", help="All adapters of the configuration.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Accept a new release; the old record is kept.")] = False,
    why: Annotated[str, typer.Option("--why", help="Why the new release is accepted; needed with --replace.")] = "",
    select: Annotated[
        bool,
        typer.Option(
            "--select", help="Choose the canaries with the most information per token; a random half is held out first."
        ),
    ] = False,
    from_traffic: Annotated[
        Path | None,
        typer.Option(
            "--from-traffic",
            help="With --select: JSON Lines of exported production prompts, additional candidates to the canary file. "
            "The chosen ones are stored in the golden record as text.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Record golden behaviour, noise, strengths and power of adapters. 2 when one of them cannot be monitored.

    An enrolment that was interrupted goes on where it stopped when it is started again. With --json, one object for a
    single name, a list of them for several or --all.
    """
    if every == bool(adapters):
        raise Refused("gapwatch enrol", "--all and names" if every else "no adapter", "names of adapters, or --all")
    from agent.cli.enrol import EnrolOptions, enrol_adapters

    return enrol_adapters(config, adapters or [], EnrolOptions(replace, why, select, from_traffic), json)


@commands.command()
def canaries(
    adapter: Annotated[str, typer.Argument(help="Adapter name, as in the configuration.")],
    from_traffic: Annotated[
        bool,
        typer.Option(
            "--from-traffic",
            help="From the prompts of its sampled requests; the file then holds production prompts as text.",
        ),
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="Prompts wanted.")] = 96,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: as configured, else canaries/ADAPTER.jsonl.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    hours: Annotated[int, typer.Option(min=1, help="How far back in the store.")] = 168,
    select: Annotated[
        bool, typer.Option("--select", help="Choose with the model, by information per token, as enrol --select does.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice: equal ones give the same file.")] = 0,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Propose a canary file from what an adapter is really asked. 2 when there are fewer prompts than enrol needs."""
    if not from_traffic:
        wanted = "--from-traffic, to write prompts of production to a file"
        raise Refused("gapwatch canaries", "no source of prompts", wanted)
    from agent.cli.canaries import CanaryOptions, propose

    return propose(config, adapter, CanaryOptions(count, out, force, hours, select, seed), json)


@commands.command()
def probe(adapters: Adapters = None, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Replay one round now; pages nobody and stores nothing. 0 healthy, 1 degraded, 2 cannot tell."""
    from agent.cli.probe import probe_now

    return probe_now(config, adapters or [], json)
