"""gapwatch enrol: record what adapters do while they are known good. Nothing else writes golden records.

What is recorded, and how, is in probes/enrolment/; here are the options, the refusal to replace a record without a
reason, saving, and what is printed. All adapters of a base are enrolled over one runner, which loads the base once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.markup import escape

from agent.assemble import log_threshold
from agent.clock import Clock
from agent.config import Adapter, Config, Model, Skill, load
from agent.errors import Refused
from agent.lifecycle.history import record_enrolment
from agent.terminal.console import as_json, console, people_to_stderr, rows_table, say
from agent.terminal.enrol_progress import EnrolProgress
from agent.traffic.redaction import Redactor
from agent.worker.goldens import UNKEPT
from agent.worker.watched_bases import runner_of
from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.name_encoding import earlier_version
from detectors.records import Identity, NoiseFloor
from probes import errors as probe_errors
from probes.artefacts.base_files import resolve
from probes.artefacts.identity import adapter_hash
from probes.canaries.canary_file import CanarySet, read_canaries
from probes.canaries.exported_traffic import read_exported, together
from probes.enrolment.checkpoint import Checkpoint
from probes.enrolment.enrol import Request, begin, enrol
from probes.enrolment.noise_battery import SecondRunner
from probes.enrolment.settings import EnrolSettings
from probes.enrolment.workload import replays_by_stage
from probes.golden.archive import adapter_before, newest, save, time_after
from probes.golden.archive import load as load_golden
from probes.golden.record import Golden, short
from probes.golden.weights import accepted_adapter, folder_of, keep, keep_adapter
from probes.runner import Runner

UNMONITORABLE = 2
COLUMNS = ("benign configuration", "scale |s - 1|", "distortion sqrt(rho)", "base shift B", "mass outside")


@dataclass(frozen=True, slots=True)
class EnrolOptions:
    """Options of the command. replace: accept a new release, for the reason ``why``.

    select: choose the pool by the information of each canary per token; traffic: a file of production prompts to add
    to the candidates
    """

    replace: bool = False
    why: str = ""
    select: bool = False
    traffic: Path | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What came of one adapter.

    golden: what was recorded, None where it was refused; hash: of the record, "" unless it is in the folder
    weights: where the accepted base is kept; refused: why there is no record
    before: the record was there already, made from the same files and canaries and for the same reason
    """

    adapter: str
    golden: Golden | None = None
    hash: str = ""
    weights: str = ""
    refused: str = ""
    before: bool = False

    @property
    def facts(self) -> dict[str, object]:
        """For programs."""
        if self.golden is None:
            return {"adapter": self.adapter, "refused": self.refused}
        return _facts(self.golden, self.hash, self.weights) | ({"before": True} if self.before else {})


@dataclass(frozen=True, slots=True)
class BaseInMemory:
    """One base while its adapters are enrolled. runner: open; earlier: adapter -> its release before this one."""

    config: Config
    model: Model
    runner: Runner
    second: SecondRunner
    earlier: Mapping[str, list[Adapter]]


def enrol_adapter(path: Path, name: str, wish: EnrolOptions, json: bool) -> int:
    """Write a golden record and print what it can detect. 2 when the adapter cannot be monitored. Raises Refused."""
    return enrol_adapters(path, [name], wish, json)


def enrol_adapters(path: Path, names: Sequence[str], wish: EnrolOptions, json: bool) -> int:
    """A golden record of each adapter; of all in the configuration where none is named.

    2 when one of them cannot be monitored or is refused, which does not keep the others from being recorded. Raises
    Refused for options that make no sense and for a name that is not configured, and, where a single adapter is named,
    for one that was accepted already.
    """
    if json:
        people_to_stderr()
    config = load(path)
    _check_options(wish)
    chosen = [config.adapter(name) for name in config.names_of(names)]
    alone = len(names) == 1 == len(chosen)
    if alone:
        _check_wanted(config, *chosen[0], wish)
    outcomes = []
    for model in {model.name: model for model, _ in chosen}.values():
        adapters = [adapter for owner, adapter in chosen if owner is model]
        for outcome in _of_base(config, model, adapters, wish, alone):
            outcomes.append(outcome)
            if not json:
                _say(outcome)
    if json:
        as_json(outcomes[0].facts if alone else [outcome.facts for outcome in outcomes])
    return 0 if all(outcome.hash for outcome in outcomes) else UNMONITORABLE


def _check_options(wish: EnrolOptions) -> None:
    if wish.replace and not wish.why.strip():
        raise Refused("--why", repr(wish.why), "the reason why this release is accepted")
    if wish.traffic is not None and not wish.select:
        raise Refused(
            "--from-traffic", str(wish.traffic), "--select as well: its prompts are candidates to choose from"
        )


