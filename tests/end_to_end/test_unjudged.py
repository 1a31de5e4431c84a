"""A record whose judging fails: the others do not wait for it, it stays in the store, and the fault is told."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from structlog.testing import capture_logs

from agent.alerting.fleet import ALONE, Fleet
from detectors.records import SubjectKind, Verdict
from tests.end_to_end.world import Line, World


def test_a_round_that_cannot_be_judged_is_handed_on_told_and_does_not_stop_the_next(
    tmp_path: Path, goldens: Path
) -> None:
    faults: list[Exception] = [KeyError("my parcel"), MemoryError()]

    def fleet(_: Collection[tuple[SubjectKind, str]]) -> Fleet | None:
        if faults:
            raise faults.pop(0)
        return ALONE

    with World(tmp_path, goldens, line=Line(fleet=fleet)) as world, capture_logs() as lines:
        for n in (1, 2):
            world.turn_round()
            ok, words = world.app.routes.parts()["judge"]
            assert not ok
            assert words.startswith(f"records without a verdict since the start: {n}; the latest BaseRound failed with")
            assert "parcel" not in words
        assert [line["record"] for line in lines if line["event"] == "record_not_judged"] == ["BaseRound", "BaseRound"]
        assert len(world.rounds) == 2, "both can be judged later"
        assert world.sink.of(Verdict) == []
        world.turn_round()
        assert world.app.routes.parts()["judge"] == (True, "records without a verdict since the start: 2")
        assert world.sink.of(Verdict)
        page = world.app.routes.telemetry.page(world.app.routes.parts()).decode()
    assert "gapwatch_unjudged_total 2.0" in page.replace("{}", "")
