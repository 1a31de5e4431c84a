"""Names of skills, and a base's round without them."""

from __future__ import annotations

from detectors.canaries.composed_skills import is_skill, parts_of, skill_name, without_skills
from detectors.records import BaseRound, Round

NAME = skill_name("tone and form", "tone")


def test_a_name_says_what_it_is_of() -> None:
    assert NAME == "tone and form / tone" and parts_of(NAME) == ("tone and form", "tone")
    assert is_skill(NAME) and not is_skill("org/model") and parts_of("org/model") == ("", "org/model")


def test_a_base_is_judged_by_its_adapters_alone() -> None:
    own, skill = Round("tone", "b", 1, 0.0, ()), Round(NAME, "b", 1, 0.0, ())
    assert without_skills(BaseRound("b", 1, 0.0, (own, skill))).members == (own,)
    plain = BaseRound("b", 1, 0.0, (own,))
    assert without_skills(plain) is plain
