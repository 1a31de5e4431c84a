"""The command line: its commands, logging, exit codes. The commands themselves are in agent/cli/commands/, a file a
group; each imports what it needs when it is called, so that the others start fast.

Exit codes, which scripts and manifests rely on: 0 healthy or done, 1 degraded or wrong, 2 cannot tell, 64 wrong usage
or a refused configuration, 130 interrupted by Ctrl-C. ``run`` ends with 0 on SIGTERM, with 64 on wrong usage, and for
nothing else.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Annotated

import structlog
import typer
import typer.exceptions

from agent.cli.commands import canaries, checks, incidents, lifecycle, running, shipped
from agent.errors import EXTRA_OF, AgentError, Refused, missing_package
from agent.terminal.log import log_to_stderr
from detectors.errors import DetectorError
from probes import cpu_share
from probes.errors import ProbeError

USAGE = 64
CANNOT_TELL = 2

cli = typer.Typer(
    name="gapwatch",
    help="Watches the gap between fine-tuned adapters and their base, and pages when an adapter goes back to the base.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# In the order in which `gapwatch --help` lists them.
for group in (running, canaries, incidents, checks, lifecycle, shipped):
    cli.add_typer(group.commands)


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


if __name__ == "__main__":
    main()
