"""The command line: arguments, logging, exit codes. Each command imports what it needs, so that the others start fast.

Exit codes, which scripts and manifests rely on: 0 healthy or done, 1 degraded or wrong, 2 cannot tell, 64 wrong usage
or a refused configuration, 130 interrupted by Ctrl-C. ``run`` ends with 0 on SIGTERM, with 64 on wrong usage, and for
nothing else.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import structlog
import typer
import typer.exceptions
from structlog.typing import Processor

from agent.errors import EXTRA_OF, AgentError, Refused, missing_package
from detectors.errors import DetectorError
from probes import cpu_share
from probes.errors import ProbeError

USAGE = 64
# Libraries whose warnings repeat what the agent itself logs, a line for each failed try.
LOGGED_BY_US = ("urllib3", "clickhouse_connect", "kafka")
CANNOT_TELL = 2
LEVELS = ("debug", "info", "warning", "error", "critical")

cli = typer.Typer(
    name="gapwatch",
    help="Watches the gap between fine-tuned adapters and their base, and pages when an adapter goes back to the base.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="GAPWATCH_CONFIG", help="YAML file; see gapwatch sample-config.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Adapters = Annotated[list[str] | None, typer.Argument(help="Adapter names; all when none is given.")]

DEFAULT_CONFIG = Path("gapwatch.yaml")


def _print_versions(wanted: bool) -> None:
    from agent.cli.version import print_versions

    if wanted:
        raise typer.Exit(print_versions())


@cli.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_versions,
            is_eager=True,
            help="Print versions, of the program and its main packages.",
        ),
    ] = False,
) -> None:
    """Options of the program itself, and where the log goes. ``version`` is handled by its callback."""
    del version
    try:
        log_to_stderr(os.environ.get("GAPWATCH_LOG", "info"))
    except Refused as error:
        if context.invoked_subcommand != "run":
            raise
        log_to_stderr("info")  # a wrong variable of its container must not keep an engine from starting
        structlog.get_logger(__name__).warning("log_level_ignored", why=str(error))


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
def probe(adapters: Adapters = None, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Replay one round now; pages nobody and stores nothing. 0 healthy, 1 degraded, 2 cannot tell."""
    from agent.cli.probe import probe_now

    return probe_now(config, adapters or [], json)


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
def doctor(
    config: ConfigFile = DEFAULT_CONFIG,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Connects to nothing: the memory that each role needs, by file headers."),
    ] = False,
    role: Annotated[str, typer.Option("--role", help="With --plan: another than the configuration's.")] = "",
    memory: Annotated[
        str, typer.Option("--memory", help="With --plan: limit of the container, such as 3Gi; default: of this one.")
    ] = "",
    card: Annotated[str, typer.Option("--card", help="With --plan: memory of the GPU, such as 24GiB.")] = "",
    json: Json = False,
) -> int:
    """Connect to everything and explain what is wrong. 1 when anything is. With --plan: 0 fits, 1 does not, 2 cannot
    tell."""
    if plan:
        from agent.capacity.verdict import show_plan

        return show_plan(config, role, memory, card, json)
    if role or memory or card:
        raise Refused("--role, --memory or --card", "no --plan", "gapwatch doctor --plan, which they belong to")
    from agent.cli.doctor import examine

    return examine(config, json)


