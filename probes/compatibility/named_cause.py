"""Why does an adapter lose its effect on a new base? Named as the cause of an alarm is (detectors/diagnosis), by one
round of its canaries on the new base, and by faults that are replayed on the base and the adapter as accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.root_cause import diagnose
from detectors.diagnosis.wording import words_of
from detectors.records import CanarySplit, Identity, Measurement, NamedCause, Round
from probes.causes.adapter_replay import AdapterReplay
from probes.causes.likely_faults import may_say_more
from probes.compatibility.scratch_replay import NAME, Reference, scratch_runner
from probes.golden.record import Golden
from probes.golden.statistical_power import StatisticalPower
from probes.runner import Stop


@dataclass(frozen=True, slots=True)
class AcceptedFiles:
    """base, adapter: folders as accepted; cache_dir: of converted copies"""

    base: Path
    adapter: Path
    cache_dir: Path


def round_of(measured: Sequence[Measurement], before: Identity, after: Identity) -> Round:
    """before, after: of the adapter on the accepted and on the new base, each as it was live there"""
    identity = replace(
        after,
        golden_base=before.live_base,
        golden_adapter=before.live_adapter,
        golden_tokenizer=before.live_tokenizer,
        golden_template=before.live_template,
        golden_grid=before.live_grid,
    )
    return Round(NAME, "", 0, 0.0, tuple(measured), identity)


def named_cause(
    round: Round, accepted: Reference, files: AcceptedFiles, tolerances: Tolerances, stop: Stop
) -> NamedCause:
    """The cause with its sentences. round: of the adapter on the new base; files: loaded once more where
    faults that are replayed on them may say more, until ``stop()``

    Raises Unreplayable where the accepted base cannot be loaded.
    """
    if may_say_more(round):
        golden = _as_golden(round, accepted, tolerances)
        with scratch_runner(files.base, files.adapter, files.cache_dir) as runner:
            replay = AdapterReplay.of(runner, golden, round)
            while not stop() and replay.step(stop):
                pass
        round = replay.measured()
    return words_of(replace(diagnose(round, tolerances), adapter=files.adapter.name))


def _as_golden(round: Round, accepted: Reference, tolerances: Tolerances) -> Golden:
    """A record of this comparison alone: never written, without noise and power, all of it held out."""
    canaries = tuple(replace(canary, split=CanarySplit.HELD_OUT) for canary in accepted.canaries)
    return Golden(
        adapter=NAME,
        base="",
        base_hash=round.identity.golden_base,
        tokenizer_hash=accepted.tokenizer,
        adapter_hash=round.identity.golden_adapter,
        rank=0,
        alpha=0.0,
        scales=(),
        canaries=canaries,
        canary_set="",
        tolerances=tolerances,
        noise={},
        power=StatisticalPower(monitorable=True, noise=0.0, losses=(), words=""),
        created_at=0.0,
    )
