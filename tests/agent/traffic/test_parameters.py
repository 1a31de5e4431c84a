"""Parameters that cannot be read leave a response unscored:

under defaults it would be judged by another token distribution.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.agent.traffic.formats.pairs import body, event, otel, pair, read, span, told

P = "llm.invocation_parameters"


def own(sampling: Any) -> dict[str, Any]:
    return body("gapwatch_v1") | {"sampling": sampling}


def nested(parameters: Any) -> dict[str, Any]:
    """A span whose attributes are objects within objects."""
    turn = {"message": {"role": "user", "content": "Where?"}}
    answer = {"message": {"role": "assistant", "content": "shipping"}}
    llm = {"model_name": "ticket-router", "input_messages": [turn], "output_messages": [answer]}
    attributes = {"openinference": {"span": {"kind": "LLM"}}, "llm": llm | {"invocation_parameters": parameters}}
    return {"span_id": "s", "attributes": attributes}


UNREAD = [
    ("gapwatch.v1, a text", own("greedy"), "its parameters cannot be read (sampling)"),
    ("gapwatch.v1, a list", own([0.7]), "its parameters cannot be read (sampling)"),
    ("gapwatch.v1, a number as text", own({"temperature": "0.7"}), "the request's temperature is not a number"),
    ("gapwatch.v1, a truth value", own({"temperature": True}), "the request's temperature is not a number"),
    ("an OpenAI pair, a number as text", pair({"temperature": "0.7"}), "the request's temperature is not a number"),
    ("an OpenAI pair, a list", pair({"top_p": [0.9]}), "the request's top_p is not a number"),
    ("an OpenAI pair, extra_body", pair({"extra_body": "top_k=5"}), "its parameters cannot be read (extra_body)"),
    (
        "an event, a number as text",
        otel({"gen_ai.request.temperature": "hot"}),
        "the request's temperature is not a number",
    ),
    ("a span, no JSON", span({P: "{'temperature': 0.2}"}), f"its parameters cannot be read ({P})"),
    ("a span, JSON that is cut", span({P: '{"temperature": 0.'}), f"its parameters cannot be read ({P})"),
    ("a span, NaN", span({P: '{"temperature": NaN}'}), f"its parameters cannot be read ({P})"),
    ("a span, a list", span({P: [{"temperature": 0.2}]}), f"its parameters cannot be read ({P})"),
    ("a span, a list as text", span({P: '[{"temperature": 0.2}]'}), f"its parameters cannot be read ({P})"),
    ("a span, a number", span({P: 0.7}), f"its parameters cannot be read ({P})"),
    ("a span, a number as text", span({P: '{"temperature": "0.7"}'}), "the request's temperature is not a number"),
]


@pytest.mark.parametrize(("record", "why"), [case[1:] for case in UNREAD], ids=[case[0] for case in UNREAD])
def test_parameters_that_cannot_be_read_are_never_defaults(record: Any, why: str) -> None:
    interaction = read(record)
    assert (interaction.unscored, interaction.output) == (why, "shipping"), "counted and embedded all the same"
    assert "temperature" not in interaction.sampling or interaction.sampling["temperature"] == 0.7


BIASED = {"temperature": 0.3, "logit_bias": {"50256": -100}}
ASKED = [
    ("an object", span({P: BIASED})),
    ("its JSON", span({P: orjson.dumps(BIASED).decode()})),
    ("the JSON of its JSON", span({P: orjson.dumps(orjson.dumps(BIASED).decode()).decode()})),
    ("flat names", span({P: None, f"{P}.temperature": 0.3, f"{P}.logit_bias.50256": -100})),
    ("objects in objects", nested(BIASED)),
    ("objects in objects, with lists", nested(BIASED | {"stop": [], "tools": [{"type": "function"}]})),
    ("an OpenAI pair", pair(BIASED)),
    ("gapwatch.v1", own(BIASED)),
    ("gapwatch.v1, its JSON", own(orjson.dumps(BIASED).decode())),
]


@pytest.mark.parametrize("record", [case[1] for case in ASKED], ids=[case[0] for case in ASKED])
def test_a_logit_bias_is_reported_and_the_temperature_is_still_read(record: Any) -> None:
    interaction = read(record)
    assert interaction.unscored == "the request biases tokens (logit_bias)"
    assert interaction.sampling["temperature"] == 0.3


@pytest.mark.parametrize("given", [None, "", "{}", "null"])
def test_a_span_without_parameters_is_no_unreadable_span(given: Any) -> None:
    interaction = read(span({P: given}))
    assert (interaction.unscored, interaction.sampling) == ("", {})


def test_parameters_of_a_span_in_otlps_own_lists() -> None:
    flat = {name: value for name, value in span()["attributes"].items() if name != P}
    attributes = [told(*item) for item in flat.items()] + [told(P, BIASED | {"seed": 1})]
    envelope = {"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "s", "attributes": attributes}]}]}]}
    interaction = read(envelope)
    assert interaction.sampling == {"temperature": 0.3, "seed": 1.0}
    assert interaction.unscored == "the request biases tokens (logit_bias)"


@pytest.mark.parametrize(
    ("value", "temperature", "why"),
    [
        ({"doubleValue": "0.5"}, 0.5, ""),
        ({"intValue": "1"}, 1.0, ""),
        ({"intValue": 1}, 1.0, ""),
        ({"doubleValue": "NaN"}, None, "the request's temperature is not a number"),
        ({"doubleValue": "Infinity"}, None, "the request's temperature is not a number"),
        ({"intValue": "0.5"}, None, "the request's temperature is not a number"),
        ({"stringValue": "0.5"}, None, "the request's temperature is not a number"),
        ({"boolValue": True}, None, "the request's temperature is not a number"),
        ({}, None, ""),
    ],
)
def test_numbers_as_otlp_writes_them(value: Any, temperature: float | None, why: str) -> None:
    record = otel({"gen_ai.request.temperature": None})["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    interaction = read(event([*record["attributes"], {"key": "gen_ai.request.temperature", "value": value}]))
    assert (interaction.sampling.get("temperature"), interaction.unscored) == (temperature, why)
