"""Golden records: what was recorded of an adapter when it was accepted; immutable, named by the hash of the content.

The records and pure functions of them; ``codec.py`` turns them into bytes, ``archive.py`` stores the bytes. A new field
needs a default that stands for "not recorded" and may not be written where it has that value (``codec.py``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from shlex import quote

from detectors.canaries.tolerance import Tolerances
from detectors.records import CanarySplit, Fault, Identity, NoiseFloor, Reason, Reference
from probes.errors import Refused
from probes.golden.statistical_power import StatisticalPower
from probes.runner import Runner

# Letters of several scripts, digits, spaces, brackets and a line break: two tokenizers that encode and decode all of it
# alike count as the same. The template is left out: it has a hash of its own (``template_hash``), and each round
# measures what another one changes (probes/canaries/round.py).
PROBE_TEXT = (
    'The 3 quick foxes jumped 1,024 times!\n{"größe": [naïve, Привет, 数据, 🦊]}  def f(x): return x**2 <|x|> \t_end'
)


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCanary:
    """One canary as accepted.

    prompt, forced: token ids of the rendered prompt and of the T scored positions of the golden adapter's own greedy
    continuation; unscored: those of the continuation after them, empty where all of it is scored, and in records made
    before a canary could be scored in part
    prompt_text, golden_text: prompt and whole continuation (end of text included) as text
    messages: the chat turns that the prompt was rendered from; expect: what the canary's own check requires
    (probes/canaries/answer_check.py); both empty in records made before they were stored
    cut: the continuation had not ended at the bound of its enrolment; records made before hold none that is cut
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
    unscored: tuple[int, ...] = ()
    cut: bool = False

    @property
    def continuation(self) -> tuple[int, ...]:
        """All token ids of the golden answer, scored or not."""
        return (*self.forced, *self.unscored)


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """All that enrolment recorded of one adapter.

    base: the base's name; *_hash: "sha256:..." of what was accepted ("" where the runner cannot know)
    rank, alpha: of the LoRA, 0 where unknown; scales: (S,) ascending, of the recorded curve
    noise: benign configuration -> the largest figures of any canary under it
    why, previous: reason and hash of the record that this one replaces ("" for the first)
    excluded: canary id -> why it is in neither half; settings: of the enrolment, to repeat it
    unrecorded: other adapters that were not recorded, and checks of answers that were cut, and why, in words; in
    records of earlier versions signatures too
    hash_scheme: of base_hash, adapter_hash, tokenizer_files_hash and template_hash (probes/artefacts/identity.py); 1 in
    records that do not name it
    tokenizer_hash: of what the tokenizer does with a fixed text; tokenizer_files_hash, template_hash: of the files, ""
    in records of scheme 1
    base_grid: how the base's weights are quantised (``Identity.golden_grid``), "" in records made before it was read
    made_on: the serving engine that answered, its version and the route, in words; "" where the runner held the models
    itself; offline: hash of the record made in process that the engine was measured against, "" for none
    kernel: in which numbers, by which attention and on which kind of device it was recorded (``Computing.kernel``), ""
    in records made before that was recorded and where an engine answered
    engine, source: what that engine said of itself and of the adapter (``Identity``), "" where it was not asked
    composition: of the record of a composition's skill: its members with weights and hashes, method, parameters and
    identity (probes/composition/recipe.py); empty for an adapter
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
    base_grid: str = ""
    made_on: str = ""
    offline: str = ""
    engine: str = ""
    source: str = ""
    kernel: str = ""
    composition: Mapping[str, object] = field(default_factory=dict)
    hash: str = ""

    @property
    def pool(self) -> tuple[GoldenCanary, ...]:
        """The selected half, from which evidence is drawn."""
        return tuple(canary for canary in self.canaries if canary.split is CanarySplit.SELECTED)

    @property
    def held_out(self) -> tuple[GoldenCanary, ...]:
        """The held-out half, on which retention and its interval are computed."""
        return tuple(canary for canary in self.canaries if canary.split is CanarySplit.HELD_OUT)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults with a recorded signature, sorted."""
        return tuple(sorted({fault for canary in self.held_out for fault in canary.reference.faults}))

    @property
    def weights(self) -> dict[str, float]:
        """Member -> its weight in the composition that this is a skill of; nothing for an adapter."""
        rows = self.composition.get("members", ())
        assert isinstance(rows, list | tuple)
        return {str(row["adapter"]): float(row["weight"]) for row in rows}

    def canary(self, name: str) -> GoldenCanary:
        return next(canary for canary in self.canaries if canary.id == name)


