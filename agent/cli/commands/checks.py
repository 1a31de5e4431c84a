"""Before something is started or swapped: connections, configuration and tables, a new base, a combination."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.commands.arguments import DEFAULT_CONFIG, ConfigFile, Json
from agent.errors import Refused

commands = typer.Typer()


@commands.command()
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


@commands.command()
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


@commands.command()
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


@commands.command()
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


@commands.command("check-config")
def check_config(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Check the configuration: its first mistake (64), or each file that is missing or cannot be read (1)."""
    from agent.cli.check_config import check

    return check(config, json)


@commands.command()
def migrate(config: ConfigFile = DEFAULT_CONFIG, json: Json = False) -> int:
    """Create the store's tables, or bring those of an earlier version up to this one; with role witness also the topic
    by which witnesses share the bases."""
    from agent.cli.migrate import migrate_store

    return migrate_store(config, json)
