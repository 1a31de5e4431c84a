"""The zoo on disk: trained once by ``python -m benchmarks.zoo.members``, in a folder named by a hash of its recipes."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import transformers

from benchmarks.zoo.language import sentence, ticket
from benchmarks.zoo.recipes import AdapterRecipe, adapters, bases, key

FOLDER = Path("~/.cache/gapwatch/zoo")
CANARIES, POOL, GENERAL = 72, 480, 240


@dataclass(frozen=True, slots=True)
class Member:
    """One adapter of the zoo.

    base, moved: folders of its base and of a later release of that; folder, earlier: of the adapter, and of the adapter
    after half of its training; canaries, pool, general: prompts, JSON Lines of (id, messages), in-domain except general
    """

    recipe: AdapterRecipe
    base: Path
    moved: Path
    folder: Path
    earlier: Path
    canaries: Path
    pool: Path
    general: Path

    @property
    def name(self) -> str:
        return self.recipe.name


def zoo(folder: Path = FOLDER, added_seed: int = 0) -> tuple[Member, ...]:
    """All members, in the order of the recipes; trained first if they do not exist: one thread, eight minutes.

    added_seed: recipes.FRESH_SEEDS for the zoo that nothing was developed on
    """
    home = folder.expanduser() / key(added_seed)
    if not home.is_dir():
        home.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=home.parent, prefix=".making-"))
        try:
            _fill(partial, added_seed)
            partial.rename(home)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return tuple(_member(home, recipe) for recipe in adapters(added_seed))


def _member(home: Path, recipe: AdapterRecipe) -> Member:
    prompts = home / "prompts"
    return Member(
        recipe,
        base=home / "bases" / recipe.base,
        moved=home / "moved" / recipe.base,
        folder=home / "adapters" / recipe.name,
        earlier=home / "earlier" / recipe.name,
        canaries=prompts / f"{recipe.name}.canaries.jsonl",
        pool=prompts / f"{recipe.name}.pool.jsonl",
        general=prompts / "general.jsonl",
    )


def _fill(home: Path, added_seed: int) -> None:
    from benchmarks.zoo.train import train_adapter, train_base  # peft, a development dependency, only for training

    transformers.utils.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads decides the order of additions, and so the weights
    try:
        for base in bases(added_seed):
            train_base(base, home / "bases" / base.name, home / "moved" / base.name)
        for recipe in adapters(added_seed):
            member = _member(home, recipe)
            train_adapter(recipe, member.base, member.folder, member.earlier)
            _write_prompts(member)
    finally:
        torch.set_num_threads(threads)


def _write_prompts(member: Member) -> None:
    rng = Random(member.recipe.seed)
    prompts = list(dict.fromkeys(ticket(rng).prompt for _ in range(2 * (CANARIES + POOL))))[: CANARIES + POOL]
    _write(member.canaries, "canary", prompts[:CANARIES])
    _write(member.pool, "pool", prompts[CANARIES:])
    everyday = Random(0)
    _write(member.general, "general", dict.fromkeys(sentence(everyday) for _ in range(3 * GENERAL)))


def _write(file: Path, name: str, prompts: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": f"{name}-{number:03d}", "messages": [{"role": "user", "content": prompt}]}
        for number, prompt in enumerate(prompts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    began = time.monotonic()
    print(f"{len(zoo())} members after {time.monotonic() - began:.0f} s")
