"""What instrumented OpenAI clients export, as OTLP JSON: openinference's spans, OpenTelemetry's spans and events.

One process instruments with one library: both wrap the same functions of the same client.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "span_and_event"

import openai
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator

from tests.agent.traffic.formats.recording.engine import serving
from tests.agent.traffic.formats.recording.keep import keep

ASKED = [{"role": "system", "content": "Answer with a queue."}, {"role": "user", "content": "Where is my parcel?"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Where is "}, {"type": "text", "text": "my parcel?"}]}]
TOOL = {"type": "function", "function": {"name": "lookup", "parameters": {"type": "object", "properties": {}}}}
USAGE = {"include_usage": True}
# By the name of the format that reads what it writes.
LIBRARIES = {
    "openinference": "openinference-instrumentation-openai",
    "otel_genai": "opentelemetry-instrumentation-genai-openai",
}


class Counted(IdGenerator):
    """Ids that are the same in every run."""

    def __init__(self) -> None:
        self._spans, self._traces = count(1), count(1)

    def generate_span_id(self) -> int:
        return next(self._spans)

    def generate_trace_id(self) -> int:
        return next(self._traces)


def calls(engine: str) -> dict[str, Callable[[], Any]]:
    """By the name of the record."""
    client = openai.OpenAI(base_url=f"{engine}/plain/v1", api_key="none", max_retries=0)
    no_role = openai.OpenAI(base_url=f"{engine}/no_role/v1", api_key="none", max_retries=0)
    breaks = openai.OpenAI(base_url=f"{engine}/breaks/v1", api_key="none", max_retries=0)
    thinks = openai.OpenAI(base_url=f"{engine}/thinks/v1", api_key="none", max_retries=0)
    refuses = openai.OpenAI(base_url=f"{engine}/refuses/v1", api_key="none", max_retries=0)
    usual: Any = {"model": "ticket-router", "messages": ASKED, "temperature": 0.7}
    chat = partial(partial, client.chat.completions.create, **usual)
    text = partial(partial, client.completions.create, model="ticket-router", temperature=0.7)
    return {
        "chat": chat(top_p=0.9, max_tokens=20, seed=3, presence_penalty=0.5),
        "chat_extra": chat(extra_body={"top_k": 5, "guided_choice": ["shipping", "refund"]}),
        "chat_parts": chat(messages=PARTS),
        "chat_logprobs": chat(logprobs=True, extra_body={"return_token_ids": True}),
        "chat_stream": chat(stream=True),
        "chat_stream_usage": chat(stream=True, stream_options=USAGE),
        "chat_stream_no_role": partial(no_role.chat.completions.create, **usual, stream=True, stream_options=USAGE),
        "chat_stream_breaks": partial(breaks.chat.completions.create, **usual, stream=True, stream_options=USAGE),
        "chat_tools": chat(tools=[TOOL]),
        "chat_two": chat(n=2),
        "chat_json": chat(response_format={"type": "json_object"}),
        "chat_stop": chat(stop=["\n"]),
        "chat_bias": chat(logit_bias={"5": 1}),
        "chat_user": chat(user="user-1"),
        "chat_thinks": partial(thinks.chat.completions.create, **usual),
        "chat_refuses": partial(refuses.chat.completions.create, **usual),
        "text": text(prompt="Where?"),
        "text_of_ids": text(prompt=[1, 5, 6, 2]),
        "text_of_two": text(prompt=["Where?", "When?"]),
        "embedding": partial(client.embeddings.create, model="ticket-router", input="Where?", encoding_format="float"),
    }


def otlp_json(message: Message) -> Any:
    """As OTLP's own JSON has it: ids are hexadecimal there, and not protobuf's base64."""
    return _with_hex(MessageToDict(message, use_integers_for_enums=True))


def _with_hex(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_hex(one) for one in value]
    if not isinstance(value, dict):
        return value
    ids = ("traceId", "spanId", "parentSpanId")
    return {name: base64.b64decode(one).hex() if name in ids else _with_hex(one) for name, one in value.items()}


def answered(call: Callable[[], Any]) -> None:
    try:
        answer = call()
        for _ in answer if isinstance(answer, openai.Stream) else ():
            pass
    except openai.BadRequestError:
        pass  # the engine that refuses


def exported(format_: str, engine: str) -> Iterator[tuple[str, Message]]:
    """Of each call what was exported: its spans, and its events where there are any."""
    resource = Resource({"k8s.pod.name": "engine-0"})
    tracers, spans = TracerProvider(resource=resource, id_generator=Counted()), InMemorySpanExporter()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers, events = LoggerProvider(resource=resource), InMemoryLogRecordExporter()
    loggers.add_log_record_processor(SimpleLogRecordProcessor(events))
    instrument(format_, tracers, loggers)
    for name, call in calls(engine).items():
        spans.clear()
        events.clear()
        answered(call)
        if found := spans.get_finished_spans():
            yield name, encode_spans(found)
        if told := events.get_finished_logs():
            yield f"{name}_event", encode_logs(told)


def instrument(format_: str, tracers: TracerProvider, loggers: LoggerProvider) -> None:
    if format_ == "openinference":
        from openinference.instrumentation.openai import OpenAIInstrumentor as Openinference

        Openinference().instrument(tracer_provider=tracers)
    else:
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor as Genai

        Genai().instrument(tracer_provider=tracers, logger_provider=loggers)


def main(format_: str) -> None:
    with serving() as engine:
        records = {name: otlp_json(message) for name, message in exported(format_, engine)}
    keep(format_, LIBRARIES[format_], records)


if __name__ == "__main__":
    main(sys.argv[1])
