"""What is noticed between two looks at an engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from probes.artefacts.identity import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from probes.serving.engine import EngineIdentity, ServedModel
from probes.serving.engine_events import EngineState, engine_in_words, events_in_words, file_times, source_in_words

BASE, A = ServedModel("m", "/m"), ServedModel("a", "/a/1", "m")
BEFORE = EngineState(EngineIdentity("vllm", "0.32.0", "vllm-0.32.0-aa", "3", 100.0, 2), (BASE, A))


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ({"started": 200.0}, "the engine was started again"),
        ({"version": "0.33.0"}, "the engine is vllm 0.33.0, was vllm 0.32.0"),
        ({"fingerprint": "bb"}, "the fingerprint of the engine's settings is bb, was vllm-0.32.0-aa"),
        ({"loads": 3}, "the engine was asked to load or unload an adapter, to sleep or to wake"),
        ({"weights": "4"}, "the engine's version of the weights is 4, was 3"),
    ],
)
def test_another_engine_is_told_by_what_it_says_of_itself(identity: dict[str, object], words: str) -> None:
    now = replace(BEFORE, identity=replace(BEFORE.identity, **identity))  # type: ignore[arg-type]
    assert events_in_words(BEFORE, now) == (words,)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ((BASE,), "the engine does not list a any more"),
        ((BASE, A, ServedModel("b", "/b", "m")), "the engine lists b, which it did not"),
        ((BASE, replace(A, root="/a/2")), "the engine lists a with another source or parent than before"),
        ((BASE, A, A), "the engine lists a with another source or parent than before"),
    ],
)
def test_an_adapter_that_came_went_or_was_loaded_from_elsewhere_is_named(
    models: tuple[ServedModel, ...], words: str
) -> None:
    assert events_in_words(BEFORE, replace(BEFORE, models=models)) == (words,)


def test_what_an_engine_says_of_itself_is_one_line_and_paths_count_by_their_last_part() -> None:
    assert engine_in_words(BEFORE) == "vllm 0.32.0, vllm-0.32.0-aa" and engine_in_words(None) == ""
    assert source_in_words(BEFORE, "a") == "1 on m"
    elsewhere = replace(BEFORE, models=(BASE, replace(A, root="/mnt/adapters/1")))
    assert source_in_words(elsewhere, "a") == "1 on m"
    assert source_in_words(BEFORE, "b") == source_in_words(None, "a") == ""
    assert source_in_words(replace(BEFORE, models=(ServedModel("a"),)), "a") == ""


def test_the_same_in_another_order_and_what_the_engine_does_not_say_are_no_events() -> None:
    assert events_in_words(BEFORE, replace(BEFORE, models=(A, BASE))) == ()
    silent = replace(BEFORE, identity=EngineIdentity("vllm", "0.32.0"))
    assert events_in_words(BEFORE, silent) == events_in_words(silent, BEFORE) == ()


def test_files_that_were_written_are_an_event_once_they_were_at_hand(tmp_path: Path) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (tmp_path / name).write_text("{}")
    before = replace(BEFORE, files={"a": file_times(str(tmp_path))})
    assert events_in_words(before, replace(BEFORE, files={"a": file_times(str(tmp_path))})) == ()
    (tmp_path / ADAPTER_WEIGHTS).write_text("other")
    now = replace(BEFORE, files={"a": file_times(str(tmp_path))})
    assert events_in_words(before, now) == ("the files of a were written",)
    assert events_in_words(BEFORE, now) == events_in_words(now, BEFORE) == ()
    assert file_times(str(tmp_path / "gone")) == ()


def test_a_count_of_loads_after_a_restart_is_none_of_another_load() -> None:
    again = replace(BEFORE, identity=replace(BEFORE.identity, started=200.0, loads=0))
    assert events_in_words(BEFORE, again) == ("the engine was started again",)
    unknown = replace(BEFORE, identity=replace(BEFORE.identity, loads=None))
    assert events_in_words(BEFORE, unknown) == events_in_words(unknown, BEFORE) == ()
