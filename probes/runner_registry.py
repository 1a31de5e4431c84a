"""Which runners are there? One file under probes/runners each; the file's name is the value of ``probes.runner``.

Files are read here and not imported, so that a configuration can be checked without the model libraries.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from probes import runners
from probes.errors import Refused
from probes.runner import Runner
from probes.serving import dialects as serving_dialects

# The runner of models whose serving engine is asked; it is chosen by where a model is, not by name.
SERVED = "served"
# Fields of a runner's Config that the other sections of the configuration fill in, for each base, where it declares
# them: what to load, and how it is run. All other fields are its own settings.
FILLED_IN = (
    *("base", "adapters", "golden_base", "golden_adapters", "served", "limits"),
    *("device", "device_memory", "cache_dir", "max_batch_tokens", "attention", "threads", "tolerance"),
)
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
_WANTED = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}


class Setting(NamedTuple):
    """One field of a runner's Config. annotation: as written; required: it has no default"""

    annotation: str
    required: bool


def names() -> tuple[str, ...]:
    """All runners, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(runners.__path__)))


def dialects() -> tuple[str, ...]:
    """All kinds of serving engines that can be asked, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(serving_dialects.__path__)))


def declared(name: str) -> dict[str, Setting]:
    """The fields of that runner's Config, read from its source. Raises Refused for an unknown name."""
    if name not in names():
        raise Refused("runner", repr(name), f"one of: {', '.join(names())}")
    source = Path(getattr(find_spec(f"{runners.__name__}.{name}"), "origin", "")).read_text(encoding="utf-8")
    (config,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Config")
    return {
        field.target.id: Setting(ast.unparse(field.annotation), field.value is None)
        for field in config.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def check(name: str, settings: Mapping[str, object]) -> None:
    """Are these settings of that runner's own, all that it needs, and values of the right kind? Raises Refused.

    Ranges are the runner's own to check, when it is made.
    """
    own = {key: field for key, field in declared(name).items() if key not in FILLED_IN}
    wanted = f"one of: {', '.join(own)}" if own else f"nothing: {name} has no settings of its own"
    if unknown := [key for key in settings if key not in own]:
        raise Refused("runner_settings", ", ".join(unknown), wanted)
    if absent := [key for key, field in own.items() if field.required and key not in settings]:
        raise Refused("runner_settings", f"no {', '.join(absent)}", f"a value, which {name} cannot do without")
    for key, value in settings.items():
        kind = own[key].annotation
        if kind in _KINDS and (not isinstance(value, _KINDS[kind]) or isinstance(value, bool) is not (kind == "bool")):
            raise Refused("runner_settings", f"{key}: {type(value).__name__}", f"{key}: {_WANTED[kind]}")


def make(name: str, filled_in: Mapping[str, Any], settings: Mapping[str, Any]) -> Runner:
    """A runner, not opened. Imports its libraries. filled_in: values of FILLED_IN, of which it gets what it declares.

    Raises Refused for an unknown name and for settings that its Config does not take.
    """
    check(name, settings)
    module = import_module(f"{runners.__name__}.{name}")
    taken = {field.name for field in fields(module.Config)}
    given = {key: value for key, value in filled_in.items() if key in taken}
    try:
        config = module.Config(**given, **settings)
    except (TypeError, ValueError) as error:
        raise Refused("runner_settings", f"{', '.join(settings) or 'nothing'} for {name}", str(error)) from None
    runner: Runner = module.Runner(config)
    return runner
