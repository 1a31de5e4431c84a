"""Arguments, signals, exit codes. Heavy imports happen inside the command that needs them.

0 healthy or done, 1 degraded or wrong, 2 cannot tell, 64 wrong usage, refused configuration included.
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
SAID_BY_US = ("urllib3", "clickhouse_connect", "kafka.net")
CANNOT_TELL = 2

cli = typer.Typer(
    name="gapwatch",
    help="Watches the gap between fine-tuned adapters and their base, and pages when an adapter goes back to the base.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="GAPWATCH_CONFIG", help="YAML file; deploy/gapwatch.yaml is a sample.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Adapters = Annotated[list[str] | None, typer.Argument(help="Adapter names; all when none is given.")]

DEFAULT_CONFIG = Path("gapwatch.yaml")


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
        typer.Option("--select", help="Choose the canaries that tell most per token; a random half is held out first."),
    ] = False,
    from_traffic: Annotated[
        Path | None,
        typer.Option(
            "--from-traffic",
            help="With --select: JSON Lines of production prompts you exported, candidates beside the canary file. "
            "The chosen ones are kept in the golden record as text.",
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Record golden behaviour, noise, strengths, signatures and power of an adapter. 2 when it cannot be monitored."""
    from agent.cli.enrol import Wish, enrol_adapter

    return enrol_adapter(config, adapter, Wish(replace, why, select, from_traffic), json)


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
    """Answer an on-call question from the SQL files in dashboards/sql."""
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
def doctor(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Connect to everything and explain what is wrong. 1 when something is."""
    from agent.cli.doctor import examine

    return examine(config, json)


@cli.command("check-config")
def check_config(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Read the configuration and say what is wrong with it, on one line."""
    from agent.cli.check_config import check

    return check(config, json)


def main() -> None:
    """Run a command and turn what it says, or what it raises, into an exit code."""
    _log_to_stderr(os.environ.get("GAPWATCH_LOG", "info"))
    cpu_share.limit_libraries(cpu_share.here().threads, os.environ)  # before the first of them is loaded
    try:
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
    except OSError as error:  # a folder that may not be written to, a disk that is full, a port that is taken
        sys.stderr.write(f"{error.filename or 'gapwatch'}: {error.strerror or type(error).__name__}\n")
        sys.exit(CANNOT_TELL)
    except Exception:  # 1 means degraded: whatever went wrong here, it is not that
        traceback.print_exc()
        sys.exit(CANNOT_TELL)
    _leave(code if isinstance(code, int) else 0)


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
    """Lines for machines in a pod, for people on a terminal; the level from GAPWATCH_LOG."""
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
