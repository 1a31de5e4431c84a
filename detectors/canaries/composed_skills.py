"""Skills of compositions: each is a stream of its own, of which the base's verdict knows nothing.

A composition of adapters is replayed on the canaries of each of its members, and each of these skills is judged like an
adapter. They are no members of their base: a fault of one adapter shows in every composition that has it, and the null
of the base's evidence, that at most half of its members are broken, would count that one fault several times.
"""

from __future__ import annotations

from dataclasses import replace

from detectors.records import BaseRound

# No engine lists a model under such a name by chance; stored in rows, state and golden records, so it stays.
BETWEEN = " / "


def skill_name(composition: str, member: str) -> str:
    """The stream of one member's canaries, put to the composition: "tone and form / tone"."""
    return f"{composition}{BETWEEN}{member}"


def is_skill(name: str) -> bool:
    """Did ``skill_name`` make this name?"""
    return BETWEEN in name


def parts_of(name: str) -> tuple[str, str]:
    """The composition and the member of a skill; of an adapter's name ("", name)."""
    composition, between, member = name.rpartition(BETWEEN)
    return (composition, member) if between else ("", name)


def without_skills(round: BaseRound) -> BaseRound:
    """The round with the base's adapters alone."""
    if not any(is_skill(member.adapter) for member in round.members):
        return round
    return replace(round, members=tuple(member for member in round.members if not is_skill(member.adapter)))
