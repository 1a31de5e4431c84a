"""What the demo shows beside a round: sampled traffic, and evidence from embeddings, whichever detector it is from."""

from __future__ import annotations

from agent.demo.show import Show
from tests.agent import findings


def test_evidence_from_embeddings_is_shown_and_that_of_canaries_is_not() -> None:
    show = Show()
    drift = findings.evidence(3.0, detector="embedding_drift", stream="prompt", pages=False)
    for finding in (drift, findings.evidence(9.0), findings.batch()):
        show.submit(finding)
    assert show.drift == {("ticket-router", "prompt"): drift}
    assert (show.records_read, show.kept) == (11, 2)


def test_a_round_is_complete_with_its_verdicts_once_the_next_one_begins() -> None:
    show = Show()
    verdict = findings.verdict()
    for finding in (findings.base_round(1), verdict, findings.base_round(2)):
        show.submit(finding)
    view = show.rounds.get_nowait()
    assert (view.round.number, view.verdicts) == (1, [verdict])
    assert show.rounds.empty()
