"""The configuration without the adapters that are retired: what an agent, and whoever acts in its place, watches."""

from __future__ import annotations

from agent.config import Config
from agent.errors import Refused
from agent.lifecycle.passport_file import FOLDER
from agent.lifecycle.retirement import FILE, retired


def without_retired(config: Config) -> Config:
    """Of models without any other adapter nothing is watched. Raises Refused where nothing is left to watch."""
    gone = retired(config.probes.golden_dir)
    if not gone:
        return config
    left = {model.name: tuple(own for own in model.adapters if own.name not in gone) for model in config.models}
    models = tuple(
        model.model_copy(update={"adapters": left[model.name]}) for model in config.models if left[model.name]
    )
    if not models:
        wanted = "one that is watched: gapwatch retire ADAPTER --undo, or another configuration"
        raise Refused("models", "adapters that are all retired", wanted)
    return config.model_copy(update={"models": models})


def marks(config: Config) -> str:
    """Changes whenever an adapter is retired, or is not any more."""
    folder = config.probes.golden_dir / FOLDER
    try:
        return " ".join(sorted(f"{file.parent.name} {file.stat().st_mtime_ns}" for file in folder.glob(f"*/{FILE}")))
    except OSError as error:
        return str(error.strerror)
