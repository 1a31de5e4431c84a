"""Responses that are not one complete answer: errors, single chunks of a stream, and all chunks of one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agent.errors import Unreadable
from agent.kafka.contract import Outgoing
from agent.kafka.in_memory import MemoryTopic
from agent.records import RejectionReason
from agent.traffic.decoder import Decoder
from tests.agent.traffic.feeding import counted, feed_over
from tests.agent.traffic.formats.pairs import body, completion, message, otel, pair, read, span
from tests.agent.traffic.formats.records import PLACE, example

CHUNK = (RejectionReason.STREAM_CHUNK, "one chunk of a stream")
ERROR = (RejectionReason.ERROR_ANSWER, "the engine's error answer, not traffic")


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_001, "choices": [choice]}


USAGE = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": {"completion_tokens": 2}}
STREAM = [chunk(role="assistant", content=""), chunk(content="ship"), chunk(content="ping"), chunk("stop"), USAGE]


def streamed(response: Any) -> dict[str, Any]:
    return pair({"stream": True}) | {"response": response}


def text_chunk(text: str, finish_reason: str | None) -> dict[str, Any]:
    return completion({"stream": True}, text=text, finish_reason=finish_reason)


def refusal(record: Any) -> tuple[str, str]:
    (found,) = Decoder().read(message(record), PLACE)
    assert isinstance(found, Unreadable)
    return found.reason, found.detail


CHUNKS = [
    *[(f"chunk {number} of a chat", streamed(one)) for number, one in enumerate(STREAM)],
    *[(f"chunk {number} by itself", one) for number, one in enumerate(STREAM)],
    ("a chunk that does not say what it is", streamed(chunk(content="ship") | {"object": None})),
    ("a chunk whose stream was not told", pair() | {"response": chunk(content="ship")}),
    ("a chunk of a completion", text_chunk("ship", None)),
    ("the last chunk of a completion", text_chunk("", "stop")),
    ("a chunk of a completion by itself", text_chunk("ship", None)["response"]),
    ("the first chunks of a chat", streamed(STREAM[:3])),
]


@pytest.mark.parametrize("record", [case[1] for case in CHUNKS], ids=[case[0] for case in CHUNKS])
def test_a_chunk_is_no_answer(record: Any) -> None:
    reason, words = refusal(record)
    assert (reason, words.split(",")[0]) == CHUNK


@pytest.mark.parametrize("key", [b"ticket-router", None])
@pytest.mark.parametrize("alone", [False, True])
def test_chunks_of_one_stream_are_not_counted_as_requests(key: bytes | None, alone: bool) -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(key, orjson.dumps(one if alone else streamed(one))) for one in STREAM)
    topic.publish([Outgoing(key, orjson.dumps(pair()))])
    (batch,) = feed_over(topic).poll(2e9)
    assert [(rejection.reason, rejection.detail) for rejection in batch.rejected] == [CHUNK] * 5
    assert ([interaction.output for interaction in batch.interactions], counted([batch])) == (
        ["shipping"],
        {"ticket-router": 1},
    )


def as_events(chunks: list[Any], end: str = "\r\n\r\n") -> str:
    return "".join(f"data: {orjson.dumps(one).decode()}{end}" for one in chunks) + f"data: [DONE]{end}"


@pytest.mark.parametrize("response", [STREAM, as_events(STREAM), as_events(STREAM, "\n\n")], ids=["list", "CRLF", "LF"])
def test_all_chunks_of_a_stream_are_the_answer(response: Any) -> None:
    interaction = read(streamed(response))
    assert (interaction.output, interaction.finish_reason, interaction.output_tokens) == ("shipping", "stop", 2)
    assert (interaction.request_id, interaction.at, interaction.unscored) == ("chatcmpl-1", 1_700_000_001.0, "")


def test_token_ids_and_log_probabilities_of_chunks_are_concatenated() -> None:
    def with_ids(one: dict[str, Any], ids: list[int], logprob: float) -> dict[str, Any]:
        (choice,) = one["choices"]
        told = {"token_ids": ids, "logprobs": {"content": [{"logprob": logprob}]}}
        return one | {"choices": [choice | told]}

    first = with_ids(chunk(role="assistant", content="ship"), [7], -0.25) | {"prompt_token_ids": [1, 2]}
    interaction = read(streamed([first, with_ids(chunk("stop", content="ping"), [8], -0.5)]))
    assert (interaction.prompt_token_ids, interaction.output_token_ids, interaction.token_logprobs) == (
        (1, 2),
        (7, 8),
        (-0.25, -0.5),
    )


@pytest.mark.parametrize("logprobs", [True, [1], {"content": [{"logprob": "low"}]}])
def test_a_record_is_not_rejected_for_log_probabilities_of_another_form(logprobs: Any) -> None:
    whole = chunk("stop", role="assistant", content="shipping")
    (choice,) = whole["choices"]
    interaction = read(streamed([whole | {"choices": [choice | {"logprobs": logprobs}]}]))
    assert (interaction.output, interaction.token_logprobs) == ("shipping", ())


def test_all_chunks_of_a_completion_are_its_text() -> None:
    chunks = [
        text_chunk("ship", None)["response"],
        text_chunk("ping", "stop")["response"] | {"usage": {"total_tokens": 9}},
    ]
    assert read(completion({"stream": True}) | {"response": chunks}).output == "shipping"


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([*STREAM[:3], chunk("tool_calls", tool_calls=[{"id": "t"}])], "the answer calls tools"),
        ([chunk(reasoning_content="hm"), *STREAM[1:]], "reasoning besides its text (reasoning_content)"),
        ([chunk(refusal="no"), *STREAM[1:]], "not only text (refusal)"),
    ],
)
def test_what_a_stream_holds_besides_its_text_is_reported(chunks: Any, words: str) -> None:
    assert words in read(streamed(chunks)).unscored


def test_two_answers_in_one_stream_are_two_choices() -> None:
    other = [one | {"choices": [choice | {"index": 1} for choice in one["choices"]]} for one in STREAM]
    both = [one for pair_ in zip(STREAM, other, strict=True) for one in pair_]
    interaction = read(streamed(both))
    assert (interaction.output, interaction.unscored) == ("shipping", "the answer is one of several (choices)")


def test_chunks_of_two_streams_in_one_answer_are_rejected() -> None:
    other = [one | {"id": "chatcmpl-2"} for one in STREAM]
    assert refusal(streamed(STREAM + other)) == (CHUNK[0], "chunks of several streams in one answer")


def test_truncated_events_are_rejected() -> None:
    assert refusal(streamed(as_events(STREAM)[:-40]))[0] == CHUNK[0]


def test_an_assembled_answer_is_an_answer() -> None:
    """Also where whoever did it has kept the chunks' name."""
    whole = pair({"stream": True}, {"object": "chat.completion.chunk"})
    assert read(whole).output == "shipping"
    assert read(completion({"stream": True}, {"usage": {"completion_tokens": 2}})).output == "shipping"


