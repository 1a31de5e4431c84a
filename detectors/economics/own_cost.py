"""What does watching an adapter cost a day, part by part, and what share is that of what serving it costs? Pure.

What was measured is taken as it is and priced; what only a whole process knows of itself (its CPU seconds) is shared
out among adapters by a measured share. Amounts are of a day, money is in the currency of the prices. Nothing is
estimated from a sample but the tokens of a served request, a mean over the sampled ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Part(StrEnum):
    """What an amount was used for. Values are read by programs: they stay."""

    ENGINE_CANARIES = "engine canaries"  # asked of a serving engine, in its tokens
    FILE_CANARIES = "file canaries"  # replayed by gapwatch from the files, by a witness where there is one
    SCORING = "scoring"  # of sampled responses
    MODELS = "models"  # loading, hashing and waiting, of a day on which neither of the two had any time
    AGENT = "agent"  # reading, judging, sending
    STORAGE = "storage"


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one unit each, >= 0. gpu_s, cpu_s: a second of a card, of one core; byte_day: a stored byte for a day

    input_token, output_token: of the serving engine, read and written
    """

    gpu_s: float
    cpu_s: float
    byte_day: float
    input_token: float
    output_token: float


@dataclass(frozen=True, slots=True)
class Used:
    """Amounts of one day, >= 0. gpu_s, cpu_s: seconds; input_tokens, output_tokens: of the serving engine

    stored_bytes: that lie in the store, on that day
    """

    gpu_s: float = 0.0
    cpu_s: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    stored_bytes: float = 0.0

    def __add__(self, other: Used) -> Used:
        return Used(
            self.gpu_s + other.gpu_s,
            self.cpu_s + other.cpu_s,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.stored_bytes + other.stored_bytes,
        )

    def money(self, prices: Prices) -> float:
        """What these cost."""
        return (
            self.gpu_s * prices.gpu_s
            + self.cpu_s * prices.cpu_s
            + self.input_tokens * prices.input_token
            + self.output_tokens * prices.output_token
            + self.stored_bytes * prices.byte_day
        )


@dataclass(frozen=True, slots=True)
class Served:
    """requests: a day; input_tokens, output_tokens: of one of them on average, nan where no record told them"""

    requests: float
    input_tokens: float
    output_tokens: float

    def request_money(self, prices: Prices) -> float:
        """What serving one request costs; nan where its tokens are not known."""
        return self.input_tokens * prices.input_token + self.output_tokens * prices.output_token


@dataclass(frozen=True, slots=True)
class WatchCost:
    """Of one adapter, or of the requests for a base itself, whose ``adapter`` is then the base's name.

    served: None where no request of it was counted
    """

    base: str
    adapter: str
    parts: Mapping[Part, Used] = field(default_factory=dict)
    served: Served | None = None

    def money(self, prices: Prices) -> float:
        """Of a day, all parts."""
        return sum(used.money(prices) for used in self.parts.values())

    def by_part(self, prices: Prices) -> dict[Part, float]:
        """The most expensive part first."""
        priced = {part: used.money(prices) for part, used in self.parts.items()}
        return dict(sorted(priced.items(), key=lambda item: (-item[1], item[0])))

    def serving_money(self, prices: Prices) -> float:
        """Of a day; nan where requests or their tokens are not known."""
        return self.served.requests * self.served.request_money(prices) if self.served else math.nan

    def share(self, prices: Prices) -> float:
        """Of the watch in the cost of serving; nan where that is not known, inf where nothing was served."""
        return share_of(self.money(prices), self.serving_money(prices))


def share_of(money: float, serving: float) -> float:
    """nan where the cost of serving is not known, inf where it is 0 and the watch costs something."""
    if math.isnan(serving):
        return math.nan
    return money / serving if serving > 0 else math.inf if money > 0 else 0.0


def requests_for_share(cost: WatchCost, prices: Prices, share: float) -> float:
    """Requests a day from which on the watch costs no more than this share of serving.

    Canaries come by the clock and are the same whatever is served; the other parts are taken to grow with the requests,
    as they do while the sampling rate is kept. inf where these alone cost more than the share; nan where what a request
    costs, or how many there were, is not known.
    """
    if cost.served is None or not math.isfinite(cost.served.request_money(prices)) or cost.served.requests <= 0:
        return math.nan
    by_clock = (Part.ENGINE_CANARIES, Part.FILE_CANARIES, Part.MODELS)
    fixed = sum(used.money(prices) for part, used in cost.parts.items() if part in by_clock)
    growing = (cost.money(prices) - fixed) / cost.served.requests
    left = share * cost.served.request_money(prices) - growing
    return fixed / left if left > 0 else math.inf if fixed > 0 or growing > 0 else 0.0


def shared_out(amount: float, weights: Mapping[str, float]) -> dict[str, float]:
    """An amount by these weights, >= 0; equally where all are 0. The shares add up to the amount; {} of nobody."""
    whole = sum(weights.values())
    if whole > 0:
        return {name: amount * weight / whole for name, weight in weights.items()}
    return {name: amount / len(weights) for name in weights}
