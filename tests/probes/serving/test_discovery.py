"""Is an engine recognised by what it alone answers, and a refusal on the way no reason to take it for another kind?"""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.errors import EngineAway, Unreplayable
from probes.serving.client import Client
from probes.serving.discovery import connect, kind_of
from probes.serving.engine import Address
from tests.serving_engines import transport
from tests.serving_engines.replies import Settings
from tests.serving_engines.shim import serving


def test_a_named_kind_is_taken_without_a_question() -> None:
    with serving() as server:
        made = connect(Address(server.url), "openai")
        assert type(made).__module__.endswith("dialects.openai")
        assert not server.questions


def test_an_engine_that_wants_a_token_says_so_first(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    with serving(settings=Settings(token="s3cret")) as server:
        with pytest.raises(Unreplayable, match="401"):
            connect(Address(server.url))
        with Client(Address(server.url, str(tmp_path / "token"))) as client:
            assert kind_of(client) == "vllm"


@pytest.mark.parametrize("code", [429, 500, 503])
def test_an_engine_that_is_busy_or_starts_is_no_other_kind(code: int) -> None:
    with serving(fields="sglang") as server, Client(Address(server.url)) as client:
        server.transport.set(transport.status(code), only="/model_info")
        with pytest.raises(EngineAway):
            kind_of(client)


@pytest.mark.parametrize("code", [400, 404, 405])
def test_a_path_that_is_not_there_is_no_fault(code: int) -> None:
    with serving() as server, Client(Address(server.url)) as client:
        server.transport.set(transport.status(code), only="/props")
        assert kind_of(client) == "vllm"


def test_a_page_for_every_path_is_not_taken_for_an_answer() -> None:
    """A frontend beside the engine answers unknown paths with its page."""
    with serving() as server, Client(Address(server.url)) as client:
        server.transport.set(transport.html, only="/info")
        assert kind_of(client) == "vllm"