@dataclass(frozen=True, slots=True)
class Unmonitorable:
    """Why an adapter cannot be measured now, in place of a golden record or of an answer. detail: in words."""

    reason: Reason
    detail: str


def tokenizer_fingerprint(runner: Runner) -> str:
    """A hash of how the runner's tokenizer encodes and decodes a fixed text; for any runner, with or without files."""
    ids = tuple(runner.encode(PROBE_TEXT))
    behaviour = [[int(token) for token in ids], runner.decode(ids), [runner.decode((token,)) for token in ids]]
    return "sha256:" + hashlib.sha256(json.dumps(behaviour).encode()).hexdigest()


def check_identity(golden: Golden, runner: Runner) -> list[str]:
    """What differs between the accepted artefacts and the present ones, in words; empty when nothing does.

    Another base or adapter is the fault to watch for, and only stated here. Another tokenizer raises Refused: the same
    token ids would stand for other text, and no comparison would be valid.
    """
    present = tokenizer_fingerprint(runner)
    if present != golden.tokenizer_hash:
        raise Refused(
            f"golden record of {golden.adapter}",
            f"one made with tokenizer {short(golden.tokenizer_hash)}",
            f"one made with the present tokenizer {short(present)}: put the accepted tokenizer back, or record what "
            f"the adapter does now with `gapwatch enrol {quote(golden.adapter)} --replace --why TEXT`",
        )
    identity = identity_of(golden, runner)
    parts = [
        (identity.base_moved, "base weights are", identity.live_base, "were", identity.golden_base),
        (identity.adapter_moved, "adapter files are", identity.live_adapter, "were", identity.golden_adapter),
        (identity.tokenizer_moved, "tokenizer files are", identity.live_tokenizer, "were", identity.golden_tokenizer),
        (identity.template_moved, "chat template is", identity.live_template, "was", identity.golden_template),
    ]
    return [
        f"{part} {short(present)}, accepted {verb} {short(accepted)}"
        for moved, part, present, verb, accepted in parts
        if moved
    ]


def check_made_in_process(golden: Golden) -> None:
    """Before evidence is drawn from what the files answer. Raises Refused for a record that was made on an engine: its
    noise floor is that between answers of this engine, and what an engine does not list is counted at the last value
    that it lists, so that healthy files can be beyond tolerance."""
    if not golden.made_on:
        return
    again = f"`gapwatch enrol {quote(golden.adapter)} --replace --why TEXT` with this configuration"
    wanted = f"one made in process: {again}. Enrolling through the engine afterwards keeps it and measures the engine"
    raise Refused(
        f"golden record of {golden.adapter}",
        f"one made on {golden.made_on}",
        f"the one made in process that it was measured against, {golden.offline}, in probes.golden_dir"
        if golden.offline
        else wanted,
    )


def identity_of(golden: Golden, runner: Runner) -> Identity:
    """Hashes of what was accepted beside those of the present files, by the record's scheme.

    A hash that the record lacks is taken from the runner's golden base, and so is a grid, where that base is the
    accepted one.
    """
    present = runner.identity(golden.adapter, golden.hash_scheme)
    known_grid = present.golden_grid if present.golden_base == golden.base_hash else ""
    return replace(
        present,
        golden_base=golden.base_hash,
        golden_adapter=golden.adapter_hash,
        golden_tokenizer=golden.tokenizer_files_hash or present.golden_tokenizer,
        golden_template=golden.template_hash or present.golden_template,
        golden_grid=golden.base_grid or known_grid,
        golden_engine=golden.engine,
        golden_source=golden.source,
    )


def short(content_hash: str) -> str:
    """The first twelve hexadecimal digits, for people."""
    return content_hash.removeprefix("sha256:")[:12]
