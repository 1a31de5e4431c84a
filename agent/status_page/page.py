"""The status page as HTML: readable without JavaScript, and live with it.

The template escapes everything that it is given; style and script are written into the page, and nothing else may run
or load there (Content-Security-Policy), whatever an adapter is called.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from agent.clock import Clock
from agent.status_page.board import Board
from agent.status_page.lookback import Lookback
from agent.status_page.view import Page, page_of

Statuses = Mapping[str, tuple[bool, str]]
_FOLDER = files("agent") / "status_page"


class StatusPage:
    """``html(parts, texts)``: the whole page now; waits for nothing. texts: may prompts and answers be shown?"""

    def __init__(self, board: Board, lookback: Lookback, clock: Clock) -> None:
        self._board, self._lookback, self._clock = board, lookback, clock

    def html(self, parts: Statuses, texts: bool) -> bytes:
        history = self._lookback.latest()
        words, now = self._lookback.words, self._clock.now()
        return rendered(page_of(self._board.snapshot(), history, parts, now, texts, words))


def rendered(page: Page) -> bytes:
    """UTF-8."""
    template, style, script, allowed = _template()
    return template.render(page=page, style=style, script=script, allowed=allowed).encode()


@cache
def _template() -> tuple[Template, Markup, Markup, str]:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    style, script = text_of("page.css"), text_of("page.js")
    allowed = f"default-src 'none'; style-src {_hashed(style)}; script-src {_hashed(script)}; connect-src 'self'"
    return environment.from_string(text_of("page.html")), Markup(style), Markup(script), allowed


def style_and_source() -> tuple[Markup, str]:
    """The style of all pages, and how a page's policy names it."""
    style = text_of("page.css")
    return Markup(style), _hashed(style)


def text_of(name: str) -> str:
    """A file of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hashed(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
