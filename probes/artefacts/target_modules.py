"""PEFT's target modules: which modules of a base an adapter changes, by its config. Keys of others have no effect.

Follows PEFT 0.21; tests/probes/artefacts/test_target_modules.py compares the two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probes.errors import Unreplayable, Unsupported

ALL_LINEAR = "all-linear"
FIRST_NUMBER = r".*?\.[^.]*\.(\d+)\."


@dataclass(frozen=True, slots=True)
class TargetModules:
    """The rule of PEFT 0.21 (tuners_utils.check_target_module_exists), on names inside the base.

    targets: one regular expression for the whole name, or names and ends of names; exclude: likewise, takes precedence
    layers: numbers of the layers, None for all; layers_pattern: the name before the number, () for any
    modules_to_save: modules that the adapter replaces whole, which get no low-rank update beside that
    parameters: names and ends of names of parameters that get an update of their own (target_parameters)
    """

    targets: str | tuple[str, ...] = ALL_LINEAR
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path, config: Mapping[str, Any]) -> TargetModules:
        """From adapter_config.json. Raises Unsupported without targets, Unreplayable for what PEFT would refuse."""
        if config.get("target_modules") is None:
            raise Unsupported(str(file), "target_modules null (a guess by the model's type)")
        try:
            rule = cls(
                _names(config["target_modules"]),
                _names(config.get("exclude_modules") or ()),
                _layers(config.get("layers_to_transform")),
                _listed(config.get("layers_pattern")),
                _listed(config.get("modules_to_save")),
                _listed(config.get("target_parameters")),
            )
            rule.takes("model.layers.0.any")  # an invalid regular expression raises here
        except (TypeError, ValueError, re.error) as error:
            raise Unreplayable(str(file), f"target_modules, exclude_modules or layers_to_transform: {error}") from error
        if isinstance(rule.targets, str) and rule.layers is not None:
            raise Unreplayable(str(file), "layers_to_transform beside target_modules given as one regular expression")
        return rule

    @property
    def all_linear(self) -> bool:
        """Every linear module except the output layer; which one that is depends on the base."""
        return isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR

    def takes(self, module: str) -> bool:
        """Does a linear module of this name get a low-rank update? Also the output layer does under ``all_linear``."""
        if _matches(self.exclude, module) or any(
            re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.modules_to_save
        ):
            return False
        if self.all_linear or (module in self.targets and not isinstance(self.targets, str)):
            return True  # a whole name takes precedence over the choice of layers
        return _matches(self.targets, module) and self._in_layers(module)

    def takes_parameter(self, parameter: str) -> bool:
        """Does the parameter of this whole name get an update? Without a choice of layers, as in PEFT."""
        return _matches(self.parameters, parameter)

    def _in_layers(self, module: str) -> bool:
        if self.layers is None:
            return True
        patterns = [rf"(?:^|.*?\.){name}\.(\d+)\." for name in self.layers_pattern] or [FIRST_NUMBER]
        number = next((match[1] for pattern in patterns if (match := re.match(pattern, module))), None)
        return number is not None and int(number) in self.layers


def _matches(wanted: str | tuple[str, ...], module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)


def _names(value: Any) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else _listed(value)


def _listed(value: Any) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(map(str, value))


def _layers(value: Any) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    return (value,) if isinstance(value, int) else tuple(map(int, value))
