from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from detectors.canaries.route_agreement import Sight
from probes.canaries.route_probes import probes_of
from probes.errors import EngineAway
from probes.runners.memory import Config
from probes.serving.engine import Route
from probes.serving.probe_check import Checked, Probe, ProbeCheck
from tests.probes.serving.toy_engine import BASE, ToyEngine
from tests.probes.worlds import ADAPTERS, enrolled

TOLERANCE = 0.05


def salts() -> Callable[[], str]:
    numbers = count()
    return lambda: f"salt{next(numbers)}"


def checked(engine: ToyEngine, adapter: str = "alpha", seed: int = 0) -> Checked:
    check = ProbeCheck(engine, BASE, engine.capabilities().routes, salts())
    return check.route_for(adapter, probes_of(enrolled(adapter), seed), TOLERANCE)


def engine(**changed: object) -> ToyEngine:
    return ToyEngine(Config(adapters=dict(ADAPTERS)), **changed)  # type: ignore[arg-type]


def test_scoring_in_the_prompt_is_taken_where_it_shows_what_is_written() -> None:
    result = checked(engine(noise=0.01))
    assert result.route is Route.PROMPT and result.findings == ()
    agreement = result.agreements[Route.PROMPT]
    assert agreement.sight is Sight.CLEAR and agreement.canaries == 8
    assert agreement.scored_offline < 0.02 and agreement.generated_offline < 0.02


@pytest.mark.parametrize("seed", range(20))
def test_an_adapter_that_is_scored_as_the_base_is_never_taken_for_its_fault(seed: int) -> None:
    result = checked(engine(noise=0.01, blind=frozenset({"alpha"})), seed=seed)
    assert result.route is Route.WALK
    assert result.agreements[Route.PROMPT].sight is Sight.BLIND
    (finding,) = result.findings
    assert "scoring in the prompt is blind for alpha" in finding and "says nothing of the adapter" in finding


def test_the_other_adapters_of_such_an_engine_keep_their_route() -> None:
    assert checked(engine(noise=0.01, blind=frozenset({"alpha"})), "beta").route is Route.PROMPT


@pytest.mark.parametrize("fault", ["not_applied", "wrong_adapter:beta", "scale:0.5", "distorted:0.5"])
def test_a_fault_of_serving_is_no_blindness(fault: str) -> None:
    faulty = engine(noise=0.01)
    faulty.models_behind.inject("alpha", fault)
    result = checked(faulty)
    assert result.route is Route.PROMPT and result.agreements[Route.PROMPT].sight is Sight.CLEAR


def test_a_difference_that_the_base_has_as_well_is_noise_of_the_route() -> None:
    """Kernels for whole prompts round otherwise than those for single tokens: .031 nats were published for bf16."""
    result = checked(engine(crossing=0.031))
    assert result.route is Route.PROMPT
    assert result.agreements[Route.PROMPT].noise == pytest.approx(0.031, rel=0.01)


def test_a_route_whose_noise_hides_half_of_the_effect_is_not_taken() -> None:
    effect = float(np.median([probe.effect for probe in probes_of(enrolled("alpha"), 0)]))
    result = checked(engine(crossing=effect))
    assert result.route is Route.WALK and result.agreements[Route.PROMPT].sight is Sight.BLIND


def test_the_engines_own_words_are_taken_where_nothing_scores_right() -> None:
    blind = engine(routes=(Route.PROMPT, Route.GENERATED), blind=frozenset({"alpha"}))
    assert checked(blind).route is Route.GENERATED


def test_before_anything_is_accepted_the_present_effect_stands_in() -> None:
    probes = [Probe(probe.prompt) for probe in probes_of(enrolled("alpha"), 0)]
    for blind, route in ((frozenset({"alpha"}), Route.WALK), (frozenset[str](), Route.PROMPT)):
        check = ProbeCheck(asked := engine(noise=0.01, blind=blind), BASE, asked.routes, salts())
        assert check.route_for("alpha", probes, TOLERANCE).route is route


def test_an_adapter_without_effect_that_was_never_accepted_leaves_nothing_to_check() -> None:
    probes = [Probe(probe.prompt) for probe in probes_of(enrolled("alpha"), 0)]
    lost = engine(noise=0.01)
    lost.models_behind.inject("alpha", "not_applied")
    result = ProbeCheck(lost, BASE, lost.routes, salts()).route_for("alpha", probes, TOLERANCE)
    assert result.route is Route.PROMPT and result.agreements[Route.PROMPT].sight is Sight.NOT_CHECKED
    assert "could not be checked for alpha" in result.findings[0]


def test_an_engine_that_is_away_is_not_judged() -> None:
    with pytest.raises(EngineAway):
        checked(engine(away=True))
