"""The page at /portfolio: all adapters, one line each, for whoever decides which to keep. HTML without JavaScript.

Made when somebody looks, which takes as long as the store does, and kept for a minute. No texts of canaries are on it.
"""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from agent.clock import Clock
from agent.config import Config
from agent.economics.portfolio import Portfolio, portfolio
from agent.economics.stored_cost import Ask
from agent.economics.words import COLUMNS, cells, words_of
from agent.status_page.page import style_and_source, text_of
from detectors.economics.choices import Kind

FRESH_S = 60.0


class PortfolioPage:
    """``html()``: UTF-8, from any thread; raises what the store raises. ask: an on-call question and its parameters"""

    def __init__(self, config: Config, ask: Ask, clock: Clock) -> None:
        self._config, self._ask, self._clock = config, ask, clock
        self._lock = threading.Lock()
        self._made_at, self._page = -math.inf, b""

    def html(self) -> bytes:
        # Held while it is made: whoever looks at the same time gets the same page and asks no store.
        with self._lock:
            if self._clock.steady() - self._made_at >= FRESH_S:
                self._page = rendered(portfolio(self._config, self._ask, self._clock.now()), self._config)
                self._made_at = self._clock.steady()
            return self._page


def rendered(whole: Portfolio, config: Config) -> bytes:
    """Pure."""
    template, style, allowed = _template()
    day = datetime.fromtimestamp(whole.at, UTC).date()
    details = [
        (f"{line.adapter}: {line.verdict}", words_of(line.decision, whole.currency, day))
        for line in whole.lines
        if line.decision
    ]
    return template.render(
        cluster=config.cluster,
        headline=headline(whole),
        at=datetime.fromtimestamp(whole.at, UTC).strftime("%Y-%m-%d %H:%M"),
        missing=whole.missing,
        columns=COLUMNS,
        rows=[list(zip(COLUMNS, cells(line, config), strict=True)) for line in whole.lines],
        details=details,
        unset=whole.unset,
        style=style,
        allowed=allowed,
    ).encode()


def headline(whole: Portfolio) -> str:
    """How many of them something is to be done about."""
    decided = [line.decision.verdict.kind for line in whole.lines if line.decision]
    to_do = sum(kind is not Kind.KEEP for kind in decided)
    unknown = len(whole.lines) - len(decided)
    words = f"{to_do} of {len(whole.lines)} adapters to act on"
    return f"{words}, {unknown} to be measured" if unknown else words


@cache
def _template() -> tuple[Template, Markup, str]:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    style, source = style_and_source()
    allowed = f"default-src 'none'; style-src {source}"
    return environment.from_string(text_of("portfolio.html")), style, allowed
