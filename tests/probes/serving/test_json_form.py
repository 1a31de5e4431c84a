"""Is a value of another type never taken for the one that is wanted, and are metrics read by their names?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from probes.errors import Unreplayable
from probes.serving.json_form import greatest, labels, number, reading, samples, text, total, whole, wholes


@pytest.mark.parametrize(
    ("take", "value"),
    [
        (number, True),
        (number, "1"),
        (number, None),
        (whole, 1.0),
        (whole, True),
        (whole, -1),
        (whole, 2**31),
        (wholes, "12"),
        (wholes, {"1": 2}),
        (wholes, [1, None]),
        (text, 3),
        (lambda value: value["data"][0]["id"], {"data": []}),
        (lambda value: value["data"], [1]),
        (lambda value: value.get("x"), [1]),
        (lambda value: int(value), "token"),
    ],
)
def test_another_type_is_told_without_the_value(take: Callable[[Any], object], value: object) -> None:
    with pytest.raises(Unreplayable, match="another form") as raised, reading("http://engine/x"):
        take(value)
    assert str(raised.value).startswith("http://engine/x: ")


def test_metrics_of_several_engines_behind_one_server() -> None:
    values = samples(
        "# HELP vllm:waiting requests\n"
        'vllm:waiting{engine="0",model="a b"} 2.0\n'
        'vllm:waiting{engine="1"} 3.0 1795000000000\n'
        "vllm:usage 0.25\nvllm:other NaN\nhalf a line\n"
        'vllm:old_usage{engine="0"} 0.5\n'
    )
    assert total(values, "vllm:waiting") == 5
    assert greatest(values, "vllm:usage", "vllm:old_usage") == 0.5
    assert total(values, "vllm:missing") is None and greatest(values, "vllm:other") is None


def test_labels_are_those_of_the_first_sample_of_exactly_that_name() -> None:
    exposition = (
        "# HELP vllm:info about the cache\n"
        'vllm:info_more{size="1"} 1.0\n'
        'vllm:info{_private="True",list="[\'a\', {1}]",path="C:\\\\x \\"q\\"",size="128"} 1.0\n'
        'vllm:info{size="16"} 1.0\n'
    )
    found = labels(exposition, "vllm:info")
    assert found["size"] == "128" and found["_private"] == "True" and found["list"] == "['a', {1}]"
    assert labels(exposition, "vllm:inf") == labels("vllm:info 1.0", "vllm:info") == labels("", "vllm:info") == {}
