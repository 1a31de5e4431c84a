"""How much a probe may ask of a serving engine, and when it has to wait: pure, time is an argument.

**Memory.** An engine that scores a prompt computes the logits of *all* its positions, whatever the cache of prefixes
holds and wherever the continuation begins, and holds them while it normalises: in vLLM's V1 runner the logits in 16
bits and their log-softmax in 32, 6 bytes a token of the vocabulary and position, which nothing has reserved, as the
start-up profile runs without log-probabilities (vllm-project/vllm#5907, #52054; 1,024 positions of a vocabulary of
150,000 are 922 MB, of which 614 MB are the 32-bit half). Prefill is cut at --max-num-batched-tokens, 2,048 and more by
default and not told over HTTP, and vLLM's V2 runner cuts at 1,024 positions: neither bounds prompts of the length of
probes. The k listed tokens a position add 8 bytes each.
One request in flight under ``most_logit_bytes`` = 200 MB fits into the 219 MiB that an engine had left when four
requests of 20 log-probabilities ended it. Where a request does not fit, the walk does: it needs one position at a time.

**Time.** A budget of tokens and requests in any minute; and a wait while requests queue, while the key-value cache is
nearly full, and after 429 and 5xx, doubled with each in a row and ended by the first answer. A minute's budget may go
out at once, a request at a time, so that a round of ordinary size is not delayed: 64 canaries of 150 tokens under two
names are 19,300 tokens by prompt. By walk, 40 of the tokens one at a time and counted without any cache, they are
668,000 and take 10 minutes by the default: a larger budget is wanted where many canaries are walked.

**Enrolment** asks as much in one hour as rounds do in days, once, while a person waits. What bounds a minute there is
the engine itself, where it says how busy it is: one request at a time, and none while others queue (``by_load``). An
engine that does not say so may have users of whom nothing is known, and the budget of a minute holds there too.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from probes.errors import EngineAway, Unreplayable
from probes.serving.engine import Load, Route

BYTES_A_LOGIT = 2 + 4
BYTES_LISTED = 4 + 4  # of one listed token: its id and its value
MOST_DOUBLINGS = 16
UNKNOWN_VOCABULARY = 262_144  # the largest one of models that are served widely, where the engine does not say
MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class LoadLimits:
    """most_logit_bytes: that one request may make the engine hold; most_tokens: of one prompt with its continuation
    tokens_a_minute: that the engine reads and generates for probes; requests_a_minute
    most_waiting: requests in the engine's queue, most_cache_usage: in [0, 1]; beyond either nothing is asked
    first_wait_s: after a refusal that names no time, longest_wait_s: after many
    patience_s: that a request waits for an engine which is busy, before the engine counts as away
    by_load: the budget of a minute holds only where the engine does not say how many requests wait
    """

    most_logit_bytes: int = 200_000_000
    most_tokens: int = 1_023
    tokens_a_minute: int = 60_000
    requests_a_minute: int = 600
    most_waiting: int = 0
    most_cache_usage: float = 0.9
    first_wait_s: float = 5.0
    longest_wait_s: float = 600.0
    patience_s: float = 30.0
    by_load: bool = False

    def is_busy(self, load: Load) -> bool:
        """Beyond either limit. What the engine does not say of its load holds up nothing."""
        queues = load.waiting is not None and load.waiting > self.most_waiting
        return queues or (load.cache_usage is not None and load.cache_usage > self.most_cache_usage)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call asks of the engine. logit_bytes: held at once; tokens: read and generated; requests: sent"""

    logit_bytes: int
    tokens: int
    requests: int


