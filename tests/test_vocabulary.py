"""Are names and sentences those of the field? One word, one meaning; the words themselves are in docs/glossary.md."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("agent", "probes", "detectors", "benchmarks", "dashboards")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
# A name says what it holds.
EMPTY_NAMES = frozenset(("seen", "found", "told", "one", "heard", "asked", "mine", "it", "them"))
# Words of one's own, and the field's word for the same.
PRIVATE_WORDS = {
    r"\blaws?\b": "token distribution",
    r"\btwins?\b": "CUSUM statistic, or in-memory implementation",
    r"\btold apart\b": "distinguished",
    r"\bmade anew\b|\banew\b": "recreated, again",
    r"\bheaps?\b": "clusters",
    r"\bbounded mixture\b": "clipped mixture e-process",
    r"\bis heard\b|\bwas heard\b|\bwere heard\b|\bare heard\b": "is received, is scored",
}


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.MatchAs):
            yield node.lineno, node.name or ""


def _sentences(source: str) -> Iterator[tuple[int, str]]:
    """Comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            yield token.start[0], token.string


def violations(path: Path) -> list[str]:
    source = path.read_text()
    names = [
        f"{path}:{line}: a name that says nothing: {name}"
        for line, name in _names(ast.parse(source))
        if name.strip("_") in EMPTY_NAMES
    ]
    words = [
        f"{path}:{line}: {match.group(0)!r}, the field says: {instead}"
        for line, text in _sentences(source)
        for word, instead in PRIVATE_WORDS.items()
        for match in [re.search(word, text, re.IGNORECASE)]
        if match
    ]
    return names + words


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_sentences_are_those_of_the_field(path: Path) -> None:
    assert not violations(path)
