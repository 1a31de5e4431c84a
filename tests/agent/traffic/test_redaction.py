"""What leaves the process is redacted; what is scored inside it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.config import parse
from agent.errors import Refused
from agent.records import RejectedRecord, RejectionReason, RequestCount, TrafficBatch
from agent.store.rows import to_rows
from agent.store.table_rows import Origin
from agent.traffic.redaction import Redactor, Rule
from detectors.traffic_records import Embedding, ScoringMode, TrafficRound, TrafficScore
from tests.agent.findings import batch, embedding, heartbeat, interaction

CARD = Rule(pattern=r"\b(\d{4})[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}\b", replacement=r"\1 ****")
MAIL = Rule(pattern=r"[\w.+-]+@[\w-]+\.[\w.]+")


def test_every_turn_and_the_output_are_replaced_and_token_ids_go() -> None:
    original = interaction(
        1,
        messages=({"role": "user", "content": "card 4111 1111 1111 1111, me@example.com"},),
        output="Thank you, me@example.com",
        prompt_token_ids=(1, 2),
        output_token_ids=(3,),
        token_logprobs=(-0.5,),
    )
    told = Redactor([CARD, MAIL]).interaction(original)
    assert told.messages == ({"role": "user", "content": "card 4111 ****, [redacted]"},)
    assert told.output == "Thank you, [redacted]"
    assert (told.prompt_token_ids, told.output_token_ids, told.token_logprobs) == ((), (), (-0.5,))
    assert original.output == "Thank you, me@example.com"


def test_every_field_that_a_client_can_write_goes_through_the_rules() -> None:
    secret, clean = "me@example.com", "[redacted]"
    written: dict[str, Any] = dict.fromkeys(("request_id", "base", "pod", "finish_reason"), secret)
    original = interaction(1, messages=({"role": secret, "content": "x"}, {"role": "user", "content": "y"}), **written)
    lost = RejectedRecord("t", 0, 2, RejectionReason.UNKNOWN_ADAPTER, f"adapter {secret}", 1.0)
    counts = tuple(RequestCount("t", 0, 0, 9, "a", pod, 0.0, 3) for pod in (secret, "you@example.com"))
    told = Redactor([MAIL])(replace(batch(), interactions=(original,), rejected=(lost,), counts=counts))
    assert isinstance(told, TrafficBatch)
    (kept,) = told.interactions
    assert (kept.request_id, kept.base, kept.pod, kept.finish_reason) == (clean,) * 4
    assert [turn["role"] for turn in kept.messages] == [clean, "user"]
    assert told.rejected[0].detail == f"adapter {clean}"
    assert [(count.pod, count.n) for count in told.counts] == [(clean, 6)]


def test_scores_and_embeddings_carry_no_raw_ids() -> None:
    score = TrafficScore("a", "me@example.com", "pod of me@example.com", 0.0, ScoringMode.NOT_SCORED, 0)
    told = Redactor([MAIL])(TrafficRound("b", 0, 0.0, ("a",), (score,)))
    assert isinstance(told, TrafficRound)
    assert (told.scores[0].request_id, told.scores[0].pod) == ("[redacted]", "pod of [redacted]")
    vector = Redactor([MAIL])(embedding("me@example.com"))
    assert isinstance(vector, Embedding) and vector.request_id == "[redacted]"


def test_a_role_that_every_chat_has_is_never_replaced() -> None:
    assert Redactor([Rule(pattern="user")]).turn({"role": "user", "content": "a user"})["role"] == "user"


def test_rules_apply_in_order() -> None:
    assert Redactor([Rule(pattern="a", replacement="b"), Rule(pattern="bb", replacement="c")]).text("ab") == "c"


def test_stored_rows_hold_nothing_of_the_original() -> None:
    """Not even its hash: a short secret is found again by trying."""
    secret = "me@example.com"
    said = interaction(1, messages=({"role": "user", "content": secret},), output=secret)
    found = replace(batch(), interactions=(said,))
    stored = to_rows(Redactor([MAIL])(found), Origin(store_text=True))
    row = next(rows for rows in stored if rows.table == "interactions").rows[0]
    plain = to_rows(found, Origin(store_text=True))
    assert row["prompt"] == "user: [redacted]"
    assert row["output"] == "[redacted]"
    before = next(rows for rows in plain if rows.table == "interactions").rows[0]
    assert row["output_hash"] != before["output_hash"]
    assert row["output_chars"] == len("[redacted]")


def test_without_rules_and_for_other_findings_nothing_changes() -> None:
    found = batch()
    assert Redactor()(found) is found
    assert Redactor([MAIL])(found) == found
    other = heartbeat()
    assert Redactor([MAIL])(other) is other


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"pattern": "("}, "a regular expression"),
        ({"pattern": "x?"}, "does not match an empty text"),
        ({"pattern": "x", "with": r"\1"}, "fits the pattern"),
    ],
)
def test_an_invalid_pattern_is_refused_when_the_file_is_read(rule: dict[str, str], wanted: str) -> None:
    models = [{"name": "m", "path": "p", "adapters": [{"name": "a", "path": "a"}]}]
    with pytest.raises(Refused, match=wanted):
        parse({"models": models, "sampling": {"redact": [rule]}}, Path("gapwatch.yaml"))
