"""Queries to a store that is away, or that accepts connections and never answers: an answer in time, or none."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.config import Config, parse
from agent.errors import Retryable
from agent.store.reader import TIMEOUT_S, StoreReader
from detectors.records import SubjectKind


def config(dsn: str) -> Config:
    models = [{"name": "m", "path": "./base", "adapters": [{"name": "a", "path": "a"}]}]
    return parse({"models": models, "clickhouse": {"dsn": dsn}}, Path("gapwatch.yaml"))


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"clickhouse://default@127.0.0.1:{listening.getsockname()[1]}/gapwatch"


def test_a_query_times_out_and_no_second_one_is_sent_meanwhile(deaf: str) -> None:
    reader = StoreReader(config(deaf))
    began = time.monotonic()
    with pytest.raises(Retryable, match="no answer within"):
        reader.counted_upto()
    with pytest.raises(Retryable, match="still busy"):
        reader.counted_upto()
    assert time.monotonic() - began < 20 * TIMEOUT_S
    reader.close()


def test_without_an_answer_nothing_is_known_of_the_fleet(deaf: str) -> None:
    reader = StoreReader(config(deaf))
    assert reader.fleet([(SubjectKind.ADAPTER, "a"), (SubjectKind.BASE, "m")]) is None
    reader.close()


def test_a_store_that_is_away_has_a_status_in_words() -> None:
    reader = StoreReader(config("clickhouse://default@127.0.0.1:9/gapwatch"))
    with pytest.raises(Retryable, match="refused"):
        reader.query("degraded", {})
    reader.close()


def test_an_open_store_answers_by_name(tmp_path: Path) -> None:
    with closing(StoreReader(config(f"chdb://{tmp_path}"))) as reader:
        columns, rows = reader.query("degraded", {})
        assert "subject" in columns
        assert rows == []
        assert reader.counted_upto() == {}
        fleet = reader.fleet([(SubjectKind.ADAPTER, "a")])
        assert fleet is not None and not fleet.live and not fleet.incidents and fleet.spacing_s == 90.0
