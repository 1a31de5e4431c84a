"""The page as HTML: well formed, escaped, within its size, and without what only the loopback may see."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from agent.clock import HandClock
from agent.status_page.board import Board
from agent.status_page.lookback import Lookback
from agent.status_page.page import StatusPage, rendered
from agent.status_page.view import page_of
from agent.store.history import History
from tests.agent.findings import BASE, TONE
from tests.agent.status_page.pages import NOW, PARTS, history, night, shown

VOID = {"meta", "link", "br", "hr", "img", "input"}
NASTY = ("\"quoted\" & 'single'", "<script>alert(1)</script>", "größer 🦙 #3", "a" * 255)


class Outline(HTMLParser):
    """Elements that are not closed in order, ids, and what refers to them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute twice in <{tag}>"
        self.ids += [str(values["id"])] if "id" in values else []
        self.labels += [str(values["aria-labelledby"])] if "aria-labelledby" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.mark.parametrize("texts", [True, False])
def test_the_page_is_well_formed_with_ids_of_their_own_and_labelled_sections(texts: bool) -> None:
    parsed = outline(rendered(shown(night(), texts=texts)).decode())
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert set(parsed.labels) <= set(parsed.ids) and not any(" " in each for each in parsed.ids)
    assert parsed.tags.count("h1") == 1 and parsed.tags.count("main") == 1


def test_names_are_text_wherever_they_stand() -> None:
    html = rendered(shown(night(NASTY, bad=NASTY[1]), texts=True)).decode()
    parsed = outline(html)
    assert parsed.tags.count("script") == 1, "our own"
    assert "&lt;script&gt;alert(1)" in html and "<script>alert" not in html and "🦙" in html


def test_nothing_but_our_own_script_and_style_may_run() -> None:
    html = rendered(shown(night())).decode()
    allowed = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert allowed and "default-src &#39;none&#39;" in allowed[1]
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{digest}&#39;" in allowed[1]
    assert not re.search(r'\s(on\w+|style)="', html)


def test_texts_of_canaries_are_on_the_control_port_alone() -> None:
    assert b"my parcel is late" in rendered(shown(night(), texts=True))
    public = rendered(shown(night(), texts=False))
    assert b"my parcel is late" not in public and b"Sure! Here is" not in public and b"canary c0" in public


def test_plots_are_svg_with_their_meaning_in_words() -> None:
    html = rendered(shown(night())).decode()
    plots = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(plots) >= 6
    for plot in plots:
        assert ElementTree.fromstring(plot).get("role") == "img"
        assert re.search(r'aria-label="(retention over the last day: lowest|evidence)', plot)


def test_two_hundred_adapters_fit_in_300_kb() -> None:
    names = [f"customer-{i:03d}-support" for i in range(200)]
    assert len(rendered(shown(night(names, bad=names[0])))) <= 300_000


def test_a_store_that_raises_or_hangs_leaves_what_the_process_knows() -> None:
    hangs = threading.Event()

    def away() -> History:
        assert hangs.wait(20)
        raise OSError("http://user:secret@host")

    clock, board = HandClock(NOW), night()
    lookback = Lookback(away, clock)
    page = StatusPage(board, lookback, clock)
    assert "the store is being asked" in page.html(PARTS, False).decode()
    hangs.set()
    deadline = time.monotonic() + 20
    while not lookback.words.startswith("the store does not"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    html = page.html(PARTS, False).decode()
    assert "the store does not answer (OSError)" in html and "secret" not in html and TONE in html


def test_a_page_without_anything_says_so() -> None:
    board = Board("prod", "pod-0", {BASE: (TONE,)})
    html = rendered(page_of(board.snapshot(), history(), {}, NOW, False)).decode()
    assert "1 not judged yet of 1 adapter" in html and "no round in the last day" in html