def _check_wanted(config: Config, model: Model, adapter: Adapter, wish: EnrolOptions) -> None:
    """A golden record is never replaced by accident, but one made in process is what an engine is measured against.
    Raises Refused."""
    previous = newest(config.probes.golden_dir, adapter.name)
    if previous and not wish.replace and _offline(config, model, previous) is None:
        raise Refused(
            f"adapter {adapter.name}", f"accepted already as {previous}", "--replace --why TEXT to accept a new release"
        )
    if adapter.canaries is None:
        raise Refused(f"adapter {adapter.name}: canaries", "nothing", "a JSONL file of prompts to replay")


def _offline(config: Config, model: Model, previous: str) -> Golden | None:
    """The newest record, where it was made in process and the adapter is now asked of a serving engine."""
    if not config.by_engine(model) or not previous:
        return None
    golden = load_golden(config.probes.golden_dir, previous)
    return None if golden.made_on else golden


def _of_base(
    config: Config, model: Model, adapters: Sequence[Adapter], wish: EnrolOptions, alone: bool
) -> Iterator[Enrolled]:
    """The adapters of one base, one after the other, over one runner. alone: a single adapter was named"""
    earlier = {adapter.name: _earlier(config, adapter) for adapter in adapters}
    beside = [release for releases in earlier.values() for release in releases]
    runner: Runner = runner_of(config, model.model_copy(update={"adapters": (*model.adapters, *beside)}), golden=False)
    runner.open()
    try:
        with SecondRunner(runner) as second:
            base = BaseInMemory(config, model, runner, second, earlier)
            stages = replays_by_stage(runner, EnrolSettings(base=model.name, at=0.0), len(model.adapters) - 1)
            with EnrolProgress(stages, len(adapters)) as progress:
                work = _Work(base, wish, progress, alone)
                begun = {adapter.name: work.begun(adapter) for adapter in adapters}
                second.restarts_once = True
                for adapter in adapters:
                    yield begun[adapter.name] or work.ended(adapter)
    finally:
        runner.close()


@dataclass(frozen=True, slots=True)
class _Work:
    """The adapters of one base in two rounds: all but the battery, then the battery, so that one restart serves all.

    What is wrong with one adapter alone is an outcome and no error. alone: a single adapter was named; accepted: what
    was in place when an adapter began
    """

    base: BaseInMemory
    wish: EnrolOptions
    progress: EnrolProgress
    alone: bool
    accepted: dict[str, Identity] = field(default_factory=dict)

    def begun(self, adapter: Adapter) -> Enrolled | None:
        """An outcome where there is one already: recorded before, or refused."""
        self.progress.turn_to(adapter.name)
        outcome = self._attempt(adapter, self._begin)
        if outcome is not None:
            self.progress.end()
        return outcome

    def ended(self, adapter: Adapter) -> Enrolled:
        self.progress.turn_to(adapter.name)
        outcome = self._attempt(adapter, self._end)
        self.progress.end()
        assert outcome is not None, "an adapter that has begun is recorded or refused"
        return outcome

    def _attempt(self, adapter: Adapter, step: Callable[[Adapter, Checkpoint], Enrolled | None]) -> Enrolled | None:
        config = self.base.config
        checkpoint = Checkpoint(
            config.probes.golden_dir, adapter.name, _setup(config), lambda words: say(escape(words))
        )
        try:
            return step(adapter, checkpoint)
        except probe_errors.Unreplayable as error:  # files that change, a stop: what is finished serves another try
            return Enrolled(adapter.name, refused=str(error))
        except (Refused, probe_errors.Refused, probe_errors.Unsupported) as error:
            checkpoint.remove()
            return Enrolled(adapter.name, refused=str(error))

    def _begin(self, adapter: Adapter, checkpoint: Checkpoint) -> Enrolled | None:
        base, wish = self.base, self.wish
        previous = newest(base.config.probes.golden_dir, adapter.name) or ""
        offline = _offline(base.config, base.model, previous)
        if (
            previous
            and not self.alone
            and offline is None
            and (golden := _recorded_before(base, adapter, previous, wish))
        ):
            return Enrolled(adapter.name, golden, previous, before=True)
        _check_wanted(base.config, base.model, adapter, wish)
        begin(self._request(adapter, previous), checkpoint)
        self.accepted[adapter.name] = base.runner.identity(adapter.name)
        return None

    def _end(self, adapter: Adapter, checkpoint: Checkpoint) -> Enrolled:
        base, config, name = self.base, self.base.config, adapter.name
        base.runner.refresh()
        if base.runner.identity(name) != self.accepted[name]:
            # Its steps would be made again after the restart that its battery is to be compared across.
            raise probe_errors.Unreplayable(name, "its files or those of its base changed meanwhile: start it again")
        request = self._request(adapter, newest(config.probes.golden_dir, name) or "")
        golden = enrol(request, checkpoint=checkpoint, second=base.second)
        # An unmonitorable one is not written: it would be the newest record, and a running agent would use it.
        hash_ = _keep(config, base.model, adapter, golden) if golden.power.monitorable else ""
        checkpoint.remove()
        if hash_:
            _note(config, adapter, replace(golden, hash=hash_))
        return Enrolled(name, golden, hash_, _weights(config, base.model, golden) if hash_ else "")

    def _request(self, adapter: Adapter, previous: str) -> Request:
        base, config, name = self.base, self.base.config, adapter.name
        settings = EnrolSettings(
            base=base.model.name,
            at=time_after(config.probes.golden_dir, previous, Clock().now()),
            why=self.wish.why,
            previous=previous,
            tolerances=_tolerances(config, adapter),
            log_threshold=log_threshold(config),
            token_budget=config.probes.token_budget_per_round,
            select=self.wish.select,
            composition=_composition(base, adapter),
        )
        others = _others((*base.model.adapters, *base.earlier[name]), adapter)
        canaries, show = _canaries(config, adapter, self.wish), self.progress.show
        offline = _offline(config, base.model, previous)
        return Request(base.runner, name, canaries, settings, others, show, lambda: False, offline)


