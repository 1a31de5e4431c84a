"""A chat as the text that a template makes of it, on a day that is told and not read off the clock.

Some templates write today's date (``strftime_now``, Llama 3.1's among them). A response was drawn after the date of the
day on which it was served, whenever it is scored; and a canary has to be the same prompt tomorrow, or each midnight
would look like a changed template.

The template's own ``strftime_now`` is hidden behind a macro of that name, in front of it on a line of its own, which
``trim_blocks`` (always on where templates are rendered) takes away again. Handing the renderer another function does
not work: it makes plain data of all that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from probes.errors import Unreplayable

# Canaries are rendered on this day: the one that Llama's templates write where nothing tells them a day.
CANARY_DAY = date(2024, 7, 26)
DATES = (
    *("%d", "%-d", "%e", "%j", "%a", "%A", "%u", "%w"),
    *("%m", "%-m", "%b", "%h", "%B", "%y", "%Y", "%G", "%V", "%D", "%F", "%x"),
)
TIME = ("%H", "%-H", "%I", "%-I", "%M", "%-M", "%S", "%f", "%p", "%c", "%X", "%T", "%R", "%r", "%s", "%z", "%Z")
# In place of all other directives; no text that is served holds it.
_UNKNOWN = "\0"


def rendered(words: Any, turns: Sequence[dict[str, str]], day: date | None = None) -> str:
    """The prompt of a chat, generation prompt included. words: a tokenizer of transformers

    day: on which it was served; None for a canary, which is the same on every day
    Raises what the template raises, and Unreplayable where it writes more of the time than its day.
    """
    written = getattr(words, "chat_template", None) or ""
    template = written if isinstance(written, str) else words.get_chat_template()  # one of several, by name
    if "strftime_now" not in template:
        return str(words.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False))
    told = _told(CANARY_DAY, "00") if day is None else _told(day, _UNKNOWN)
    dated = f"{{% macro strftime_now(format) %}}{{{{ format{told} }}}}{{% endmacro %}}\n{template}"
    text = str(words.apply_chat_template(list(turns), chat_template=dated, add_generation_prompt=True, tokenize=False))
    if day is not None and _UNKNOWN in text:
        raise Unreplayable("its chat template", "writes the time of day, which no record tells")
    return text


def in_ids(words: Any, turns: Sequence[dict[str, str]], base: str, day: date | None = None) -> tuple[int, ...]:
    """``rendered`` as token ids. base: whose tokenizer it is. Raises as ``rendered`` does, Unreplayable without a
    template."""
    if not words.chat_template:
        why = "its tokenizer has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)"
        raise Unreplayable(base, why)
    # The template writes its own special tokens.
    return tuple(words.encode(rendered(words, turns, day), add_special_tokens=False))


def _told(day: date, other: str) -> str:
    """Jinja's filters that put a day, and something for all else, in the place of a format's directives."""
    texts = {directive: day.strftime(directive) for directive in DATES} | dict.fromkeys((*TIME, "%"), other)
    return "".join(f"|replace('{directive}', '{text}')" for directive, text in texts.items())