@cli.command()
def check(
    base: Annotated[Path, typer.Option("--base", help="Folder of the new base.")],
    adapter: Annotated[
        Path, typer.Option("--adapter", help="Folder of the adapter, in PEFT's layout; or its configured name.")
    ],
    old: Annotated[
        Path | None, typer.Option("--from", help="Folder of the base that the adapter was accepted on.")
    ] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="Whose rules: peft, vllm, sglang, tgi, lorax or llama_cpp.")
    ] = "peft",
    engine_version: Annotated[str, typer.Option("--engine-version", help="Of the engine, such as 0.32.0.")] = "",
    engine_setting: Annotated[
        list[str] | None,
        typer.Option("--engine-setting", help="NAME=VALUE of the engine: max_lora_rank, lora_target_modules."),
    ] = None,
    replay: Annotated[
        bool,
        typer.Option(
            "--replay", help="Load both bases here and measure; needs --from and --canaries without a configuration."
        ),
    ] = False,
    canaries: Annotated[Path | None, typer.Option("--canaries", help="Canary file (JSON Lines).")] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Share of its effect that it may lose; else configured, .05.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Check, before a base is swapped, whether an adapter will crash on the new one, be ignored, or lose its effect.

    0 it fits, 1 it will lose, 2 cannot tell. Without --replay nothing of the adapter or the bases is run.
    """
    from agent.cli.lifecycle.check import CheckOptions, check_pair

    wish = CheckOptions(
        *(base, adapter, old, engine, engine_version, engine_setting or ()),
        replay=replay,
        canaries=canaries,
        tolerance=tolerance,
    )
    return check_pair(wish, json, config if config.is_file() else None)


@cli.command()
def compose(
    adapters: Annotated[list[str], typer.Argument(help="Adapter names, as in the configuration, two or more.")],
    method: Annotated[
        str, typer.Option("--method", help="stacked, linear, cat, svd, ties, dare_linear ... as PEFT names them.")
    ] = "stacked",
    weights: Annotated[str, typer.Option("--weights", help="One a member, such as 0.7,0.3; default: 1 each.")] = "",
    density: Annotated[
        float | None, typer.Option("--density", help="Share of values that ties, dare and magnitude_prune keep.")
    ] = None,
    svd_rank: Annotated[
        int | None, typer.Option("--svd-rank", help="Of the result of a method that ends in svd.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the values that dare drops.")] = 0,
    replay: Annotated[
        bool, typer.Option("--replay", help="Load the base here and measure each choice on the held-out canaries.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write the composition to this folder.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Predict, before adapters are combined, what is left of each skill, what conflicts, and what to do about it.

    0 every skill survives, 1 a skill will be lost, 2 cannot tell. Without --replay nothing is run, and nothing cleared.
    """
    from agent.cli.lifecycle.compose import ComposeOptions, compose_adapters, numbers

    wish = ComposeOptions(method, numbers(weights), density, svd_rank, seed, replay, output)
    return compose_adapters(config, adapters, wish, json)


@cli.command()
def bisect(
    old: Annotated[str, typer.Option("--from", help="Folder of the base that was accepted, or a commit.")],
    new: Annotated[str, typer.Option("--to", help="Folder of the new base, or a commit.")],
    adapter: Annotated[Path, typer.Option("--adapter", help="Folder of the adapter, in PEFT's layout.")],
    canaries: Annotated[Path, typer.Option("--canaries", help="Its canary file (JSON Lines).")],
    repository: Annotated[
        Path | None, typer.Option("--repository", help="Local git repository that --from and --to are commits of.")
    ] = None,
    json: Json = False,
) -> int:
    """Name the tensors of a new base, and the commit, that cost an adapter its effect.

    0 they are named, 1 nothing is lost or nothing stands out, 2 cannot tell. Both bases are loaded here, one at a time.
    """
    from agent.cli.lifecycle.bisect import BisectOptions, bisect_bases

    return bisect_bases(BisectOptions(old, new, adapter, canaries, repository), json)