def _composition(base: BaseInMemory, adapter: Adapter) -> dict[str, object]:
    """Of a skill, what it is a skill of; the composition itself is in the hash of its files."""
    if not isinstance(adapter, Skill):
        return {}
    recipe = next(own for own in base.model.compositions if own.name == adapter.composition).recipe
    return recipe.as_json([base.runner.identity(member.adapter).live_adapter for member in recipe.members])


def _others(adapters: Sequence[Adapter], own: Adapter) -> list[str]:
    """Names of the other adapters, those of one composition once: its skills have the same files, and none of them is
    mixed up with another."""
    others: dict[Path | str, str] = {}
    for other in adapters:
        if other.name != own.name and not (isinstance(other, Skill) and other.path == own.path):
            others.setdefault((other.path or other.name) if isinstance(other, Skill) else other.name, other.name)
    return list(others.values())


def _recorded_before(base: BaseInMemory, adapter: Adapter, previous: str, wish: EnrolOptions) -> Golden | None:
    """The newest record, where it is what this command would record: the same files, canaries, tolerance, choice and
    reason.

    So the command that was interrupted can be given again, and goes on with the adapters that are missing.
    """
    golden = load_golden(base.config.probes.golden_dir, previous)
    base.runner.refresh()
    present = base.runner.identity(adapter.name, golden.hash_scheme)
    live = present.live_base, present.live_adapter, present.live_tokenizer, present.live_template
    accepted = golden.base_hash, golden.adapter_hash, golden.tokenizer_files_hash, golden.template_hash
    # Of what a serving engine has loaded, most has no hash here.
    pairs = [(now, then) for now, then in zip(live, accepted, strict=True) if now or not golden.made_on]
    same = (
        all(now == then for now, then in pairs)
        and golden.tolerances == _tolerances(base.config, adapter)
        and adapter.canaries is not None
        and _canaries(base.config, adapter, wish).content_hash == golden.canary_set
        and golden.settings.get("select", False) == wish.select
        and (golden.why == wish.why or not wish.replace)
    )
    return golden if same else None


def _tolerances(config: Config, adapter: Adapter) -> Tolerances:
    return Tolerances(scale=adapter.tolerance, after_release=config.alerts.tolerance_after_release)


def _setup(config: Config) -> str:
    """How the runner computes, as far as it may move an answer by rounding: steps of another are not taken over."""
    probes = config.probes
    return f"{probes.runner} {dict(sorted(probes.runner_settings.items()))} {probes.device} {probes.attention}"


def _keep(config: Config, model: Model, adapter: Adapter, golden: Golden) -> str:
    """Store the adapter, the base if configured, then the record: one without its adapter is useless."""
    if adapter.path is not None:
        keep_adapter(adapter.path, config.probes.golden_dir, golden.adapter_hash, golden.hash_scheme)
    if config.keeps_weights(model) and model.path is not None and golden.base_hash:
        base = resolve(model.path, config.probes.cache_dir)
        keep(base, config.probes.golden_dir, golden.base_hash, golden.hash_scheme)
    return save(golden, config.probes.golden_dir)


