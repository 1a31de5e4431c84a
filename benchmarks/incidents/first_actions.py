"""What to do first, in a runbook: the sentences that its pages say, of the same source (detectors/on_call_text.py).

Written into the part "First action" of each by ``python -m benchmarks.runbooks --first-actions``; what is said once and
for all pages of a cause is written by hand in the part "Then" behind it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from string import Formatter

from detectors import on_call_text as text
from detectors.on_call_text import Text
from detectors.records import Cause, Status

BEGIN = "**First action.** "
# What the page fills in, as runbooks write it; explain puts the names of an incident in place of the first two.
NAMES = {
    **{"adapter": "ADAPTER", "adapter_argument": "ADAPTER", "base_argument": "BASE"},
    **{"merged": "OTHER", "names": "OTHER", "other": "OTHER", "name": "PART", "pods": "PODS"},
    **{"source_was": "the accepted source", "their_action": "do what the page says of their answers"},
}
# Of these the page names a part of an adapter, or a base.
OTHER_NAMES = {
    (Cause.PARTLY_APPLIED, ""): {"other": "PART"},
    **{key: {"adapter": "BASE", "adapter_argument": "BASE"} for key in text.BY_RESPONSES if "for the base" in key[1]},
}
COMMAND = re.compile(
    r"gapwatch (?:enrol ADAPTER --replace --why TEXT|(?:enrol|probe) ADAPTER|doctor|query \w+(?: -p subject=\w+)?)"
)
CANARIES, RESPONSES = "by canaries", "by sampled responses"


def section(name: str) -> str:
    """The whole part of one runbook: a sentence, or where pages of the cause differ one for each kind of them."""
    kinds = _unmeasured() if name == Status.UNMONITORABLE.value else _of_cause(Cause(name))
    sentences: dict[str, list[str]] = {}
    for kind, sentence in kinds:
        sentences.setdefault(sentence, []).append(kind)
    if len(sentences) == 1:
        return f"{BEGIN}{_sentence(next(iter(sentences)))}"
    lines = [f"- {_sentence(', or '.join(which))[:-1]}: {sentence}." for sentence, which in sentences.items()]
    return f"{BEGIN}The page says which of these:\n\n" + "\n".join(lines)


def with_section(name: str, runbook: str) -> str:
    """The runbook with this part written again, before the next one that begins with a title in bold."""
    before, _, rest = runbook.partition(BEGIN)
    following = re.search(r"^\*\*", rest, re.MULTILINE)
    return f"{before}{section(name)}\n\n{rest[following.start() :] if following else ''}"


def _of_cause(cause: Cause) -> Iterator[tuple[str, str]]:
    """(which pages, what they say)"""
    for by, table in ((CANARIES, text.BY_CANARIES), (RESPONSES, text.BY_RESPONSES)):
        yield from _of_table(by, table, cause)


def _of_table(by: str, table: Mapping[tuple[Cause, str], Text], cause: Cause) -> Iterator[tuple[str, str]]:
    for (of, variant), each in table.items():
        if of is cause and each.action:
            names = NAMES | (OTHER_NAMES.get((of, variant), {}) if by == RESPONSES else {})
            yield (f"{by} ({variant})" if variant else by), _filled(each.action, names)


def _unmeasured() -> Iterator[tuple[str, str]]:
    """By why nothing could be measured."""
    for reason, action in text.UNMEASURED.items():
        yield reason.value.replace("_", " "), _filled(action, NAMES)


def _filled(action: str, names: Mapping[str, str]) -> str:
    """Raises KeyError for a value that has no name here."""
    fields = {name for _, name, _, _ in Formatter().parse(action) if name}
    return COMMAND.sub(lambda command: f"`{command[0]}`", action.format(**{field: names[field] for field in fields}))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
