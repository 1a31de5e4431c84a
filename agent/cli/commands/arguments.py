"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path, typer.Option("--config", "-c", envvar="GAPWATCH_CONFIG", help="YAML file; see gapwatch sample-config.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Adapters = Annotated[list[str] | None, typer.Argument(help="Adapter names; all when none is given.")]

DEFAULT_CONFIG = Path("gapwatch.yaml")