def cost_of(prompt: int, continuation: int, listed: int, route: Route, vocabulary: int | None) -> Cost:
    """What scoring or generating ``continuation`` tokens after ``prompt`` asks for, without any cache.

    vocabulary: tokens in it, None unknown, which is taken as a large one; listed: tokens at each position
    """
    row = BYTES_A_LOGIT * (vocabulary or UNKNOWN_VOCABULARY) + BYTES_LISTED * listed
    if route is Route.PROMPT:
        length = prompt + continuation
        return Cost(length * row, length + 1, 1)
    if route is Route.WALK:
        return Cost(row, continuation * (prompt + 1) + continuation * (continuation - 1) // 2, continuation)
    return Cost(row, prompt + continuation, 1)


def check(cost: Cost, length: int, limits: LoadLimits, where: str) -> None:
    """Raises Unreplayable, with what to do, where a call asks for too much memory or its text is too long.

    length: tokens of prompt and continuation; where: address of the engine, for the message
    """
    if length > limits.most_tokens:
        raise Unreplayable(where, f"{length} tokens to read, wanted {limits.most_tokens} at most: a shorter canary")
    if cost.logit_bytes > limits.most_logit_bytes:
        sizes = f"{cost.logit_bytes / 1e6:.0f} MB of logits in one request, wanted {limits.most_logit_bytes / 1e6:.0f}"
        raise Unreplayable(where, f"{sizes} at most: a shorter canary, or route walk, which holds one position")


def fits(cost: Cost, length: int, limits: LoadLimits) -> bool:
    """Would ``check`` let it pass? Asked to choose a route."""
    return length <= limits.most_tokens and cost.logit_bytes <= limits.most_logit_bytes


class Pace:
    """When the next request may be sent. Times are seconds of one steady clock, handed in.

    ``wait_s`` is asked before a call, ``sent`` tells of one that goes out, ``answered`` and ``refused`` how it ended.
    A call goes out once those of the last minute are below its budget, so that no minute has more than the budget and
    one call; a call of several minutes' budget keeps the next one waiting for as many.
    """

    def __init__(self, limits: LoadLimits) -> None:
        self._limits = limits
        # (until when it counts, tokens, requests), in the order in which they were sent; no more than their budget.
        self._counted: deque[tuple[float, int, int]] = deque()
        self._tokens, self._requests = 0, 0
        self._not_before = -math.inf
        self._refusals = 0

    def wait_s(self, load: Load, now: float) -> float:
        """Seconds until it may be asked again, 0 for now."""
        by_load = self._limits.by_load and load.waiting is not None
        return max(0.0 if by_load else self._budget_wait_s(now), self.idle_wait_s(load, now))

    def idle_wait_s(self, load: Load, now: float) -> float:
        """The same, whatever of the budget is left."""
        return max(self.held_s(now), self._limits.first_wait_s if self._limits.is_busy(load) else 0.0)

    def held_s(self, now: float) -> float:
        """Of the wait, the part that a refusal has left."""
        return max(self._not_before - now, 0.0)

    def sent(self, cost: Cost, now: float) -> None:
        shares = cost.tokens / self._limits.tokens_a_minute, cost.requests / self._limits.requests_a_minute
        self._counted.append((now + MINUTE_S * max(1.0, *shares), cost.tokens, cost.requests))
        self._tokens, self._requests = self._tokens + cost.tokens, self._requests + cost.requests

    def answered(self) -> None:
        self._refusals = 0

    def refused(self, error: EngineAway, now: float) -> None:
        """After 429, 5xx and no answer: the doubled wait, or longer where the engine wishes; never the longest one and
        more, so that an engine's mistake does not end the watch."""
        own = self._limits.first_wait_s * 2.0 ** min(self._refusals, MOST_DOUBLINGS)
        self._refusals += 1
        self._not_before = now + min(max(own, error.again_in_s or 0.0), self._limits.longest_wait_s)

    def _budget_wait_s(self, now: float) -> float:
        while self._counted and self._counted[0][0] <= now:
            _, tokens, requests = self._counted.popleft()
            self._tokens, self._requests = self._tokens - tokens, self._requests - requests
        tokens, requests, free_at = self._tokens, self._requests, now
        for ends, of_tokens, of_requests in self._counted:
            if tokens < self._limits.tokens_a_minute and requests < self._limits.requests_a_minute:
                break
            tokens, requests, free_at = tokens - of_tokens, requests - of_requests, max(free_at, ends)
        return free_at - now
