"""The contract between gapwatch and a serving engine that is asked over HTTP: what is asked, and how it answers.

How one kind of engine is asked is one file in probes/serving/dialects/, with a class ``Engine`` that keeps the protocol
below. What an engine cannot do it does not have in its ``Capabilities``, and callers look there first; what fails all
the same raises EngineAway or Unreplayable (probes/errors.py), and is never answered by the base in place of an adapter.
No torch and no tokenizer here: an engine's own tokenizer is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from detectors.records import Floats, Ints, Mode

# Called between the requests of one call: it may wait, and ends the call with what it raises.
Between = Callable[[], None]


class Route(StrEnum):
    """How log-probabilities of a given continuation are had from an engine. Each has a noise of its own."""

    PROMPT = "prompt"  # the engine scores the continuation as a part of the prompt, in one request
    WALK = "walk"  # one token is generated after each prefix of the continuation, a request for each position
    GENERATED = "generated"  # no continuation can be given: greedy tokens of the engine's own, with log-probabilities
    TEXT = "text"  # no log-probabilities at all


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One line of the engine's list of models.

    name: by which requests ask for it; root: path or hub id that the engine loaded it from, parent: name of its base;
    "" where the engine does not say
    """

    name: str
    root: str = ""
    parent: str = ""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What the engine says of itself. No hash of weights is among it, so it is context and never evidence.

    kind: name of the dialect; version: of the engine; fingerprint: of its settings, as completions name it
    weights: its own version of the weights, where it counts reloads; started: when it started, seconds since the epoch
    loads: how often it was asked to load or unload an adapter, to sleep or to wake, by its own counter; None unknown
    """

    kind: str
    version: str = ""
    fingerprint: str = ""
    weights: str = ""
    started: float | None = None
    loads: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be asked of an engine as it was started.

    routes: the best first; most_listed: tokens that it lists at a position at most; tokenizes: it renders chats and
    gives token ids; takes_ids: prompts may be token ids; isolates: a request may be kept from the cache of prefixes
    context: most tokens of prompt and answer, None unknown; vocabulary: tokens in it, None unknown
    modes: beside WRITTEN, in which ``generate`` can have it answer; streams_chats: at the chat endpoint streamed, too
    strengths: a request may name the strength at which the adapter answers
    """

    routes: tuple[Route, ...]
    most_listed: int
    tokenizes: bool
    takes_ids: bool
    isolates: bool
    context: int | None = None
    vocabulary: int | None = None
    modes: tuple[Mode, ...] = ()
    strengths: bool = False
    streams_chats: bool = True


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the engine is, None where it does not say. cache_usage: of the key-value cache, in [0, 1]"""

    running: int | None = None
    waiting: int | None = None
    cache_usage: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """At each of T positions the tokens that an engine listed: natural-log probabilities of the raw model.

    ids: (T, k) int32, most probable first, -1 where padded; log_probs: (T, k) float32, -inf where padded
    tokens: (T,) int32, the token that was given or generated; of_tokens: (T,) float32, its log-probability
    """

    ids: Ints
    log_probs: Floats
    tokens: Ints
    of_tokens: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """One answer of an engine.

    listed: of the given continuation, or of the tokens generated; prompt: token ids that the engine read, None where it
    does not say; text: that was generated; cached: tokens of the prompt that came from a cache, None unknown
    fingerprint: as in EngineIdentity; ended: the text ended by itself
    """

    listed: Listed
    prompt: tuple[int, ...] | None = None
    text: str = ""
    cached: int | None = None
    fingerprint: str = ""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """model: name in the engine's list; prompt: token ids, at least one; listed: tokens wanted at each position
    salt: keeps it from prefixes that requests with another salt have cached, "" for none
    warm: what is written may be computed from whatever prefix is cached, where the engine is asked for that; without it
    an engine that can is kept from its cache
    streamed: what is written comes as a stream; messages: the chat that the prompt was rendered from, where the chat
    endpoint is to answer it, which has to render it alike; both where the engine's capabilities name the mode
    strength: of the adapter, in units of that at which the engine serves it; another than 1 only where the engine takes
    one (``Capabilities.strengths``)
    """

    model: str
    prompt: tuple[int, ...]
    listed: int = 1
    salt: str = ""
    warm: bool = False
    streamed: bool = False
    messages: tuple[Mapping[str, str], ...] = ()
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens.

    url: without path, http or https; token_file: holds the bearer token that it wants; ca_file: that its certificate is
    checked against, in place of the system's
    """

    url: str
    token_file: str = ""
    ca_file: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


def at_once() -> None:
    """Nothing is waited for between requests, and no call is ended."""


class Engine(Protocol):
    """One engine behind one address. Called from one thread; every request ends within the client's time limit.

    All but ``close`` raise EngineAway where nothing answers or the engine is starting or overloaded, and Unreplayable,
    with the reason in words and never production text, where the answer cannot be used: another status, HTML, JSON of
    another form, other tokens than given, too few positions, a body beyond the limit. For NaN and infinity that is
    BadNumbers.
    """

    def capabilities(self) -> Capabilities:
        """As found by asking, without load."""

    def models(self) -> tuple[ServedModel, ...]:
        """In the engine's order; a name may come twice."""

    def identity(self) -> EngineIdentity:
        """What it says of itself now."""

    def load(self) -> Load:
        """How busy it is now."""

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        """Log-probabilities at each position of the continuation after the prompt, by PROMPT or WALK.

        between: called before every further request of a walk
        """

    def generate(self, request: Request, tokens: int) -> Answered:
        """Greedy tokens after the prompt, at most so many, with log-probabilities as they were generated."""

    def encode(self, model: str, text: str) -> tuple[int, ...]:
        """Token ids of plain text, without special tokens."""

    def encode_chat(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        """Token ids of a chat as the engine renders it, with the generation prompt."""

    def decode(self, model: str, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""

    def close(self) -> None:
        """End the connection; a later call opens one again."""


@runtime_checkable
class HoldsAdapters(Protocol):
    """An engine that says how many adapters it holds where it computes; the one that was used least recently makes room
    for another one, and is loaded again before its next answer."""

    def adapter_slots(self) -> int | None:
        """None where it does not say. Raises EngineAway and Unreplayable, as ``Engine`` does."""
