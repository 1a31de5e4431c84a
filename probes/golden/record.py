"""Golden records: what an adapter was accepted for, frozen, and found again by the hash of its content.

The records and the pure steps on them; ``codec.py`` writes them down, ``archive.py`` keeps them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from shlex import quote

from detectors.canaries.tolerance import Tolerances
from detectors.records import CanarySplit, Comparison, Fault, Identity, NoiseFloor, Reason, Reference, Summary
from probes.errors import Refused
from probes.golden.statistical_power import StatisticalPower
from probes.runner import Runner

# Letters of several scripts, digits, spaces, brackets and a line break: two tokenizers that cut all of it alike and
# join it again alike are the same one for our purpose. The template is left out: canaries are replayed from token ids,
# and templates that write the date would change every day.
PROBE_TEXT = (
    'The 3 quick foxes jumped 1,024 times!\n{"größe": [naïve, Привет, 数据, 🦊]}  def f(x): return x**2 <|x|> \t_end'
)


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCanary:
    """One canary as accepted.

    prompt, forced: token ids of the rendered prompt and of the golden adapter's own greedy continuation (T scored
    positions, end of text included); prompt_text, golden_text: the same for people
    messages: the chat turns that the prompt was rendered from; expect: what the canary's own check wants to see
    (probes/canaries/answer_check.py); both empty in records made before they were kept
    """

    id: str
    split: CanarySplit
    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    prompt_text: str
    golden_text: str
    reference: Reference
    messages: tuple[Mapping[str, str], ...] = ()
    expect: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """All that enrolment recorded of one adapter.

    base: the base's name; *_hash: "sha256:..." of what was accepted ("" where the runner cannot know)
    rank, alpha: of the LoRA, 0 where unknown; scales: (S,) ascending, of the recorded curve
    noise: benign configuration -> the largest figures of any canary under it
    why, previous: reason and hash of the record that this one replaces ("" for the first)
    excluded: canary id -> why it is in neither half; settings: of the enrolment, for whoever repeats it
    unrecorded: signatures that could not be recorded, and why, in words
    hash_scheme: by which base_hash, adapter_hash and the two after it were made (probes/artefacts/identity.py); 1 in
    records that do not say
    tokenizer_files_hash, template_hash: of the files, where ``tokenizer_hash`` is of what the tokenizer does with a
    fixed text; "" in records of scheme 1
    hash: "sha256:..." of the record's own bytes; "" for one that was never written
    """

    adapter: str
    base: str
    base_hash: str
    tokenizer_hash: str
    adapter_hash: str
    rank: int
    alpha: float
    scales: tuple[float, ...]
    canaries: tuple[GoldenCanary, ...]
    canary_set: str
    tolerances: Tolerances
    noise: Mapping[str, NoiseFloor]
    power: StatisticalPower
    created_at: float
    why: str = ""
    previous: str = ""
    excluded: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    unrecorded: tuple[str, ...] = ()
    hash_scheme: int = 1
    tokenizer_files_hash: str = ""
    template_hash: str = ""
    hash: str = ""

    @property
    def pool(self) -> tuple[GoldenCanary, ...]:
        """The selected half, that evidence is drawn from."""
        return tuple(canary for canary in self.canaries if canary.split is CanarySplit.SELECTED)

    @property
    def held_out(self) -> tuple[GoldenCanary, ...]:
        """The half that retention's interval comes from."""
        return tuple(canary for canary in self.canaries if canary.split is CanarySplit.HELD_OUT)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Of which there is a signature, in order."""
        return tuple(sorted({fault for canary in self.held_out for fault in canary.reference.faults}))

    def canary(self, name: str) -> GoldenCanary:
        return next(canary for canary in self.canaries if canary.id == name)


@dataclass(frozen=True, slots=True)
class Unmonitorable:
    """Why there is no golden record to compare with. reason: NO_GOLDEN or GOLDEN_REFUSED; detail: in words."""

    reason: Reason
    detail: str


def tokenizer_fingerprint(runner: Runner) -> str:
    """A hash of how the runner's tokenizer cuts and joins a fixed text; works for any runner, with or without files."""
    ids = tuple(runner.encode(PROBE_TEXT))
    seen = [[int(token) for token in ids], runner.decode(ids), [runner.decode((token,)) for token in ids]]
    return "sha256:" + hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def check_identity(golden: Golden, runner: Runner) -> list[str]:
    """What differs between the accepted artefacts and those that lie there now, in words; empty when nothing does.

    Another base or adapter is the very fault to watch and only a fact. Another tokenizer raises Refused: token ids
    would mean other words, and no comparison would mean anything.
    """
    present = tokenizer_fingerprint(runner)
    if present != golden.tokenizer_hash:
        raise Refused(
            f"golden record of {golden.adapter}",
            f"one made with tokenizer {short(golden.tokenizer_hash)}",
            f"one made with the present tokenizer {short(present)}: put the accepted tokenizer back, or record what "
            f"the adapter does now with `gapwatch enrol {quote(golden.adapter)} --replace --why TEXT`",
        )
    seen = identity_of(golden, runner)
    told = [
        (seen.base_moved, "base weights are", seen.live_base, "were", seen.golden_base),
        (seen.adapter_moved, "adapter files are", seen.live_adapter, "were", seen.golden_adapter),
        (seen.tokenizer_moved, "tokenizer files are", seen.live_tokenizer, "were", seen.golden_tokenizer),
        (seen.template_moved, "chat template is", seen.live_template, "was", seen.golden_template),
    ]
    return [f"{what} {short(now)}, accepted {verb} {short(before)}" for moved, what, now, verb, before in told if moved]


def identity_of(golden: Golden, runner: Runner) -> Identity:
    """What was accepted beside what lies there now, by the record's scheme. What a record does not name is taken as the
    runner's golden base has it."""
    seen = runner.identity(golden.adapter, golden.hash_scheme)
    return replace(
        seen,
        golden_base=golden.base_hash,
        golden_adapter=golden.adapter_hash,
        golden_tokenizer=golden.tokenizer_files_hash or seen.golden_tokenizer,
        golden_template=golden.template_hash or seen.golden_template,
    )


def short(content_hash: str) -> str:
    """The first twelve digits, for people."""
    return content_hash.removeprefix("sha256:")[:12]


def compare(
    golden: GoldenCanary, draws: int, served: Summary, live_base: Summary, adapter: str, at: float
) -> Comparison:
    """The four reference points of one canary in one round.

    draws: how often it was drawn, 0 for a held-out one; served, live_base: what answers under the two names now;
    at: when, seconds since the epoch
    """
    return Comparison(adapter, golden.reference, draws, served, live_base, at)