def test_a_whole_completion_need_not_say_why_it_ended() -> None:
    assert read(completion(finish_reason=None)).output == "shipping"


ERRORS = [
    ("OpenAI's", {"error": {"message": "max context", "type": "BadRequestError", "code": 400}}),
    ("TGI's", {"error": "Model is overloaded", "error_type": "overloaded"}),
    ("vLLM's", {"object": "error", "message": "max context", "type": "BadRequestError", "code": 400}),
    ("FastAPI's", {"detail": "Not Found"}),
    ("FastAPI's list", {"detail": [{"loc": ["body"], "msg": "field required"}]}),
    ("a status", {"status_code": 503, "body": "upstream"}),
    ("beside no choices", {"choices": [], "error": {"message": "x"}}),
    ("within a stream", [chunk(role="assistant", content=""), {"error": {"message": "x"}}]),
    ("within events", 'data: {"error": {"message": "x"}}\n\n'),
]


@pytest.mark.parametrize("response", [case[1] for case in ERRORS], ids=[case[0] for case in ERRORS])
@pytest.mark.parametrize("text", [False, True], ids=["an object", "its JSON"])
def test_an_engines_error_is_no_traffic(response: Any, text: bool) -> None:
    told = orjson.dumps(response).decode() if text and not isinstance(response, str) else response
    assert refusal(pair() | {"response": told}) == ERROR


@pytest.mark.parametrize(
    "record",
    [
        pair() | {"response": None, "status": 500},
        pair() | {"response": {"message": "upstream"}, "status_code": 502},
        pair() | {"response": None, "error": "timeout"},
        otel({"error.type": "timeout", "gen_ai.output.messages": None}),
        span(
            {"llm.output_messages.0.message.role": None, "llm.output_messages.0.message.content": None},
            status={"status_code": "ERROR"},
        ),
    ],
)
def test_an_error_besides_the_response_is_no_traffic(record: Any) -> None:
    assert refusal(record) == ERROR


@pytest.mark.parametrize("key", [b"ticket-router", None])
def test_errors_are_not_counted_as_requests(key: bytes | None) -> None:
    topic = MemoryTopic()
    topic.publish(Outgoing(key, orjson.dumps(pair() | {"response": told})) for _, told in ERRORS)
    (batch,) = feed_over(topic).poll(2e9)
    assert ({rejection.reason for rejection in batch.rejected}, counted([batch])) == (
        {RejectionReason.ERROR_ANSWER},
        {},
    )


@pytest.mark.parametrize("response", [ERRORS[0][1], ERRORS[3][1], STREAM[1]])
def test_a_half_that_is_no_answer_is_rejected_at_once(response: Any) -> None:
    request, answer = example("kserve")
    topic = MemoryTopic()
    topic.publish([Outgoing(None, half.value, half.headers) for half in (request,)])
    topic.publish([Outgoing(None, orjson.dumps(response), answer.headers)])
    (batch,) = feed_over(topic).poll(2e9)
    assert [rejection.reason for rejection in batch.rejected] == [CHUNK[0] if "choices" in response else ERROR[0]]
    assert (batch.interactions, counted([batch])) == ((), {})


def test_an_aborted_answer_is_read_and_not_scored() -> None:
    assert read(otel({"error.type": "timeout"})).unscored == "the answer was aborted (error.type)"
    assert read(span(status={"status_code": "ERROR"})).unscored == "the answer was aborted (status)"
    assert read(pair(finish_reason="abort")).unscored == "the answer was aborted (abort)"


def test_a_response_without_an_answer_is_no_empty_answer() -> None:
    assert refusal(pair(message=None)) == (RejectionReason.MISSING_FIELD, "message")
    assert refusal(pair(response={"choices": []})) == (RejectionReason.MISSING_FIELD, "choices")
    assert refusal(completion(response={"choices": [{"text": None}]}))[0] == RejectionReason.MISSING_FIELD
    assert read(pair(message={"role": "assistant", "content": None})).output == ""


def test_the_example_of_every_format_is_an_answer() -> None:
    for file in ("gapwatch_v1", "openai", "openinference", "otel_genai"):
        assert read(body(file)).output == "shipping"
