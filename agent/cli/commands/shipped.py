"""Texts that the program brings: runbooks, the glossary, a sample of a configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.commands.arguments import DEFAULT_CONFIG, ConfigFile

commands = typer.Typer()


@commands.command()
def runbook(
    cause: Annotated[str | None, typer.Argument(help="As an incident names it; without one, list all.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> int:
    """Print what to do about one cause, step by step; and how your team rolls back, where a configuration says so."""
    from agent.cli.shipped import print_runbook

    return print_runbook(cause, config)


@commands.command()
def glossary(
    word: Annotated[str | None, typer.Argument(help="As a page or a table has it; without one, list all.")] = None,
) -> int:
    """Print what a word of pages, tables and metrics means."""
    from agent.cli.shipped import print_glossary

    return print_glossary(word)


@commands.command("sample-config")
def sample_config() -> int:
    """Print a configuration with every setting and its meaning, to start from."""
    from agent.cli.shipped import print_sample

    return print_sample()
