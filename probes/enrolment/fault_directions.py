"""The Fisher information of each candidate canary on each kind of fault: the replays behind ``d_optimal.py``.

Used only where an enrolment selects its pool (``EnrolSettings.select``). Other directions choose other canaries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from detectors.canaries.retention import PreparedReference, prepare
from detectors.records import Fault, FaultKind, Floats
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.candidates import finite
from probes.enrolment.d_optimal import Doubles, information
from probes.enrolment.settings import EnrolmentContext
from probes.golden.record import GoldenCanary
from probes.runner import BatchShape, Breakable, Replay, Runner, Stop, Target

STAGE = "directions of candidates"
# Parts large enough for a direction of their own; the directions of single blocks are close to theirs.
PARTS = ("attention", "mlp")
MOST_OTHERS = 4
BENIGN = BatchShape(rows=1)


def features_of(context: EnrolmentContext, candidates: Sequence[GoldenCanary], tolerance: float) -> Doubles:
    """(n, D, D) information of each candidate on the adapter's own effect, its parts, and mix-ups.

    tolerance: allowed share of the adapter's effect, > 0

    Directions: delta itself (adapter lost), attention and mlp left out where the runner can do so, and up to four other
    adapters in its place. Another strength is none of them: it is beyond on every canary alike. Their unit is what the
    score allows on this canary, ``tolerance`` of |delta| and how far one benign replay moves it: a displacement of 1 is
    beyond, whatever the length. Costs one pass over the candidates for each but the first, and one for the noise.
    """
    runner, adapter, stop = context.runner, context.adapter, context.stop
    targets = _displaced(runner, adapter, context.others)
    tables: list[list[Floats]] = []
    for done, target in enumerate(targets):
        context.progress(STAGE, done, len(targets) + 1)
        tables.append(_answers(runner, candidates, target, stop))
    benign = _answers(runner, candidates, Target(adapter), stop, BENIGN)
    context.progress(STAGE, len(targets) + 1, len(targets) + 1)
    return np.stack(
        [
            _information(canary, [table[index] for table in tables], benign[index], tolerance)
            for index, canary in enumerate(candidates)
        ]
    )


def _displaced(runner: Runner, adapter: str, others: Sequence[str]) -> list[Target]:
    blocks = runner.blocks(adapter) if isinstance(runner, Breakable) else ()
    # A runner without blocks of those names: its first and its last block instead.
    parts = [part for part in PARTS if part in blocks] or list(dict.fromkeys([*blocks[:1], *blocks[-1:]]))
    without = [Target(adapter, fault=Fault(FaultKind.WITHOUT, part)) for part in parts]
    return [*without, *(Target(other) for other in others[:MOST_OTHERS])]


def _information(canary: GoldenCanary, answers: Sequence[Floats], benign: Floats, tolerance: float) -> Doubles:
    prepared = prepare(canary.reference)
    healthy = _vector(prepared, canary.reference.golden_adapter.log_probs)
    columns = [-prepared.delta, *(_vector(prepared, table) - healthy for table in answers)]
    noise = float(np.linalg.norm(_vector(prepared, benign) - healthy))
    return information(np.stack(columns, axis=1), tolerance * math.sqrt(prepared.energy) + noise)


def _vector(prepared: PreparedReference, table: Floats) -> Doubles:
    return prepared.vector(np.where(prepared.mask, table, 0.0).astype(np.float64) - prepared.base)


def _answers(
    runner: Runner, candidates: Sequence[GoldenCanary], target: Target, stop: Stop, shape: BatchShape | None = None
) -> list[Floats]:
    replays = [
        Replay(canary.id, canary.prompt, canary.forced, target, canary.reference.kept, canary.reference.listed)
        for canary in candidates
    ]
    answers = ask_all(runner, replays, stop, shape)
    tables = [summary(answers[replay]).log_probs for replay in replays]
    for canary, table in zip(candidates, tables, strict=True):
        finite(f"canary {canary.id}, {target}", table[canary.reference.kept >= 0])
    return tables
