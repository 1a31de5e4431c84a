"""Folders of compositions that are made of their members' files, each again only when what it is made from changed."""

from __future__ import annotations

import json
from pathlib import Path

import structlog

from agent.composition.settings import Composition, folder_of
from agent.config import Config, Model
from probes.artefacts.access import holds
from probes.errors import ProbeError

log = structlog.get_logger(__name__)
ABOUT = "composition.json"


def make_folders(config: Config, model: Model) -> None:
    """Every composition of the model that has no path of its own, from its members' files as they are now. Imports the
    model libraries.

    One that cannot be made leaves what was there, and the log says why: its skills are then unreadable, or are those of
    the files that it was made from before, and no other adapter is kept from being watched.
    """
    paths = {adapter.name: adapter.path for adapter in model.adapters if adapter.path is not None}
    for composition in model.compositions:
        if composition.path is not None:
            continue
        try:
            _make(composition, paths, folder_of(config.probes.cache_dir, model.name, composition.name))
        except (ProbeError, OSError) as error:
            log.warning("composition_not_made", composition=composition.name, why=str(error))


def _make(composition: Composition, paths: dict[str, Path], target: Path) -> None:
    from probes.composition.compose import compose, read_members, write

    recipe = composition.recipe
    adapters = read_members(recipe, paths)
    hashes = [adapter.hash for adapter in adapters]
    if _identity_of(target) == recipe.identity(hashes):
        return
    about = json.dumps(recipe.as_json(hashes), indent=2) + "\n"
    write(compose(recipe, adapters), paths[recipe.members[0].adapter], target, {ABOUT: about})


def _identity_of(folder: Path) -> str:
    """Of what was made there before, "" where nothing was."""
    file = folder / ABOUT
    return str(json.loads(file.read_text()).get("identity", "")) if holds(file.is_file) else ""
