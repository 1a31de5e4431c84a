"""The life of an adapter: its passport, cost and worth, retirement, and a successor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands.arguments import DEFAULT_CONFIG, Adapters, ConfigFile, Json

commands = typer.Typer()


@commands.command()
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


@commands.command()
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


@commands.command()
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


@commands.command()
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


@commands.command()
def passports(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """The passports of all adapters, the one in most danger first. 0, 1, 2 as for one, of the worst of them."""
    from agent.cli.lifecycle.passport import show_passports

    return show_passports(config, json)


@commands.command()
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


@commands.command()
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


@commands.command()
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
