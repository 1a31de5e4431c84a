"""How is an enrolment done? Its settings, and what each of its steps is given.

A golden record stores the settings that it was made with, by their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from detectors.canaries.tolerance import Tolerances
from probes.canaries.replay_pairs import Progress
from probes.enrolment.noise_battery import SAMPLE
from probes.errors import Refused
from probes.runner import Runner, Stop


@dataclass(frozen=True, slots=True)
class EnrolSettings:
    """How to enrol. Raises Refused for bounds that exclude everything.

    base: the base's name; at: now, seconds since the epoch
    why, previous: reason, and hash of the record that is replaced; "" for a first one
    per_half: canaries wanted in each half; min_pool: fewest accepted (with 12 one benign outlier is 8 % of the pool)
    min_tokens, max_new_tokens: fewest tokens of a usable continuation, end of text included, and where a longer one is
    cut
    min_energy: least |delta|^2 a scored position, nats squared (.01: the adapter moves log-probabilities by a tenth)
    top: tokens kept of adapter and of base; log_threshold: ln A of the fleet; token_budget: scored positions a round
    battery: names of the benign configurations to replay, all of them when empty; battery_canaries: how many canaries
    are replayed in each
    whole_share: of each half whose whole continuation is scored, the first tokens of the others alone
    (probes/enrolment/scored_prefix.py); in [0, 1]
    composition: what is enrolled is a skill of, as the record stores it; empty for an adapter
    select: choose the pool from all candidates by information per token (probes/enrolment/d_optimal.py), within
    pool_tokens tokens, prompts included (0: as many as per_half average ones have); the held-out half stays random
    """

    base: str
    at: float
    why: str = ""
    previous: str = ""
    tolerances: Tolerances = field(default_factory=Tolerances)
    per_half: int = 24
    min_pool: int = 24
    min_tokens: int = 12
    max_new_tokens: int = 40
    min_energy: float = 0.01
    top: int = 20
    seed: int = 0
    log_threshold: float = 21.5
    token_budget: int = 512
    battery: tuple[str, ...] = ()
    battery_canaries: int = SAMPLE
    select: bool = False
    pool_tokens: int = 0
    whole_share: float = 0.25
    composition: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2 <= self.min_pool <= self.per_half:
            raise Refused("canaries in each half", f"{self.min_pool} to {self.per_half}", "2 <= min_pool <= per_half")
        if not 1 <= self.min_tokens <= self.max_new_tokens:
            raise Refused("tokens of a continuation", f"{self.min_tokens} to {self.max_new_tokens}", "1 <= min <= max")
        if not 0 <= self.whole_share <= 1:
            raise Refused("share of canaries that are scored whole", self.whole_share, "a share in [0, 1]")


@dataclass(frozen=True, slots=True)
class EnrolmentContext:
    """What every step of one enrolment needs.

    others: names of the other registered adapters that are recorded on the canaries
    progress: called with (stage, done, total); stop: looked at between batches
    """

    runner: Runner
    adapter: str
    others: Sequence[str]
    progress: Progress
    stop: Stop
