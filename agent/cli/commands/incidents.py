"""Incidents and the store: questions, one incident, a report, drift, and what today's code would have judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands.arguments import DEFAULT_CONFIG, ConfigFile, Json

commands = typer.Typer()


@commands.command()
def query(
    name: Annotated[str | None, typer.Argument(help="Name of the question; without one the list is printed.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="key=value, may be repeated.")] = None,
    adapter: Annotated[str, typer.Option("--adapter", help="Only this adapter, or base.")] = "",
    since: Annotated[
        str, typer.Option("--since", help='How far back: "6h", "30d", or a time such as 2026-03-01T12:00 (UTC).')
    ] = "",
    csv: Annotated[bool, typer.Option("--csv", help="Print rows for a spreadsheet.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Answer an on-call question from the store; without a name, list the questions and when to ask them."""
    from agent.cli.query import QueryOptions, answer

    return answer(config, name, QueryOptions(tuple(param or ()), adapter, since, csv), json)


@commands.command()
def explain(
    incident: Annotated[
        str,
        typer.Argument(
            help="Adapter or base, or a page's key, @TIME for a former one; without one, the latest that is open."
        ),
    ] = "",
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Tell one incident on one screen: what, since when, what changed, whom it touches, what to do. 2 without any."""
    from agent.cli.explain import explain as explain_incident

    return explain_incident(config, incident, json)


@commands.command()
def report(
    adapter: Annotated[
        str, typer.Option("--adapter", help="Adapter that is compared; default: the incident's, or its page's first.")
    ] = "",
    incident: Annotated[
        str,
        typer.Option(
            "--incident",
            help="Adapter or base, or a page's key, @TIME for a former one; default: the latest. With --healthy: "
            "FROM..TO.",
        ),
    ] = "",
    healthy: Annotated[
        str, typer.Option("--healthy", help='FROM..TO: "30h..6h" ago, or times such as 2026-03-01T12:00 (UTC).')
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("gapwatch-report.html"),
    each: Annotated[
        bool, typer.Option("--each", help="A file for each adapter of a base's incident, named after it.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Compare an incident with the healthy time before it, as one HTML file: figures, texts, embeddings, canaries.

    2 when there is no incident, or nothing of both in the store. Needs the extra report.
    """
    from agent.cli.report import ReportOptions
    from agent.cli.report import report as write_report

    return write_report(config, ReportOptions(adapter, healthy, incident, out, force, each), json)


@commands.command()
def drift(
    adapter: Annotated[str, typer.Argument(help="Adapter whose prompts or outputs are compared.")],
    side: Annotated[str, typer.Option(help="prompt or output.")] = "prompt",
    hours: Annotated[int, typer.Option(min=1, help="These last hours, against four weeks before.")] = 24,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Show which kinds of prompts or outputs grew or shrank. 2 when there is too little to compare."""
    from agent.cli.drift import explain_drift

    return explain_drift(config, adapter, side, hours, json)


@commands.command()
def rejudge(
    since: Annotated[str, typer.Option(help='Start: "6h" ago, or a time such as 2026-03-01T12:00 (UTC).')] = "24h",
    until: Annotated[str, typer.Option(help="End, in the same form; default: now.")] = "",
    lead_in: Annotated[
        str,
        typer.Option("--lead-in", help="Judge rounds of so long before too, not shown: evidence adds up."),
    ] = "24h",
    adapter: Annotated[str, typer.Option(help="Show only this adapter and its base.")] = "",
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="place=value over the configuration: models.0.adapters.0.tolerance=0.1"),
    ] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Show only verdicts that differ.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Judge stored rounds again with today's code and this configuration, beside the verdicts of then. Pages nobody."""
    from agent.cli.rejudge import RejudgeOptions
    from agent.cli.rejudge import rejudge as judge_again

    return judge_again(config, RejudgeOptions(since, until, lead_in, adapter, change or (), changed), json)
