"""The contract of probes/serving/engine.py, held against every file under probes/serving/dialects.

A dialect is found by its file, and is tried against the engine of its fields in tests/serving_engines. One without
fields there is tried against its real engine, in a test file of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import probes.serving.dialects
from detectors.records import Mode
from probes.errors import EngineAway, Refused, Unreplayable
from probes.runner import Replay, Target
from probes.runners.memory import Config, Runner
from probes.serving.client import Client, Limits
from probes.serving.discovery import KINDS, connect, kind_of
from probes.serving.engine import Address, Answered, Engine, Request, Route
from tests.serving_engines import transport
from tests.serving_engines.replies import Reply
from tests.serving_engines.shim import FIELDS, Server, serving

(FOLDER,) = probes.serving.dialects.__path__
ALL = sorted(path.stem for path in Path(FOLDER).glob("[a-z]*.py"))
DIALECTS = [name for name in ALL if name in FIELDS]
REAL = {"llama_cpp"}
MESSAGES = [{"role": "user", "content": "Is the parcel lost, or only late?"}]
PROMPT = Runner(Config()).encode_chat(MESSAGES)
ANSWER = tuple(b"lost")
K = 4
# OpenAI's own fields name tokens by their text: of the ids the given one alone is known.
BY_TEXT = {"openai"}


@pytest.fixture(params=DIALECTS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(fields=request.param) as running:
        yield running


@pytest.fixture
def kind(server: Server) -> str:
    return next(name for name, dialect in FIELDS.items() if dialect is server.dialect)


@pytest.fixture
def engine(server: Server, kind: str) -> Iterator[Engine]:
    with Client(Address(server.url), Limits(timeout_s=20.0)) as client:
        made: Engine = importlib.import_module(f"probes.serving.dialects.{kind}").Engine(Address(server.url), client)
        if made.capabilities().tokenizes:  # of an engine that takes text, prompts are those that it has tokenised
            made.encode_chat("alpha", MESSAGES)
            made.encode("alpha", bytes(ANSWER).decode())
        yield made


def base_of(engine: Engine) -> str:
    return engine.models()[0].name


def scoring(engine: Engine) -> list[Route]:
    return [route for route in engine.capabilities().routes if route in (Route.PROMPT, Route.WALK)]


def reference(adapter: str | None) -> np.ndarray:  # type: ignore[type-arg]
    runner = Runner(Config())
    runner.open()
    (replayed,) = runner.run([Replay("c", PROMPT, ANSWER, Target(adapter))], lambda: False)
    assert replayed.full is not None
    return replayed.full


def same(one: Answered, other: Answered) -> bool:
    pairs = ((getattr(a.listed, name) for a in (one, other)) for name in ("ids", "log_probs", "tokens", "of_tokens"))
    return all(np.array_equal(a, b) for a, b in pairs)


def test_every_dialect_is_known_and_tried() -> None:
    assert set(ALL) - set(KINDS) == set()
    assert set(ALL) - set(DIALECTS) <= REAL


def test_it_is_recognised_by_what_it_answers(server: Server, kind: str) -> None:
    with Client(Address(server.url)) as client:
        assert kind_of(client) == kind
    assert type(connect(Address(server.url))).__module__ == f"probes.serving.dialects.{kind}"


def test_it_has_a_way_to_score_a_given_continuation(engine: Engine) -> None:
    can = engine.capabilities()
    assert can.routes[0] in (Route.PROMPT, Route.WALK)
    assert Route.GENERATED in can.routes
    assert can.most_listed >= K


@pytest.mark.parametrize("adapter", ["alpha", None])
def test_each_route_gives_the_log_probabilities_of_the_reference(
    engine: Engine, kind: str, adapter: str | None
) -> None:
    full = reference(adapter)
    order = np.argsort(-full, axis=1, kind="stable")[:, :K]
    for route in scoring(engine):
        answer = engine.score(Request(adapter or base_of(engine), PROMPT, K), ANSWER, route)
        assert tuple(answer.listed.tokens) == ANSWER
        assert answer.listed.ids.dtype == np.int32 and answer.listed.log_probs.dtype == np.float32
        assert answer.listed.log_probs == pytest.approx(np.take_along_axis(full, order, axis=1), abs=1e-5)
        assert answer.listed.of_tokens == pytest.approx(full[np.arange(len(ANSWER)), list(ANSWER)], abs=1e-5)
        if kind not in BY_TEXT:
            assert np.array_equal(answer.listed.ids, order)


def test_what_is_generated_is_what_is_scored(engine: Engine, kind: str) -> None:
    request = Request("alpha", PROMPT, K)
    generated = engine.generate(request, 4)
    assert generated.text and len(generated.listed.tokens) == 4 and not generated.ended
    assert np.array_equal(generated.listed.of_tokens, generated.listed.log_probs[:, 0]), "greedy tokens"
    if kind in BY_TEXT:
        return
    for route in scoring(engine):
        scored = engine.score(request, tuple(map(int, generated.listed.tokens)), route)
        assert np.array_equal(scored.listed.ids, generated.listed.ids)
        assert scored.listed.log_probs == pytest.approx(generated.listed.log_probs, abs=1e-5)


def test_what_is_written_in_a_mode_is_what_is_written_plainly(engine: Engine) -> None:
    """Token by token, and at the chat endpoint as well, where the dialect says that it can be had so."""
    can = engine.capabilities()
    assert Mode.STREAMED in can.modes
    plain = Request("alpha", PROMPT, K)
    ways = [replace(plain, streamed=True)]
    if Mode.CHAT in can.modes:
        ways.append(replace(plain, messages=tuple(MESSAGES)))
        ways += [replace(own, streamed=True) for own in ways[1:] if can.streams_chats]
    whole = engine.generate(plain, 4)
    for way in ways:
        answer = engine.generate(way, 4)
        assert same(answer, whole) and (answer.text, answer.ended) == (whole.text, whole.ended)


def test_a_stream_that_does_not_end_is_refused(server: Server, engine: Engine) -> None:
    def cut(reply: Reply, ended: threading.Event) -> Reply:
        content = reply.content if isinstance(reply.content, bytes) else b"".join(reply.content)
        if not content.startswith(b"data:"):
            return reply
        return replace(reply, content=content[: content.rstrip().rindex(b"data:")])

    server.transport.set(cut)
    with pytest.raises(Unreplayable, match="another form"):
        engine.generate(Request("alpha", PROMPT, K, streamed=True), 4)


def test_an_answer_that_ends_by_itself_says_so(engine: Engine) -> None:
    answer = engine.generate(Request("alpha", PROMPT, K), 200)
    assert answer.ended and len(answer.listed.tokens) < 200


def test_the_same_twice(engine: Engine) -> None:
    request = Request("alpha", PROMPT, K)
    for route in scoring(engine):
        assert same(engine.score(request, ANSWER, route), engine.score(request, ANSWER, route))


def test_adapters_and_base_answer_each_for_itself(engine: Engine) -> None:
    (route, *_) = scoring(engine)
    answers = [engine.score(Request(name, PROMPT, K), ANSWER, route) for name in (base_of(engine), "alpha", "beta")]
    values = {tuple(answer.listed.of_tokens) for answer in answers}
    assert len(values) == 3


def test_an_unknown_name_fails(engine: Engine) -> None:
    for route in scoring(engine):
        with pytest.raises(Unreplayable):
            engine.score(Request("gamma", PROMPT, K), ANSWER, route)
    with pytest.raises(Unreplayable):
        engine.generate(Request("gamma", PROMPT, K), 2)


def test_an_unknown_name_that_is_answered_is_seen_as_answered(server: Server, engine: Engine) -> None:
    """It is a finding, and hidden by no dialect: the name is sent as it is."""
    server.engine.faults.unknown_is_base = True
    (route, *_) = scoring(engine)
    stranger = engine.score(Request("gamma", PROMPT, K), ANSWER, route)
    assert same(stranger, engine.score(Request(base_of(engine), PROMPT, K), ANSWER, route))


def test_an_adapter_that_is_not_applied_answers_as_the_base(server: Server, engine: Engine) -> None:
    (route, *_) = scoring(engine)
    base = engine.score(Request(base_of(engine), PROMPT, K), ANSWER, route)
    server.engine.faults.of_adapter["alpha"] = "not_applied"
    assert same(engine.score(Request("alpha", PROMPT, K), ANSWER, route), base)


def test_no_token_and_a_route_that_it_has_not_are_refused(engine: Engine) -> None:
    request, (route, *_) = Request("alpha", PROMPT, K), scoring(engine)
    for prompt, continuation in (((), ANSWER), (PROMPT, ())):
        with pytest.raises(Unreplayable, match="no token to score"):
            engine.score(replace(request, prompt=prompt), continuation, route)
    for other in set(Route) - set(scoring(engine)):
        with pytest.raises(Unreplayable, match=other.value):
            engine.score(request, ANSWER, other)


def test_a_salt_is_kept_or_refused(server: Server, engine: Engine) -> None:
    request = Request("alpha", PROMPT, K, salt="fresh")
    if not engine.capabilities().isolates:
        with pytest.raises(Unreplayable, match="salt"):
            engine.generate(request, 1)
        return
    engine.generate(replace(request, salt=""), 1)
    assert engine.generate(replace(request, salt=""), 1).cached
    assert engine.generate(request, 1).cached == 0


def test_a_tokenizer_goes_there_and_back_or_is_refused(engine: Engine) -> None:
    if not engine.capabilities().tokenizes:
        for ask in (lambda: engine.encode("alpha", "lost"), lambda: engine.decode("alpha", ANSWER)):
            with pytest.raises(Unreplayable, match="no tokenizer"):
                ask()
        return
    assert engine.encode("alpha", "lost") == ANSWER
    assert engine.encode_chat("alpha", MESSAGES) == PROMPT
    assert engine.decode("alpha", PROMPT).endswith("only late?<end><start>")


def test_it_says_what_it_is(server: Server, engine: Engine, kind: str) -> None:
    identity = engine.identity()
    assert identity.kind == kind
    assert identity.version or identity.fingerprint or identity.weights


def test_it_lists_its_base_first(engine: Engine) -> None:
    first = engine.models()[0]
    assert first.name and not first.parent


def test_how_busy_it_is_where_it_says_so(server: Server, engine: Engine, kind: str) -> None:
    server.settings.running, server.settings.waiting = 3, 2
    load = engine.load()
    assert (load.running, load.waiting) == ((None, None) if kind in BY_TEXT else (3, 2))


def test_fewer_tokens_listed_than_wanted_are_refused(server: Server, engine: Engine) -> None:
    routes = scoring(engine)
    for fewer in (1, 2):
        server.settings.cuts_listing = K - fewer
        with pytest.raises(Unreplayable, match=f"lists {K - fewer} tokens at a position, wanted {K}"):
            engine.generate(Request("alpha", PROMPT, K), 2)
    for route in routes:
        with pytest.raises(Unreplayable, match="tokens at a position, wanted"):
            engine.score(Request("alpha", PROMPT, K), ANSWER, route)


def test_processed_log_probabilities_are_refused(server: Server, engine: Engine) -> None:
    server.settings.processed = True
    with pytest.raises(Unreplayable, match="raw model"):
        engine.generate(Request("alpha", PROMPT, K), 2)


def test_not_a_number_is_no_answer(server: Server, engine: Engine) -> None:
    routes = scoring(engine)
    server.engine.faults.of_adapter["alpha"] = "not_a_number"
    for route in routes:
        with pytest.raises(Unreplayable, match="NaN"):
            engine.score(Request("alpha", PROMPT, K), ANSWER, route)


BAD = {
    "html": transport.html,
    "empty": transport.empty,
    "broken_json": transport.broken_json,
    "other_json": transport.other_json,
    "cut": transport.cut,
    "redirect": transport.redirect("http://127.0.0.1:1/"),
    "401": transport.status(401),
    "404": transport.status(404),
    "429": transport.status(429),
    "500": transport.status(500),
    "503": transport.status(503),
    "an empty object": transport.edited(lambda value: value.clear()),
    "100 MB": lambda _reply, _ended: transport.huge(_reply, threading.Event()),
}
AWAY = {"cut", "429", "500", "503"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer_to_any_question_is_told_in_words(server: Server, engine: Engine, name: str) -> None:
    """No other exception than the two of the contract comes out, and no word of the prompt."""
    (route, *_), base = scoring(engine), base_of(engine)
    server.transport.set(BAD[name])
    request = Request("alpha", PROMPT, K)
    questions = {
        "score": lambda: engine.score(request, ANSWER, route),
        "generate": lambda: engine.generate(request, 2),
        "models": lambda: engine.models(),
        "capabilities": lambda: engine.capabilities(),
    }
    questions |= {"chat": lambda: engine.encode_chat(base, MESSAGES)}
    for question, ask in questions.items():
        with pytest.raises(Unreplayable) as raised:
            ask()
        if question != "chat":
            assert isinstance(raised.value, EngineAway) is (name in AWAY), question
        assert "parcel" not in str(raised.value)


@pytest.mark.parametrize("name", ["html", "other_json", "cut", "401", "503"])
def test_identity_and_load_fail_in_the_same_words(server: Server, engine: Engine, name: str) -> None:
    server.transport.set(BAD[name])
    with pytest.raises(Unreplayable):
        engine.identity()
    with contextlib.suppress(Unreplayable):
        engine.load()


def test_an_engine_that_starts_is_away(server: Server, engine: Engine) -> None:
    server.settings.ready = False
    with pytest.raises(EngineAway, match="503"):
        engine.models()
    with pytest.raises(EngineAway):
        connect(Address(server.url))


def test_nothing_that_listens_is_away() -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(EngineAway):
        connect(Address(url))


def test_another_program_is_no_engine() -> None:
    with serving() as server:
        server.transport.set(transport.html)
        with pytest.raises(Unreplayable, match="no serving engine that is known") as raised:
            connect(Address(server.url))
    assert not isinstance(raised.value, EngineAway)


def test_an_engine_of_a_kind_that_is_none() -> None:
    with pytest.raises(Refused, match="one of auto, "):
        connect(Address("http://127.0.0.1:1"), "triton")
