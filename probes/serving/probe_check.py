"""Is what a serving engine is asked what it serves? Each route is checked for each adapter before a round rests on it.

The same tokens are had twice from the engine, as it writes them and as the route scores them, and where there is an
offline reference of them, they are compared with it too. A route that scores otherwise is blind for that adapter, and
the next one is taken; it is never a fault of the adapter. What is judged, with null hypothesis and guarantee:
detectors/canaries/route_agreement.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np

from detectors.canaries.route_agreement import (
    RouteAgreement,
    Sight,
    TokenAnswers,
    WrittenAndAccepted,
    noise,
    root_mean_square,
    route_agreement,
    writes_otherwise,
)
from detectors.records import Floats
from probes.errors import BadNumbers, EngineAway, Unreplayable
from probes.serving.engine import Engine, Listed, Request, Route

# Tokens that are written for each, and so many more that are scored behind them in one of the repeats: the positions
# that are compared then lie in a longer text, which rounds otherwise and means the same.
TOKENS, BEHIND = 16, 8
# Fewest tokens on which written and scored answers of a canary can be compared.
LEAST_TOKENS = 2
# Ways in which a given text is scored, and how they are called where a person reads of them.
SCORING = (Route.PROMPT, Route.WALK)
NAMES = {
    Route.PROMPT: "scoring in the prompt",
    Route.WALK: "scoring token by token",
    Route.GENERATED: "its own words with log-probabilities",
    Route.TEXT: "its own words alone",
}


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One canary of a check.

    prompt: token ids; effect: what the adapter does to its tokens as accepted, root mean square in nats, nan where
    nothing is accepted yet: what it does now is then taken
    forced, accepted: (T,) tokens and their log-probabilities by the golden record, empty where there is none
    floor: how far such tokens were from it with nothing wrong, nats; offline: the same log-probabilities where no
    engine made that record; else empty
    """

    prompt: tuple[int, ...]
    effect: float = float("nan")
    forced: tuple[int, ...] = ()
    accepted: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    floor: float = 0.0
    offline: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one adapter. route: the one to take; agreements: what was found of each route that was tried
    findings: in words, of routes that are not taken and of what else was noticed; empty where the first one is right
    """

    route: Route
    agreements: Mapping[Route, RouteAgreement]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Written:
    """What a model wrote after one prompt, several times. tokens: of the first time, T that are compared and those
    behind them; log_probs: (repeats, T)"""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: Floats

    @property
    def compared(self) -> tuple[int, ...]:
        return self.tokens[: self.log_probs.shape[1]]


class ProbeCheck:
    """Checks the routes of one engine. The base's own tokens are had once for all adapters.

    base: its name in the engine; routes: to try, the best first; salt: a new one at each call, "" where the engine
    keeps no request from its cache of prefixes
    """

    def __init__(self, engine: Engine, base: str, routes: Sequence[Route], salt: Callable[[], str]) -> None:
        self._engine, self._base, self._routes, self._salt = engine, base, tuple(routes), salt
        self._crossings: dict[Route, float] = {}
        self._known: dict[str, Checked] = {}

    def known(self, adapter: str, probes: Sequence[Probe], tolerance: float) -> Checked:
        """``route_for``, which is asked once for each adapter until ``forget``."""
        if adapter not in self._known:
            self._known[adapter] = self.route_for(adapter, probes, tolerance)
        return self._known[adapter]

    def forget(self) -> None:
        """After what may change how the engine computes: a restart, another version, a reload of an adapter."""
        self._crossings.clear()
        self._known.clear()

    def route_for(self, adapter: str, probes: Sequence[Probe], tolerance: float) -> Checked:
        """The first route that shows what is served under the adapter's name; TEXT where there is none.

        Where none does, and what the engine writes is not what was accepted either, it is no question of the route any
        more: the record is the reference, and the best route is taken.

        tolerance: allowed share of the adapter's effect. Raises EngineAway where the engine gives no answers,
        BadNumbers where no route is left and one of them gives NaN, and Unreplayable where it does not even write after
        these prompts.
        """
        agreements: dict[Route, RouteAgreement] = {}
        findings: list[str] = []
        bad_numbers: BadNumbers | None = None
        written = self._written(adapter, [probe.prompt for probe in probes])
        for route in self._routes:
            if route not in SCORING:  # what is written is what is served
                break
            try:
                agreement = self._agreement(adapter, route, list(zip(probes, written, strict=True)), tolerance)
            except EngineAway:
                raise
            except Unreplayable as error:
                bad_numbers = error if isinstance(error, BadNumbers) else bad_numbers
                findings.append(f"{NAMES[route]} cannot be used for {adapter}: {error}")
                continue
            agreements[route] = agreement
            if agreement.sight is not Sight.CLEAR:
                findings.append(in_words(adapter, route, agreement))
            if agreement.sight in (Sight.CLEAR, Sight.NOT_CHECKED):
                return Checked(route, agreements, tuple(findings))
        if bad_numbers is not None:
            raise bad_numbers.afresh()
        if agreements and writes_otherwise(_beside_the_record(probes, written), tolerance):
            best = next(iter(agreements))
            findings.append(
                f"what {adapter} writes is not what was accepted either: {NAMES[best]} is taken all the same"
            )
            return Checked(best, agreements, tuple(findings))
        written_alone = next((route for route in self._routes if route not in SCORING), Route.TEXT)
        return Checked(written_alone, agreements, tuple(findings))

    def _agreement(
        self, adapter: str, route: Route, written: Sequence[tuple[Probe, _Written]], tolerance: float
    ) -> RouteAgreement:
        crossing = self._crossing(route, [probe.prompt for probe, _ in written])
        comparable = [pair for pair in written if len(pair[1].compared) >= LEAST_TOKENS]
        answers = [(probe, self._answers(adapter, route, probe, texts)) for probe, texts in comparable]
        # An effect that was not accepted but is measured now says nothing where it is no more than noise.
        compared = [
            answer for probe, answer in answers if not np.isnan(probe.effect) or answer.effect > noise(answer, crossing)
        ]
        return route_agreement(compared, crossing, tolerance)

    def _answers(self, adapter: str, route: Route, probe: Probe, written: _Written) -> TokenAnswers:
        scored = self._scored(adapter, route, written)
        agreed = _agreed(written.compared, probe.forced)
        effect = probe.effect
        if np.isnan(effect):
            of_base = self._score(self._base, route, written.prompt, written.compared)
            effect = root_mean_square(written.log_probs[0], of_base)
        return TokenAnswers(written.log_probs, scored, effect, probe.offline[:agreed] if agreed else None)

    def _crossing(self, route: Route, prompts: Sequence[tuple[int, ...]]) -> float:
        """The largest distance between what the base writes and how the route scores it, over these prompts."""
        if route not in self._crossings:
            distances = [
                root_mean_square(self._score(self._base, route, texts.prompt, texts.compared), texts.log_probs[0])
                for texts in self._written(self._base, prompts)
                if texts.compared
            ]
            self._crossings[route] = max(distances, default=0.0)
        return self._crossings[route]

    def _written(self, model: str, prompts: Sequence[tuple[int, ...]]) -> list[_Written]:
        """What it writes after each prompt, in the order given; the second time in reverse order, after other texts."""
        first = [self._write(model, prompt) for prompt in prompts]
        second = [self._write(model, prompt) for prompt in reversed(prompts)][::-1]
        return [_written(*texts) for texts in zip(prompts, first, second, strict=True)]

    def _write(self, model: str, prompt: tuple[int, ...]) -> Listed:
        return self._engine.generate(Request(model, prompt, 1, self._salt()), TOKENS + BEHIND).listed

    def _scored(self, model: str, route: Route, written: _Written) -> Floats:
        """(repeats, T): alone, and, where it costs no request for each token, with the tokens behind."""
        texts = [written.compared]
        if route is Route.PROMPT and len(written.tokens) > len(written.compared):
            texts.append(written.tokens)
        repeats = [self._score(model, route, written.prompt, text)[: len(written.compared)] for text in texts]
        return np.stack(repeats)

    def _score(self, model: str, route: Route, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Floats:
        request = Request(model, prompt, 1, self._salt())
        return self._engine.score(request, tokens, route).listed.of_tokens


def in_words(adapter: str, route: Route, agreement: RouteAgreement) -> str:
    """What was found of a route that is not simply right."""
    name, nats = NAMES[route], agreement.disagreement
    if agreement.sight is Sight.NOT_CHECKED:
        return f"{name} could not be checked for {adapter}: {agreement.canaries} canaries have tokens to compare"
    counted = f"on {agreement.beyond} of {agreement.canaries} canaries"
    figures = (
        f"{nats:.2g} nats a token apart, where noise is {agreement.noise:.2g} and the effect {agreement.effect:.2g}"
    )
    if agreement.sight is Sight.SERVED_DIFFERS:
        return (
            f"{name} does not show what is served under {adapter}: {counted} its tokens are written and scored "
            f"{figures}; the accepted record agrees with the scores, so what is written differs"
        )
    return (
        f"{name} is blind for {adapter}: {counted} the same tokens are written and scored {figures}; "
        "it says nothing of the adapter, and another way is taken"
    )


def _beside_the_record(probes: Sequence[Probe], written: Sequence[_Written]) -> list[WrittenAndAccepted]:
    """Of the canaries that have a record, as far as the engine wrote its tokens."""
    pairs = []
    for probe, texts in zip(probes, written, strict=True):
        if len(probe.accepted):
            agreed = _agreed(texts.compared, probe.forced)
            accepted = probe.accepted[:agreed]
            pairs.append(WrittenAndAccepted(texts.log_probs[:, :agreed], accepted, probe.effect, probe.floor))
    return pairs


def _written(prompt: tuple[int, ...], first: Listed, second: Listed) -> _Written:
    tokens, again = (tuple(int(token) for token in listed.tokens) for listed in (first, second))
    count = min(_agreed(tokens, again), TOKENS)
    return _Written(prompt, tokens, np.stack([listed.of_tokens[:count] for listed in (first, second)]))


def _agreed(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(tokens, others, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