def _note(config: Config, adapter: Adapter, golden: Golden) -> None:
    """Into its passport, where it has one. A damaged one does not undo what was recorded."""
    try:
        record_enrolment(config.probes.golden_dir, golden, adapter.path, Clock().today())
    except Refused as error:
        say(escape(f"not written into its passport: {error}"))


def _weights(config: Config, model: Model, golden: Golden) -> str:
    """Where the accepted base is kept and its size, or what follows from not keeping it; "" where it is not needed."""
    if not golden.base_hash:  # which an engine does not tell
        return ""
    if config.keeps_weights(model):
        folder = folder_of(config.probes.golden_dir, golden.base_hash)
        files = [file.stat() for file in folder.iterdir()]
        linked = ", hard links to its files" if all(file.st_nlink > 1 for file in files) else ""
        return f"base kept in {folder}: {sum(file.st_size for file in files) / 1e9:.2f} GB{linked}"
    if config.scores(model) and model.golden_path is None:
        return f"base not kept (probes.keep_golden_weights is false): {UNKEPT}"
    return ""


def _canaries(config: Config, adapter: Adapter, wish: EnrolOptions) -> CanarySet:
    """Canaries and candidates. Production prompts are redacted first: the golden record stores the chosen ones."""
    own = read_canaries(adapter.canaries or Path())
    if wish.traffic is None:
        return own
    return together(own, read_exported(wish.traffic, adapter.name, Redactor(config.sampling.redact).turn))


def _earlier(config: Config, adapter: Adapter) -> list[Adapter]:
    """The release before this one as another adapter, "NAME@HASH", so that a stale version is named as a cause.

    Only where its files were kept.
    """
    previous = newest(config.probes.golden_dir, adapter.name)
    if not previous or adapter.path is None:
        return []
    try:
        before = adapter_before(config.probes.golden_dir, previous, partial(_is_of, adapter.path))
    except probe_errors.Refused as error:  # a damaged record must not prevent a new one
        say(escape(f"the release before this one cannot be read: {error}"))
        return []
    folder = accepted_adapter(config.probes.golden_dir, before) if before else None
    if before is None or folder is None:
        return []
    name = earlier_version(adapter.name, short(before.adapter_hash))
    return [adapter.model_copy(update={"name": name, "path": folder})]


def _is_of(files: Path, golden: Golden) -> bool:
    return adapter_hash(files, golden.hash_scheme) == golden.adapter_hash


def _facts(golden: Golden, hash_: str, weights: str) -> dict[str, object]:
    return {
        "adapter": golden.adapter,
        "golden": hash_,
        "base": golden.base_hash,
        "canaries": {"selected": len(golden.pool), "held_out": len(golden.held_out), "excluded": len(golden.excluded)},
        "power": golden.power.words,
        "monitorable": golden.power.monitorable,
        "battery": {name: asdict(floor) for name, floor in golden.noise.items()},
        "not_recorded": list(golden.unrecorded),
        **({"made_on": golden.made_on, "offline": golden.offline} if golden.made_on else {}),
        "weights": weights,
    }


def _say(outcome: Enrolled) -> None:
    golden, name = outcome.golden, escape(outcome.adapter)
    if golden is None:
        say(f"[bold]{name}[/bold] [red]refused:[/red] {escape(outcome.refused)}")
        return
    if outcome.before:
        say(f"[bold]{name}[/bold] recorded before as {outcome.hash}, from the same files and canaries")
        return
    say(f"[bold]{name}[/bold] {f'recorded as {outcome.hash}' if outcome.hash else 'not recorded'}")
    say(golden.power.words)
    if golden.made_on:
        against = f", measured against {golden.offline}, made in process" if golden.offline else ""
        say(escape(f"made on {golden.made_on}{against}"))
    rows = [(how, *_shown(floor)) for how, floor in golden.noise.items()]
    console.print(rows_table(COLUMNS, rows, "largest change of any canary in each benign configuration"))
    others = ", ".join(golden.canaries[0].reference.others) or "none"
    say(escape(f"recorded to name a cause: {len(golden.scales)} strengths, other adapters {others}"))
    for missing in golden.unrecorded:
        say(escape(f"not recorded: {missing}"))
    if outcome.weights:
        say(escape(outcome.weights))
    if outcome.hash:
        say(f'pin it:  golden: "{outcome.hash}"')


def _shown(floor: NoiseFloor) -> tuple[str, ...]:
    """In the order of ``COLUMNS``."""
    figures = (floor.scale, floor.distortion, floor.base_shift, floor.mass_outside)
    return tuple(f"{figure:.2g}" for figure in figures)
