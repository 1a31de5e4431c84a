"""Does what an engine answers under an adapter's name differ from its base at all? Asked before anything is accepted.

A handful of neutral prompts, the base's own continuation of each, and its log-probabilities under both names, twice
each: detectors/canaries/first_difference.py judges. Such prompts are none that the adapter was trained for, so that a
difference is certain and none is not: canaries of its own task tell more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from detectors.canaries.first_difference import FirstDifference, first_difference
from detectors.records import Floats
from probes.errors import EngineAway, Unreplayable
from probes.serving.engine import Engine, Request, Route

PROMPTS = (
    "Describe the weather of a spring day in one sentence.",
    "Name three things that are found in a kitchen.",
    "My order has not arrived yet. What should I do?",
    "Summarise why people keep diaries.",
    "Write a short greeting to a new colleague.",
    "What is the difference between a lake and a river?",
    "List the steps of making tea.",
    "Please reply to this message: the meeting was moved to Monday.",
)
TOKENS = 16
# A continuation of fewer tokens has too little to differ in.
LEAST_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Text:
    """prompt, continuation: token ids, the latter as the base wrote them."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One adapter. written: of so many prompts its own words differ from the base's, None where that was not asked"""

    difference: FirstDifference
    written: int | None = None


class FirstLook:
    """One base of an engine and the texts that it wrote.

    salt: a new one at each call, "" where the engine keeps no request from its cache of prefixes
    """

    def __init__(self, engine: Engine, base: str, route: Route, salt: Callable[[], str]) -> None:
        self._engine, self._base, self._route, self._salt = engine, base, route, salt
        self._texts: list[Text] = []

    def open(self) -> None:
        """Have the base write. Raises EngineAway, and Unreplayable where it writes nothing that can be scored."""
        prompts = [self._encoded(prompt) for prompt in PROMPTS]
        written = [Text(prompt, self._written(self._base, prompt)) for prompt in prompts]
        self._texts = [text for text in written if len(text.continuation) >= LEAST_TOKENS]
        if not self._texts:
            raise Unreplayable(self._base, f"writes fewer than {LEAST_TOKENS} tokens after every built-in prompt")

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of one of the prompts."""
        return self._texts[0].prompt

    def look(self, adapter: str) -> Look:
        """Compare one adapter with the base. Raises EngineAway and Unreplayable as the engine does."""
        difference = first_difference([self._answers(adapter, text) for text in self._texts])
        if difference.differs:
            return Look(difference)
        return Look(difference, sum(self._writes_otherwise(adapter, text) for text in self._texts))

    def _answers(self, adapter: str, text: Text) -> tuple[Floats, Floats]:
        """Base, adapter, adapter, base: what drifts with time falls on both alike."""
        order = self._base, adapter, adapter, self._base
        first, second, third, last = (self._scored(name, text) for name in order)
        return np.stack([second, third]), np.stack([first, last])

    def _scored(self, model: str, text: Text) -> Floats:
        request = Request(model, text.prompt, salt=self._salt())
        return self._engine.score(request, text.continuation, self._route).listed.of_tokens

    def _writes_otherwise(self, adapter: str, text: Text) -> bool:
        """Where scoring shows nothing: does what it writes? Not where the base itself writes otherwise this time."""
        own = self._written(adapter, text.prompt)
        return own != text.continuation and self._written(self._base, text.prompt) == text.continuation

    def _written(self, model: str, prompt: tuple[int, ...]) -> tuple[int, ...]:
        answered = self._engine.generate(Request(model, prompt, salt=self._salt()), TOKENS)
        return tuple(int(token) for token in answered.listed.tokens)

    def _encoded(self, prompt: str) -> tuple[int, ...]:
        try:
            return self._engine.encode_chat(self._base, [{"role": "user", "content": prompt}])
        except EngineAway:
            raise
        except Unreplayable:  # a base without a chat template
            return self._engine.encode(self._base, prompt)


def route_to_look_by(routes: Sequence[Route]) -> Route | None:
    """The best way in which a given text is scored; None where there is none."""
    return next((route for route in routes if route in (Route.PROMPT, Route.WALK)), None)


def in_words(adapter: str, look: Look) -> str:
    """What was found of one adapter, for a person."""
    compared = look.difference
    figures = f"{compared.gap:.2g} nats a token; two answers of one model differ by {compared.noise:.2g}"
    if compared.differs:
        return f"differs from its base: {figures}"
    if compared.needed is None:
        return f"cannot tell: the base wrote a text after {compared.prompts} prompts alone, which is too few"
    if look.written:
        where = f"on {look.written} of {compared.prompts} prompts"
        return (
            f"writes otherwise than its base {where}, and is scored as it ({figures}): scored texts do not show what "
            f"is served under {adapter}"
        )
    return (
        f"no difference from its base on {compared.prompts} neutral prompts ({figures}): it is not applied, answers "
        "under the base's name too, or its task is far from them; canaries of its task tell which"
    )
