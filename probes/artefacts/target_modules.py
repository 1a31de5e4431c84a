"""Which modules PEFT would put an adapter on, by its config: keys of other modules lie in the file and do nothing."""

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

    targets: one expression for the whole name, or names and ends of names; exclude: likewise, stronger
    layers: numbers of the layers, None for all; layers_pattern: what stands before the number, () for anything
    own: modules that the adapter saved whole, which take no low-rank part beside that
    """

    targets: str | tuple[str, ...] = ALL_LINEAR
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    own: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path, config: Mapping[str, Any]) -> TargetModules:
        """From adapter_config.json. Raises Unsupported without targets, Unreplayable for what PEFT would refuse."""
        if config.get("target_modules") is None:
            raise Unsupported(str(file), "target_modules null (a guess by the model's type)")
        try:
            found = cls(
                _names(config["target_modules"]),
                _names(config.get("exclude_modules") or ()),
                _layers(config.get("layers_to_transform")),
                _listed(config.get("layers_pattern")),
                _listed(config.get("modules_to_save")),
            )
            found.takes("model.layers.0.any")  # expressions that are none raise here
        except (TypeError, ValueError, re.error) as error:
            raise Unreplayable(str(file), f"target_modules and what limits them: {error}") from error
        if isinstance(found.targets, str) and found.layers is not None:
            raise Unreplayable(str(file), "layers_to_transform beside target_modules that are one expression")
        return found

    @property
    def all_linear(self) -> bool:
        """Every linear module but the output layer; which one that is, only the base can say."""
        return isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR

    def takes(self, module: str) -> bool:
        """Does a linear module of this name get a low-rank part? Under ``all_linear`` also the output layer."""
        if _matches(self.exclude, module) or any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.own):
            return False
        if self.all_linear or (module in self.targets and not isinstance(self.targets, str)):
            return True  # a whole name is stronger than the choice of layers
        return _matches(self.targets, module) and self._in_layers(module)

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


def _names(told: Any) -> str | tuple[str, ...]:
    return told if isinstance(told, str) else _listed(told)


def _listed(told: Any) -> tuple[str, ...]:
    return () if told is None else (told,) if isinstance(told, str) else tuple(map(str, told))


def _layers(told: Any) -> tuple[int, ...] | None:
    if told is None or told == []:
        return None
    return (told,) if isinstance(told, int) else tuple(map(int, told))
