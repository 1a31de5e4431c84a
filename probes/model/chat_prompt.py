"""A chat rendered by a chat template, on a given day instead of the clock's.

Some templates write today's date (``strftime_now``, Llama 3.1's among them). The prompt of a response held the date on
which it was served, whenever it is scored; and a canary has to be the same prompt tomorrow, or each midnight would look
like a changed template.

The template's own ``strftime_now`` is shadowed by a macro of that name, on a line of its own before the template, which
``trim_blocks`` (always on where templates are rendered) removes again. Passing the renderer another function does not
work: it converts all arguments to plain data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from probes.errors import Unreplayable

# Canaries are rendered on this day: the one that Llama's templates write where they are given none.
CANARY_DAY = date(2024, 7, 26)
DATES = (
    *("%d", "%-d", "%e", "%j", "%a", "%A", "%u", "%w"),
    *("%m", "%-m", "%b", "%h", "%B", "%y", "%Y", "%G", "%V", "%D", "%F", "%x"),
)
TIME = ("%H", "%-H", "%I", "%-I", "%M", "%-M", "%S", "%f", "%p", "%c", "%X", "%T", "%R", "%r", "%s", "%z", "%Z")
# Written for all other directives; no served text contains it.
_UNKNOWN = "\0"


def rendered(tokenizer: Any, turns: Sequence[dict[str, str]], day: date | None = None) -> str:
    """The prompt of a chat, generation prompt included. tokenizer: of transformers

    day: on which it was served; None for a canary, which is the same on every day
    Raises what the template raises, and Unreplayable where it writes the time of day.
    """
    written = getattr(tokenizer, "chat_template", None) or ""
    template = written if isinstance(written, str) else tokenizer.get_chat_template()  # one of several, by name
    if "strftime_now" not in template:
        return str(tokenizer.apply_chat_template(list(turns), add_generation_prompt=True, tokenize=False))
    filters = _date_filters(CANARY_DAY, "00") if day is None else _date_filters(day, _UNKNOWN)
    dated = f"{{% macro strftime_now(format) %}}{{{{ format{filters} }}}}{{% endmacro %}}\n{template}"
    text = str(
        tokenizer.apply_chat_template(list(turns), chat_template=dated, add_generation_prompt=True, tokenize=False)
    )
    if day is not None and _UNKNOWN in text:
        raise Unreplayable("its chat template", "writes the time of day, which no record holds")
    return text


def chat_token_ids(
    tokenizer: Any, turns: Sequence[dict[str, str]], base: str, day: date | None = None
) -> tuple[int, ...]:
    """``rendered`` as token ids. base: whose tokenizer it is, for messages. Raises as ``rendered`` does, and
    Unreplayable without a template."""
    if not tokenizer.chat_template:
        why = "its tokenizer has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)"
        raise Unreplayable(base, why)
    # The template writes its own special tokens.
    return tuple(tokenizer.encode(rendered(tokenizer, turns, day), add_special_tokens=False))


def _date_filters(day: date, other: str) -> str:
    """Jinja filters that replace a format's date directives by this day's, and all other directives by ``other``."""
    texts = {directive: day.strftime(directive) for directive in DATES} | dict.fromkeys((*TIME, "%"), other)
    return "".join(f"|replace('{directive}', '{text}')" for directive, text in texts.items())
