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
# Token by token each is a request: with 4 these are 160 requests an adapter, and 544 with 16.
TOKENS_OF_A_WALK = 4
# A continuation of fewer tokens has too little to differ in.
LEAST_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Text:
    """prompt, continuation: token ids, the latter as the base wrote them."""

    prompt: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """One adapter. written: of so many prompts its own words differ from the base's, None where that was not asked

    left_out: prompts for which no time was left; tokens: most of a text
    """

    difference: FirstDifference
    written: int | None = None
    left_out: int = 0
    tokens: int = TOKENS


class FirstLook:
    """One base of an engine and the texts that it wrote.

    salt: a new one at each call, "" where the engine keeps no request from its cache of prefixes
    late: is no time left? Then nothing more is asked, and what was compared so far is judged; a prompt that was begun
    is left out, so that each that counts has its four answers
    """

    def __init__(
        self, engine: Engine, base: str, route: Route, salt: Callable[[], str], late: Callable[[], bool] = lambda: False
    ) -> None:
        self._engine, self._base, self._route, self._salt, self._late = engine, base, route, salt, late
        self._tokens = TOKENS_OF_A_WALK if route is Route.WALK else TOKENS
        self._prompts: list[tuple[int, ...]] = []
        self._texts: list[Text] = []
        self._unwritten = 0

    def open(self) -> None:
        """Have the base write. Raises EngineAway, and Unreplayable where it writes nothing that can be scored."""
        self._prompts = [self._encoded(prompt) for prompt in PROMPTS]
        written = [Text(prompt, self._written(self._base, prompt)) for prompt in self._prompts if not self._late()]
        self._texts = [text for text in written if len(text.continuation) >= LEAST_TOKENS]
        self._unwritten = len(self._prompts) - len(written)
        if not self._texts and not self._unwritten:
            raise Unreplayable(self._base, f"writes fewer than {LEAST_TOKENS} tokens after every built-in prompt")

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of one of the prompts."""
        return self._prompts[0]

    def look(self, adapter: str) -> Look:
        """Compare one adapter with the base. Raises EngineAway and Unreplayable as the engine does."""
        answers = [whole for text in self._texts if (whole := self._answers(adapter, text)) is not None]
        difference = first_difference(answers)
        own_words = None if difference.differs else self._own_words(adapter)
        return Look(difference, own_words, self._unwritten + len(self._texts) - len(answers), self._tokens)

    def _answers(self, adapter: str, text: Text) -> tuple[Floats, Floats] | None:
        """Base, adapter, adapter, base: what drifts with time falls on both alike. None where time ends before."""
        scored = []
        for name in (self._base, adapter, adapter, self._base):
            if self._late():
                return None
            scored.append(self._scored(name, text))
        return np.stack(scored[1:3]), np.stack([scored[0], scored[3]])

    def _scored(self, model: str, text: Text) -> Floats:
        request = Request(model, text.prompt, salt=self._salt())
        return self._engine.score(request, text.continuation, self._route).listed.of_tokens

    def _own_words(self, adapter: str) -> int | None:
        """Where scoring shows nothing: on how many prompts does what it writes? None where time ends with none."""
        differ = 0
        for text in self._texts:
            if self._late():
                return differ or None
            differ += self._writes_otherwise(adapter, text)
        return differ

    def _writes_otherwise(self, adapter: str, text: Text) -> bool:
        """Not where the base itself writes otherwise this time."""
        own = self._written(adapter, text.prompt)
        return own != text.continuation and self._written(self._base, text.prompt) == text.continuation

    def _written(self, model: str, prompt: tuple[int, ...]) -> tuple[int, ...]:
        answered = self._engine.generate(Request(model, prompt, salt=self._salt()), self._tokens)
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
    """What was found of one adapter, for a person, and what was left out to be in time."""
    return "; left out: ".join([_compared(adapter, look), *_left_out(look)])


def _left_out(look: Look) -> list[str]:
    parts = []
    if look.tokens < TOKENS:
        parts.append(f"all but {look.tokens} tokens of each text, as this engine is asked token by token")
    if look.left_out:
        prompts = "1 prompt" if look.left_out == 1 else f"{look.left_out} prompts"
        parts.append(f"{prompts} of {look.left_out + look.difference.prompts}, as the minute was over")
    return [" and ".join(parts)] if parts else []


def _compared(adapter: str, look: Look) -> str:
    compared = look.difference
    figures = f"{compared.gap:.2g} nats a token; two answers of one model differ by {compared.noise:.2g}"
    if compared.differs:
        return f"differs from its base: {figures}"
    if compared.needed is None and look.left_out:
        return f"cannot tell: the answers to {compared.prompts} prompts are too few"
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
