"""What an object of KServe says, beside what is watched: differences in words, and every failure by its name."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.desired_state.kserve import Service, Source, differences, read_service
from agent.errors import Retryable

PLACE = "/apis/serving.kserve.io/v1alpha2/namespaces/llm-serving/llminferenceservices/support"
GROUP = {"preferredVersion": {"version": "v1alpha2"}}
OBJECT: dict[str, Any] = {
    "metadata": {"name": "support"},
    "spec": {"model": {"uri": "hf://o/m", "name": "m", "lora": {"adapters": [{"name": "a", "uri": "s3://x/a"}]}}},
}


@contextmanager
def kubernetes(answers: dict[str, tuple[int, Any]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {}))
            allowed = self.headers["Authorization"] == "Bearer of-the-account"
            content = json.dumps(body).encode()
            self.send_response(status if allowed else 401)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def source(url: str, folder: Path, token: str = "of-the-account\n") -> Source:
    (folder / "token").write_text(token)
    return Source(url, "llm-serving/support", folder)


def test_the_object_is_read_by_its_preferred_version(tmp_path: Path) -> None:
    inherited = OBJECT | {"spec": OBJECT["spec"] | {"baseRefs": [{"name": "defaults"}]}}
    nameless = {"metadata": {"name": "support"}, "spec": {"model": {"uri": "hf://o/m"}}}
    for held, expected in (
        (OBJECT, Service("m", ("a",), True)),
        (inherited, Service("m", ("a",), False)),
        (nameless, Service("support", (), True)),
    ):
        with kubernetes({"/apis/serving.kserve.io": (200, GROUP), PLACE: (200, held)}) as url:
            assert read_service(source(url, tmp_path)) == expected


@pytest.mark.parametrize(
    ("answers", "token", "words"),
    [
        ({}, "of-the-account", "KServe's API serving.kserve.io: not in this cluster"),
        ({"/apis/serving.kserve.io": (200, GROUP)}, "of-the-account", "llm-serving/support: not in this cluster"),
        ({"/apis/serving.kserve.io": (200, GROUP), PLACE: (403, {})}, "of-the-account", "403, wanted the right to get"),
        ({"/apis/serving.kserve.io": (200, GROUP)}, "another", "401, wanted the right to get"),
        ({"/apis/serving.kserve.io": (500, {})}, "of-the-account", "the Kubernetes API answers 500"),
        ({"/apis/serving.kserve.io": (200, GROUP), PLACE: (200, {"spec": {}})}, "of-the-account", "another shape"),
    ],
)
def test_what_cannot_be_read_is_said_by_its_name(
    tmp_path: Path, answers: dict[str, tuple[int, Any]], token: str, words: str
) -> None:
    with kubernetes(answers) as url, pytest.raises(Retryable, match=words):
        read_service(source(url, tmp_path, token))


def test_no_server_and_no_token_are_said_without_the_token(tmp_path: Path) -> None:
    with pytest.raises(Retryable, match="wanted token and ca"):
        read_service(Source("http://127.0.0.1:9", "n/s", tmp_path / "none"))
    with pytest.raises(Retryable, match="ConnectError") as raised:
        read_service(source("http://127.0.0.1:9", tmp_path, "secret-token"))
    assert "secret-token" not in str(raised.value)


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (Service("m", ("a",), True), ()),
        (Service("m", ("a", "b"), True), ("desired and not watched: b",)),
        (Service("m", (), True), ("watched and not desired: a",)),
        (Service("m", (), False), ()),
        (Service("n", ("a",), True), ("the desired model is n, watched is m",)),
    ],
)
def test_names_that_differ(service: Service, words: tuple[str, ...]) -> None:
    assert differences(service, "m", ["a"], "watched") == words
