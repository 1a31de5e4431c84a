"""How the text of a page is cut for a reader: what was seen in a line or two, the rest after it, its terms explained.

Pure; the words themselves are in detectors/on_call_text.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from detectors.on_call_text import TERMS

# Characters of what was seen, beyond its first clause: two lines of a phone that is held upright, or of a terminal.
SHORT = 200
# How a step of an action begins: with its number, or with the word that joins it to the one before.
_STEP = re.compile(r"^(\d+\. )?(then:? )?")
_PARENTHESES = {"(": 1, ")": -1}


def clauses(text: str) -> tuple[str, ...]:
    """The parts between the semicolons of a sentence; one within parentheses parts nothing."""
    return tuple(part for part in map(str.strip, _parted(text)) if part)


def _parted(text: str) -> Iterator[str]:
    begin = depth = 0
    for i, character in enumerate(text):
        depth = max(0, depth + _PARENTHESES.get(character, 0))
        if character == ";" and depth == 0:
            yield text[begin:i]
            begin = i + 1
    yield text[begin:]


def short_and_rest(text: str) -> tuple[str, str]:
    """The first clauses, within SHORT characters where the first alone is not longer; and those after them.

    Two where they fit into twice as many: of a base the first one says who is affected, and not of what.
    """
    parts = clauses(text)
    n = 1
    while n < len(parts) and len("; ".join(parts[: n + 1])) <= (2 * SHORT if n == 1 else SHORT):
        n += 1
    return "; ".join(parts[:n]), "; ".join(parts[n:])


def numbered(steps: Sequence[str]) -> tuple[str, ...]:
    """Each with its number, where there are several, in place of the word that joins them in a sentence."""
    bare = [_STEP.sub("", step) for step in steps]
    return tuple(f"{number}. {step}" for number, step in enumerate(bare, 1)) if len(bare) > 1 else tuple(bare)


def explained(lines: Iterable[str]) -> tuple[str, ...]:
    """``term: what it means`` of each term that is used in the lines, in the order of TERMS."""
    whole = " ".join(lines)
    return tuple(f"{term}: {meaning}" for term, (used, meaning) in TERMS.items() if re.search(used, whole))
