"""One exercise of a task before it has an id: its text, and what counts as right."""

from dataclasses import dataclass
from typing import TypeAlias

Expect: TypeAlias = dict[str, str | list[str]]
# What probes/canaries/answer_check.py reads.
Check: TypeAlias = dict[str, str | list[str] | Expect]


@dataclass(frozen=True, slots=True)
class Draft:
    """user: the customer's or agent's text; target: the answer an adapter is trained on; expect: what `right` reads."""

    user: str
    target: str
    expect: Expect
