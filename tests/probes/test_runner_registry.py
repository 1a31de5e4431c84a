"""Which runners there are, what settings they have of their own, and what makes a configured one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import MISSING, fields
from importlib import import_module

import pytest

from probes.errors import Refused
from probes.runner_registry import FILLED_IN, check, declared, make, names


@pytest.mark.parametrize("name", names())
def test_what_is_read_from_the_source_is_what_the_file_declares(name: str) -> None:
    config = import_module(f"probes.runners.{name}").Config
    required = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(config)}
    assert {key: setting.required for key, setting in declared(name).items()} == required


def test_settings_are_checked_without_the_model_libraries() -> None:
    code = """
import sys
from probes.errors import Refused
from probes.runner_registry import check
check("in_process", {"dtype": "bfloat16"})
try:
    check("in_process", {"dtyp": "bfloat16"})
except Refused as error:
    assert error.wanted == "one of: dtype", error
else:
    raise AssertionError("an unknown setting was taken")
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    with pytest.raises(Refused, match="runner: saw 'vllm', wanted one of: in_process, memory"):
        check("vllm", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base": "x"}, "saw base, wanted one of: noise, faults"),
        ({"noise": "loud"}, "saw noise: str, wanted noise: a number"),
        ({"noise": True}, "saw noise: bool, wanted noise: a number"),
        ({"faults": {"nobody": "none"}}, "saw faults for memory, wanted fault of 'nobody': known are alpha, and ''"),
    ],
)
def test_a_setting_that_the_runner_does_not_take_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(Refused, match="runner_settings") as refused:
        make("memory", {"base": "b", "adapters": {"alpha": "a"}}, settings)
    assert message in str(refused.value)


def test_a_runner_is_given_what_it_declares_and_its_own_settings() -> None:
    filled_in = dict.fromkeys(FILLED_IN) | {"base": "b", "adapters": {"alpha": "a"}}
    runner = make("memory", filled_in, {"noise": 0.5})
    config = runner.config  # type: ignore[attr-defined]
    assert (config.base, config.adapters, config.noise) == ("b", {"alpha": "a"}, 0.5)
