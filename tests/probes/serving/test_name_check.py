from __future__ import annotations

import pytest

from detectors.canaries.base_answerer import BaseAnswerer
from probes.errors import EngineAway
from probes.serving.engine import ServedModel
from probes.serving.name_check import answerer_in_words, base_in_words, names_in_words, stranger_in_words
from tests.probes.serving.toy_engine import BASE, ToyEngine

PROMPT = (65, 66, 67)


class Twice(ToyEngine):
    """An engine whose list has a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def models(self) -> tuple[ServedModel, ...]:
        return (*super().models(), ServedModel(self.name))


def test_names_that_mean_one_model_each_are_right() -> None:
    assert names_in_words(ToyEngine(), BASE, ["alpha", "beta"]) == {}


@pytest.mark.parametrize(("name", "subject"), [(BASE, None), ("beta", "beta")])
def test_a_name_that_is_listed_twice_is_named(name: str, subject: str | None) -> None:
    wrong = names_in_words(Twice(name), BASE, ["alpha", "beta"])
    assert wrong[subject][0] == f"the engine lists 2 models named {name}" and list(wrong) == [subject]


def test_a_base_that_is_listed_as_an_adapter_is_named() -> None:
    assert base_in_words(ToyEngine().models(), BASE) == ()
    models = (ServedModel(BASE, "/adapters/x", "llama"), ServedModel("alpha", "/adapters/alpha", "llama"))
    assert base_in_words(models, BASE) == ("the engine lists toy, the base's name, as an adapter of llama",)


def test_an_unknown_name_that_is_answered_is_named() -> None:
    assert stranger_in_words(ToyEngine(), "nobody-1f", PROMPT) == ()
    (finding,) = stranger_in_words(ToyEngine(answers_strangers=True), "nobody-1f", PROMPT)
    assert "answers the unknown name nobody-1f" in finding


def test_an_engine_that_is_away_says_nothing_of_names() -> None:
    with pytest.raises(EngineAway):
        stranger_in_words(ToyEngine(away=True), "nobody-1f", PROMPT)


def test_who_answers_under_the_bases_name_is_said_with_its_figures() -> None:
    words = answerer_in_words("llama", BaseAnswerer("alpha", 12, 12))
    assert words.startswith("under the base's name llama the adapter alpha answers, on 12 of 12 canaries")
