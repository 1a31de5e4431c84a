"""Labels from keys and headers alone, of many records at once."""

from __future__ import annotations

import numpy as np

from agent.kafka.contract import RecordColumns
from agent.traffic.record_labels import IN_BODY, NOT_CONFIGURED, RecordLabeller, header_columns

ADAPTERS = ("ticket-router", "polite-rewriter")


def columns(*records: tuple[bytes | None, dict[str, bytes]]) -> RecordColumns:
    """Of (key, headers), in the client's own form."""
    headers = [tuple(headers.items()) for _, headers in records]
    offsets = np.arange(len(records))
    return RecordColumns(offsets, offsets * 1000, [key for key, _ in records], headers if any(headers) else ())


def test_the_key_comes_before_the_header_and_both_before_the_body() -> None:
    labels = RecordLabeller(ADAPTERS)(
        columns(
            (b"ticket-router", {"adapter": b"polite-rewriter", "pod": b"engine-0"}),
            (b"user-17", {"adapter": b"polite-rewriter", "request_id": b"r-1"}),
            (b"user-17", {"adapter": b"of-another-team"}),
            (None, {"pod": b"not a pod"}),
        )
    )
    assert labels.adapters == ["ticket-router", "polite-rewriter", NOT_CONFIGURED, IN_BODY]
    assert labels.counted == labels.adapters
    assert labels.pods == ["engine-0", "", "", ""]
    assert (labels.ids, labels.halves) == ([None, b"r-1", None, None], frozenset())


def test_of_two_halves_only_the_response_is_counted() -> None:
    events = [
        (b"ticket-router", {"ce_id": b"a", "ce_type": f"x.inference.{side}".encode()})
        for side in ("request", "response")
    ]
    labels = RecordLabeller(ADAPTERS)(columns(*events, (b"ticket-router", {})))
    assert labels.adapters == ["ticket-router"] * 3
    assert labels.counted == [IN_BODY, "ticket-router", "ticket-router"]
    assert (labels.ids, labels.halves) == ([b"a", b"a", None], frozenset((0, 1)))


def test_where_only_bodies_say_what_to_count_no_key_does() -> None:
    by_body = RecordLabeller(ADAPTERS, counts_by_body=True)
    assert by_body(columns((b"ticket-router", {}), (None, {}))).adapters == [IN_BODY] * 2
    with_headers = by_body(columns((b"ticket-router", {"pod": b"p"}), (b"ticket-router", {"ce_type": b"x.response"})))
    assert with_headers.adapters == [IN_BODY, "ticket-router"], "a half whose header says which it is"


def test_headers_of_one_layout_and_of_many_give_the_same_columns() -> None:
    """The quick way by columns, and the plain one by record."""
    alike = [(("request_id", f"r{n}".encode()), ("pod", b"p"), ("other", None)) for n in range(5)]
    assert header_columns(alike) == {"request_id": [f"r{n}".encode() for n in range(5)], "pod": [b"p"] * 5}
    mixed = [*alike, (("pod", b"q"),), (), (("adapter", b"a"), ("adapter", b"b"))]
    assert header_columns(mixed) == {
        "request_id": [*(f"r{n}".encode() for n in range(5)), None, None, None],
        "pod": [b"p"] * 5 + [b"q", None, None],
        "adapter": [None] * 7 + [b"b"],
    }
    assert header_columns([(("pod", b"p"), ("pod", b"q"))]) == {"pod": [b"q"]}