@cli.command("check-config")
def check_config(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Check the configuration: its first mistake (64), or each file that is missing or cannot be read (1)."""
    from agent.cli.check_config import check

    return check(config, json)


@cli.command()
def migrate(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Create the store's tables, or bring those of an earlier version up to this one; with role witness also the topic
    by which witnesses share the bases."""
    from agent.cli.migrate import migrate_store

    return migrate_store(config, json)


@cli.command()
def passport(
    adapter: Annotated[str, typer.Argument(help="Adapter name, as in the configuration, or of one that is retired.")],
    fill: Annotated[
        bool, typer.Option("--fill", help="Take what is empty from its files, its model card and its golden record.")
    ] = False,
    run_folder: Annotated[
        Path | None, typer.Option("--mlflow-run", help="And from the tags of this run: mlruns/EXPERIMENT/RUN.")
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="place=value: owner=Ada, data.expires=2027-06-30 ...")
    ] = None,
    bill: Annotated[bool, typer.Option("--bom", help="Write it as a CycloneDX 1.7 bill of materials too.")] = False,
    sign: Annotated[Path | None, typer.Option("--sign", help="Sign its folder with this private key (PEM).")] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", help="Check the signature against this public key (PEM).")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Whose an adapter is, what it was made from, what of that runs out, and could it be made again?

    0 complete and nothing near its day, 1 something runs out or a signature does not hold, 2 not filled in.
    """
    from agent.cli.lifecycle.passport import PassportOptions, show_passport

    wish = PassportOptions(tuple(change or ()), fill, run_folder, bill, sign, verify)
    return show_passport(config, adapter, wish, json)


@cli.command()
def cost(
    days: Annotated[int, typer.Option(min=1, max=30, help="How far back.")] = 7,
    csv: Annotated[bool, typer.Option("--csv", help="Print rows for a spreadsheet.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """What watching costs a day, by adapter and part, and its share of what serving costs.

    0 within costs.target, 1 above it, 2 where what serving costs is not known.
    """
    from agent.cli.lifecycle.cost import CostOptions, show_cost

    return show_cost(config, CostOptions(days, csv), json)


@cli.command()
def worth(
    adapters: Adapters = None,
    examples: Annotated[
        str, typer.Option("--examples", help="How many examples the base is tried with, each alone; empty: none.")
    ] = "2,4,8",
    base: Annotated[
        str, typer.Option("--base", help="Another base than the configured one; nothing is kept of it.")
    ] = "",
    margin: Annotated[float, typer.Option(help="Share of right answers that the base alone may lose.")] = 0.1,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Put the canaries' own checks to an adapter and to its base alone: what does it still add, and would the base do?

    0 it adds, 1 the base alone passes (retire) or the adapter is broken, 2 cannot tell.
    """
    from agent.cli.lifecycle.worth import WorthOptions, show_worth

    return show_worth(config, adapters or [], WorthOptions(examples, base, margin), json)


@cli.command()
def portfolio(
    adapter: Annotated[str, typer.Option("--adapter", help="One of them, with all its choices.")] = "",
    days: Annotated[int, typer.Option(min=1, max=30, help="How far back requests and costs are counted.")] = 7,
    csv: Annotated[bool, typer.Option("--csv", help="Print rows for a spreadsheet.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """All adapters, one line each: owner, worth, cost, what runs out, and keep, rebuild, prompt or retire.

    0 all are to be kept, 1 something is to be done, 2 a verdict is not known.
    """
    from agent.cli.lifecycle.portfolio import PortfolioOptions, show_portfolio

    return show_portfolio(config, PortfolioOptions(adapter, days, csv), json)


@cli.command()
def passports(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """The passports of all adapters, the one in most danger first. 0, 1, 2 as for one, of the worst of them."""
    from agent.cli.lifecycle.passport import show_passports

    return show_passports(config, json)


@cli.command()
def retire(
    adapter: Annotated[str, typer.Argument(help="Adapter name, as in the configuration.")],
    why: Annotated[str, typer.Option("--why", help="The reason; needed but for --undo.")] = "",
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete its golden records, the copies of its files and its canaries too.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="On the watch again.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Take an adapter off the watch, and keep what a successor needs: golden records, canaries, stored prompts."""
    from agent.cli.lifecycle.retire import RetireOptions
    from agent.cli.lifecycle.retire import retire as take_off

    return take_off(config, adapter, RetireOptions(why, forget, undo), json)


@cli.command()
def rebuild(
    adapter: Annotated[str, typer.Argument(help="Adapter name, as in the configuration, or of one that is retired.")],
    base: Annotated[str, typer.Option("--base", help="Folder, file or hub id of the base that it is to run on.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the candidates; default: rebuilt/ADAPTER.")
    ] = None,
    old: Annotated[str, typer.Option("--from", help="The accepted base; default: the copy beside its record.")] = "",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="JSON Lines of exported requests, asked of the accepted copies.")
    ] = None,
    written: Annotated[int, typer.Option(min=0, help="Prompts that the accepted base makes up.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Of the training.")] = 120,
    rate: Annotated[float, typer.Option(help="Of the training, at its highest.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Equal ones give the same successor on the same machine.")] = 0,
    train: Annotated[bool, typer.Option("--train/--no-train", help="Only what needs no training.")] = True,
    always: Annotated[bool, typer.Option("--always", help="Train even where nothing is lost without.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Make a successor on another base from the golden record and the accepted copies: none of the training data.

    0 where a candidate is accepted, 1 where none is, 2 where nothing can be said. Goes on where it was stopped.
    """
    from agent.cli.lifecycle.rebuild import RebuildOptions, rebuild_adapter

    wish = RebuildOptions(base, out, old, prompts, written, steps, rate, seed, train, always)
    return rebuild_adapter(config, adapter, wish, json)


@cli.command()
def accept(
    adapter: Annotated[str, typer.Argument(help="Adapter name, as in the configuration, or of one that is retired.")],
    candidate: Annotated[
        Path | None, typer.Option("--candidate", help="Its folder, in PEFT's layout; default: as configured.")
    ] = None,
    base: Annotated[str, typer.Option("--base", help="That it is to run on; default: as configured.")] = "",
    retention: Annotated[float, typer.Option(help="That the interval's lower end has to reach.")] = 0.9,
    check_loss: Annotated[float, typer.Option("--check-loss", help="Share of right answers that may be lost.")] = 0.03,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Test a candidate from anywhere on the held-out canaries. It only tests: enrol --replace moves the reference.

    0 accepted, 1 not accepted, 2 cannot tell.
    """
    from agent.cli.lifecycle.accept import AcceptOptions
    from agent.cli.lifecycle.accept import accept as assess_candidate

    return assess_candidate(config, adapter, AcceptOptions(candidate, base, retention, check_loss), json)


@cli.command()
def runbook(
    cause: Annotated[str | None, typer.Argument(help="As an incident names it; without one, list all.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> int:
    """Print what to do about one cause, step by step; and how your team rolls back, where a configuration says so."""
    from agent.cli.shipped import print_runbook

    return print_runbook(cause, config)


@cli.command()
def glossary(
    word: Annotated[str | None, typer.Argument(help="As a page or a table has it; without one, list all.")] = None,
) -> int:
    """Print what a word of pages, tables and metrics means."""
    from agent.cli.shipped import print_glossary

    return print_glossary(word)


@cli.command("sample-config")
def sample_config() -> int:
    """Print a configuration with every setting and its meaning, to start from."""
    from agent.cli.shipped import print_sample

    return print_sample()


def main() -> None:
    """Run a command and turn its result, or its exception, into an exit code."""
    try:
        cpu_share.limit_libraries(cpu_share.process_share().threads, os.environ)  # before these libraries are loaded
        code = cli(standalone_mode=False)
    except typer.Abort:
        sys.exit(130)
    except typer.exceptions.TyperException as error:
        sys.stderr.write(f"{error.format_message()}\nTry: gapwatch --help\n")
        sys.exit(USAGE)
    except Refused as error:
        sys.stderr.write(f"refused: {error}\n")
        sys.exit(USAGE)
    except (AgentError, ProbeError, DetectorError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(CANNOT_TELL)
    except ModuleNotFoundError as error:
        sys.exit(_missing_package(error))
    except OSError as error:  # a folder that is not writable, a full disk, a port in use
        sys.stderr.write(f"{error.filename or 'gapwatch'}: {error.strerror or type(error).__name__}\n")
        sys.exit(CANNOT_TELL)
    except Exception:  # not 1, which means degraded
        traceback.print_exc()
        sys.exit(CANNOT_TELL)
    _exit(code if isinstance(code, int) else 0)


def _missing_package(error: ModuleNotFoundError) -> int:
    """A missing extra is wrong usage; any other missing package is a fault of this program."""
    package = str(error.name).partition(".")[0]
    if package not in EXTRA_OF:
        traceback.print_exc()
        return CANNOT_TELL
    sys.stderr.write(f"refused: {missing_package(package)}\n")
    return USAGE


def _exit(code: int) -> None:
    """End with that code, also when a replay was abandoned in the middle of a forward pass.

    Its thread then runs C++ code; a normal exit of the interpreter would unwind it there and abort the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


def log_to_stderr(level: str) -> None:
    """JSON lines in a pod, coloured lines on a terminal; level: as GAPWATCH_LOG names it. Raises Refused."""
    if level.lower() not in LEVELS:
        raise Refused("GAPWATCH_LOG", repr(level), f"one of: {', '.join(LEVELS)}")
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard library: their warnings are rendered in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # A filter and no level, because the ClickHouse driver sets the level of urllib3 itself.
    handler.addFilter(lambda record: not record.name.startswith(LOGGED_BY_US))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


if __name__ == "__main__":
    main()
