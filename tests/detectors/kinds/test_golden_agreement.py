from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.errors import Refused
from detectors.kinds.golden_agreement import Config, Detector, flipped
from tests.detectors.synthetic import make_base_round, make_round


def test_a_canary_counts_when_fewer_positions_than_the_floor_agree() -> None:
    round = make_round("router")

    def at(share: float) -> bool:
        measurements = tuple(replace(m, top1_agreement=share) for m in round.measurements)
        return bool(flipped(replace(round, measurements=measurements), 0.9).all())

    assert (at(1.0), at(0.9), at(0.89)) == (False, False, True)


def test_other_words_are_evidence_and_inform() -> None:
    (found,) = Detector(Config()).update(make_base_round({"router": "not_applied"}, draws=16))
    assert (found.log_e > 21.5, found.pages, found.n) == (True, False, 16)
    assert Detector(Config(pages=True)).update(make_base_round({"router": "healthy"}))[0].pages


def test_near_ties_are_below_a_high_floor_and_above_a_low_one() -> None:
    """What its docstring says: at nine tenths of the strength some canaries of this world turn one position of six."""

    def last(floor: float) -> float:
        detector = Detector(Config(floor=floor))
        return [detector.update(make_base_round({"router": "scale:0.9"}, number))[0].log_e for number in range(20)][-1]

    assert last(0.9) > 21.5
    assert last(0.6) < 1.0


@pytest.mark.parametrize("wrong", [{"floor": 0.0}, {"floor": 1.2}, {"share": 1.0}, {"bets": 0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(Refused):
        Config(**wrong)  # type: ignore[arg-type]
