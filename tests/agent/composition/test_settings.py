"""Compositions in the configuration: each becomes a stream for each of its members, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.assemble import stream_counts
from agent.config import Skill, load
from agent.errors import Refused

DESK = {
    "name": "desk",
    "method": "linear",
    "members": [{"adapter": "tone", "weight": 0.7}, {"adapter": "safety", "weight": 0.3, "tolerance": 0.01}],
}


def written(folder: Path, compositions: list[dict[str, Any]], **more: Any) -> Path:
    adapters = [{"name": name, "path": name, "canaries": f"{name}.jsonl"} for name in ("tone", "safety")]
    adapters[0]["tolerance"] = 0.1  # type: ignore[assignment]
    model = {"name": "b", "path": "./base", "adapters": adapters, "compositions": compositions}
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump({"models": [model], "probes": {"cache_dir": "cache"}} | more))
    return folder / "gapwatch.yaml"


def test_each_member_is_a_stream_with_its_own_canaries_and_tolerance(tmp_path: Path) -> None:
    config = load(written(tmp_path, [DESK]))
    tone, safety = config.models[0].adapters[2:]
    assert isinstance(tone, Skill) and isinstance(safety, Skill)
    assert (tone.name, safety.name) == ("desk / tone", "desk / safety")
    assert (tone.tolerance, safety.tolerance) == (0.1, 0.01)
    assert tone.canaries == tmp_path / "tone.jsonl" and safety.member == "safety"
    assert tone.path == safety.path == tmp_path / "cache/compositions/b/desk" and tone.is_made
    assert tone.served_as == "desk" and config.models[0].adapters[0].served_as == "tone"
    assert config.names_of(["desk"]) == ("desk / tone", "desk / safety")
    assert config.names_of([]) == ("tone", "safety", "desk / tone", "desk / safety")


def test_its_own_path_is_read_as_the_engine_has_it(tmp_path: Path) -> None:
    config = load(written(tmp_path, [DESK | {"path": "merged"}]))
    skill = config.models[0].adapters[2]
    assert skill.path == tmp_path / "merged" and not skill.is_made


def test_a_skill_may_have_a_severity_of_its_own(tmp_path: Path) -> None:
    alerts = {"policy": {"adapters": {"desk / safety": {"severity": "critical"}}}}
    assert load(written(tmp_path, [DESK], alerts=alerts)).alerts.policy.adapters
    with pytest.raises(Refused, match="a policy of"):
        load(written(tmp_path, [DESK], alerts={"policy": {"adapters": {"desk / form": {"severity": "critical"}}}}))


def test_skills_share_the_budget_and_are_no_members_of_their_base(tmp_path: Path) -> None:
    without, beside = (sum(stream_counts(load(written(tmp_path, own))).values()) for own in ([], [DESK]))
    assert without < beside < 2 * without


@pytest.mark.parametrize(
    ("changed", "about"),
    [
        ({"members": [{"adapter": "tone"}, {"adapter": "form"}]}, "form in the composition desk"),
        ({"members": [{"adapter": "tone"}]}, "two adapters or more"),
        ({"method": "average"}, "method"),
        ({"method": "ties"}, "density of ties"),
        ({"name": "tone"}, "tone"),
        ({"colour": "red"}, "colour"),
        ({"members": [{"adapter": "tone", "tolerance": 2}, {"adapter": "safety"}]}, "tolerance"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, changed: dict[str, Any], about: str) -> None:
    with pytest.raises(Refused, match=about):
        load(written(tmp_path, [DESK | changed]))
