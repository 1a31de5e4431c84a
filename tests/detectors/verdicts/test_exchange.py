"""What is remembered under some keys, exchanged for what another remembers under them."""

from __future__ import annotations

from detectors.verdicts.exchange import exchanged


def test_what_the_other_has_under_these_keys_replaces_what_is_here_and_the_rest_stays() -> None:
    own, others = {"a": 1, "b": 2, "c": 3}, {"b": 20, "d": 40, "e": 50}
    assert exchanged(own, others, ("b", "c", "d")) == {"a": 1, "b": 20, "d": 40}
