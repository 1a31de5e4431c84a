"""A successor on another base, from what was kept of an adapter: candidates, each assessed on the held-out canaries.

In this order, because each costs more than the one before: the adapter as it is; the adapter in the new base's
coordinates, where a permutation or rotation explains them; one that is trained to the accepted answers, which is left
out where an earlier one keeps all of the effect. They are ranked by what counts, and never by the loss of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from probes.artefacts.identity import ADAPTER_CONFIG
from probes.artefacts.lora_files import LowRankUpdate, read_adapter
from probes.artefacts.safetensors_header import read_json
from probes.canaries.canary_file import Canary
from probes.canaries.rendering import prompt_of, rendered_by
from probes.canaries.replay_pairs import Progress
from probes.errors import ProbeError, Refused, Unreplayable, Unsupported, size
from probes.golden.record import Golden, tokenizer_fingerprint
from probes.model.adapter_parts.low_rank import linear_shape
from probes.model.build import Placement, build, read_base
from probes.model.device_memory import card_of, check_available
from probes.model.forward import Model
from probes.model.free_memory import check_free
from probes.rebuild import acceptance_file
from probes.rebuild import lessons as lesson_file
from probes.rebuild.acceptance import SPECIAL_END, Acceptance, AcceptanceRules, assess, failures
from probes.rebuild.base_tensors import BaseTensors
from probes.rebuild.candidates import plain_copy, re_expressed, write_adapter
from probes.rebuild.coordinates import Coordinates, solve
from probes.rebuild.lessons import Lesson, of_copies, of_record, retokenised
from probes.rebuild.prompts import Turns, recorded, written
from probes.rebuild.training import Recipe, Trained, Training, fresh_updates, needed_bytes, train
from probes.runner import Runner, Stop
from probes.runners.in_process import Runner as InProcess

PLAIN, RE_EXPRESSED, RETRAINED = "plain copy", "re-expressed", "retrained"
FOLDERS = {PLAIN: "plain", RE_EXPRESSED: "re-expressed", RETRAINED: "retrained"}
UNFINISHED = "unfinished"
# A candidate that keeps so much, at its interval's lower end and without a flip, is not trained further.
ALL_OF_IT = 0.97


class MakeRunner(Protocol):
    """A runner over a base's folder and adapters' folders by name, not yet open."""

    def __call__(self, base: Path, adapters: Mapping[str, Path]) -> Runner: ...


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """What was kept of the adapter. files: its accepted folder; base: the accepted base's, None where it is not kept

    canaries: of its canary file; prompts: other ones that it may be asked
    """

    golden: Golden
    files: Path
    base: Path | None
    canaries: Sequence[Canary] = ()
    prompts: Sequence[Turns] = ()


@dataclass(frozen=True, slots=True)
class NewBase:
    """folder: of the base that the successor is to run on; name, revision: by which its files call it"""

    folder: Path
    name: str
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """written: prompts that the accepted base is to write; most_tokens: of an answer; always: train in any case

    trained: may anything be trained?
    """

    recipe: Recipe = field(default_factory=Recipe)
    rules: AcceptanceRules = field(default_factory=AcceptanceRules)
    written: int = 48
    most_tokens: int = 40
    trained: bool = True
    always: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """One of them, assessed. failures: why it is not accepted, none where it is"""

    name: str
    folder: Path
    acceptance: Acceptance
    failures: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Rebuilt:
    """candidates: the best first; move: what became of the coordinates, in words; notes: what was left out and why

    lessons: how many texts it was trained on; trained: how that went, None where nothing was
    """

    candidates: tuple[Candidate, ...]
    move: str
    notes: tuple[str, ...]
    lessons: int = 0
    trained: Trained | None = None

    @property
    def successor(self) -> Candidate | None:
        """The best one that is accepted."""
        return next((own for own in self.candidates if not own.failures), None)


@dataclass(frozen=True, slots=True)
class Working:
    """What every step is given. say: told in words what is known before it takes time or memory"""

    make: MakeRunner
    placement: Placement
    out: Path
    progress: Progress
    say: Callable[[str], object]
    stop: Stop


def rebuild(kept: Kept, new: NewBase, wish: Wish, work: Working) -> Rebuilt | None:
    """All candidates, assessed; None when it was stopped, and then the same call goes on where it was.

    Raises Unreplayable, Unsupported or Refused for a base or files that cannot be used, NoMemory before training that
    would not fit.
    """
    move, notes = _move(kept, new)
    work.say(f"coordinates: {move.words if move else notes[-1]}")
    folders = _untrained(kept, new, move, work, notes)
    candidates = _assessed(kept, new, folders, wish, work)
    if candidates is None:
        return None
    if wish.trained and (wish.always or not any(map(_keeps_all, candidates))):
        start = folders.get(RE_EXPRESSED) or folders[PLAIN]
        comparable = _same_tokenizer(kept, new, candidates, work)
        done = _trained(kept, new, start, comparable, wish, work, notes)
        if done is None:
            return None
        trained, count = done
        folder = _write_trained(kept, new, trained, work.out / FOLDERS[RETRAINED])
        more = _assessed(kept, new, {RETRAINED: folder}, wish, work)
        if more is None:
            return None
        candidates += more
    else:
        trained, count = None, 0
    best_first = sorted(candidates, key=lambda own: (bool(own.failures), own.acceptance.rank))
    return Rebuilt(tuple(best_first), move.words if move else "", tuple(notes), count, trained)


def _move(kept: Kept, new: NewBase) -> tuple[Coordinates | None, list[str]]:
    if kept.base is None:
        return None, ["the accepted base is not kept, so its coordinates cannot be compared with the new one's"]
    try:
        return solve(BaseTensors(kept.base), BaseTensors(new.folder), read_adapter(kept.files).low_rank), []
    except (Unreplayable, Unsupported) as error:
        return None, [f"no coordinates: {error}"]


def _untrained(kept: Kept, new: NewBase, move: Coordinates | None, work: Working, notes: list[str]) -> dict[str, Path]:
    folders = {PLAIN: plain_copy(kept.files, work.out / FOLDERS[PLAIN], new.name, new.revision)}
    if move is not None and move.explained and move.kind != "same":
        try:
            folder = work.out / FOLDERS[RE_EXPRESSED]
            folders[RE_EXPRESSED] = re_expressed(kept.files, folder, move, new.name, new.revision)
        except Unsupported as error:
            notes.append(f"not re-expressed: {error}")
    return folders


def _assessed(
    kept: Kept, new: NewBase, folders: Mapping[str, Path], wish: Wish, work: Working
) -> list[Candidate] | None:
    """Each by itself on the same loaded base; one that cannot be replayed there is no candidate. None when stopped."""
    runner = work.make(new.folder, folders)
    runner.open()
    candidates = []
    try:
        for name, folder in folders.items():
            try:
                done = _acceptance(kept.golden, runner, name, work)
                candidates.append(Candidate(name, folder, done, failures(done, wish.rules)))
            except ProbeError as error:
                if not work.stop():
                    work.say(f"{name}: not a candidate: {error}")
            if work.stop():
                return None
    finally:
        runner.close()
    return candidates


def _acceptance(golden: Golden, runner: Runner, name: str, work: Working) -> Acceptance:
    """What an earlier call measured of the same candidate, else what is measured now. Raises as ``assess`` does."""
    runner.refresh()
    own = runner.identity(name)
    made_from = {"golden": golden.hash, "base": own.live_base, "adapter": own.live_adapter}
    made_from |= {"tokenizer": own.live_tokenizer, "template": own.live_template}
    file = work.out / UNFINISHED / f"{FOLDERS[name]}.json"
    if (before := acceptance_file.read(file, made_from)) is not None:
        return before
    done = assess(runner, name, golden, work.stop)
    acceptance_file.write(file, done, made_from)
    return done


def _keeps_all(candidate: Candidate) -> bool:
    done = candidate.acceptance
    return not candidate.failures and not done.flips and done.retention is not None and done.retention.low >= ALL_OF_IT


def _trained(
    kept: Kept, new: NewBase, start: Path, comparable: bool, wish: Wish, work: Working, notes: list[str]
) -> tuple[Trained, int] | None:
    """The trained factors, and on how many texts; None when stopped. comparable: with the record's tokenizer?"""
    texts = _lessons(kept, new, comparable, wish, work, notes)
    if texts is None:
        return None
    placement = _for_training(work.placement)
    model = build(read_base(new.folder, placement.dtype), placement)
    updates = _start(model, kept, start, wish.recipe, notes)
    numbers = sum(part.a.numel() + part.b.numel() for part in updates.values())
    needed = needed_bytes(model, texts, wish.recipe, numbers)
    work.say(
        f"training: {len(texts)} texts, {wish.recipe.steps} steps of {wish.recipe.batch}, {numbers} numbers in "
        f"{len(updates)} modules; about {size(needed)} beside the base's {size(model.bytes)}"
    )
    if placement.device.type == "cpu":
        check_free(str(new.folder), needed)
    else:
        check_available(str(new.folder), needed, card_of(placement.device))
    checkpoint = work.out / UNFINISHED / "training.safetensors"
    wanted = Training(updates, texts, wish.recipe, model.hash, checkpoint)
    trained = train(model, wanted, work.stop, work.progress)
    return None if trained is None else (trained, len(texts))


def _for_training(placement: Placement) -> Placement:
    """In plain numbers: a product of split halves has no gradient."""
    return replace(placement, split=False, is_chosen=False) if placement.split else placement


def _lessons(
    kept: Kept, new: NewBase, comparable: bool, wish: Wish, work: Working, notes: list[str]
) -> list[Lesson] | None:
    """From the record, and from the copies where they are kept; by the new base's own tokens where they are others."""
    of_texts = _from_copies(kept, wish, work, notes)
    if of_texts is None:
        return None
    every = [*of_record(kept.golden), *of_texts]
    if comparable:
        return every
    if kept.base is None:
        raise Refused(
            str(new.folder),
            "another tokenizer than the record's",
            "the accepted base too, to read the texts by (--from)",
        )
    notes.append("another tokenizer: trained on the accepted texts, not on their log-probabilities")
    return _by_other_tokens(kept, new, every, work)


def _from_copies(kept: Kept, wish: Wish, work: Working, notes: list[str]) -> list[Lesson] | None:
    golden = kept.golden
    if kept.base is None:
        notes.append(
            "trained on the record's own canaries alone: the accepted base is not kept, so nothing else can be answered"
        )
        return []
    file = work.out / UNFINISHED / "lessons.safetensors"
    turns = recorded(golden, kept.canaries, kept.prompts)
    made_from = {
        "golden": golden.hash,
        "adapter": golden.adapter_hash,
        "prompts": [[dict(turn) for turn in own] for own in turns],
        "written": wish.written,
        "seed": wish.recipe.seed,
        "most_tokens": wish.most_tokens,
    }
    if (before := lesson_file.read(file, made_from)) is not None:
        return before
    runner = work.make(kept.base, {golden.adapter: kept.files})
    runner.open()
    try:
        if golden.adapter not in (ready := runner.refresh()) or (why := ready[golden.adapter].blocked):
            raise Unreplayable(str(kept.files), f"the accepted copies cannot be replayed ({why})")
        if wish.written and turns:
            turns += _made_up(kept, runner, turns, wish, work)
        rendered = _rendered(runner, turns, wish.most_tokens, notes)
        answered = of_copies(runner, golden.adapter, rendered, wish.most_tokens, work.stop, work.progress)
    finally:
        runner.close()
    if work.stop():
        return None
    lesson_file.write(file, answered, made_from)
    return answered


def _rendered(runner: Runner, turns: Sequence[Turns], most: int, notes: list[str]) -> dict[tuple[int, ...], Turns]:
    """Token ids -> the turns that they were rendered from. One that this base cannot read is left out: of production's
    requests some are longer than its context."""
    rendered, refused = dict[tuple[int, ...], Turns](), list[str]()
    for own in turns:
        try:
            rendered.setdefault(prompt_of(runner, "of these", own, most), own)
        except Unreplayable as error:
            if not error.path.startswith("canary "):
                raise
            refused.append(error.why)
    if refused:
        notes.append(f"{len(refused)} of {len(turns)} prompts are left out: {refused[0]}")
    return rendered


def _made_up(kept: Kept, runner: Runner, turns: Sequence[Turns], wish: Wish, work: Working) -> list[Turns]:
    """By the accepted base, without an adapter. None of them is a held-out canary's prompt."""
    model, seed = _base_in_memory(kept, runner, work), wish.recipe.seed
    made = written(model, runner, turns, wish.written, seed, work.progress, work.stop)
    held_out = {canary.messages[-1]["content"] for canary in kept.golden.held_out if canary.messages}
    return [own for own in made if own[-1]["content"] not in held_out]


def _base_in_memory(kept: Kept, runner: Runner, work: Working) -> Model:
    """The runner's own where it holds one here: a second copy would take twice the memory."""
    assert kept.base is not None
    if isinstance(runner, InProcess) and runner.loaded.live is not None:
        return runner.loaded.live
    return build(read_base(kept.base, work.placement.dtype), work.placement)


def _same_tokenizer(kept: Kept, new: NewBase, candidates: Sequence[Candidate], work: Working) -> bool:
    """Do token ids mean the same on the new base? As the assessment found; else it is loaded for that."""
    if candidates:
        return any(own.acceptance.of_effect is not None for own in candidates)
    runner = work.make(new.folder, {})
    runner.open()
    try:
        runner.refresh()
        return tokenizer_fingerprint(runner) == kept.golden.tokenizer_hash
    finally:
        runner.close()


def _by_other_tokens(kept: Kept, new: NewBase, every: Sequence[Lesson], work: Working) -> list[Lesson]:
    """The same texts in the new base's tokens. Chats are rendered by its own template."""
    assert kept.base is not None
    old, other = work.make(kept.base, {}), work.make(new.folder, {})
    texts = []
    old.open()
    try:
        old.refresh()
        texts = [(lesson.turns, old.decode(lesson.prompt), old.decode(lesson.forced)) for lesson in every]
    finally:
        old.close()
    other.open()
    try:
        other.refresh()
        end = other.end_of_answer() if isinstance(other, InProcess) else None
        return retokenised([_other_tokens(other, end, *text) for text in texts])
    finally:
        other.close()


def _other_tokens(
    other: Runner, end: int | None, turns: Turns, prompt: str, answer: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Prompt and answer by this tokenizer and template. An answer that ended by the former one ends by this one."""
    own = rendered_by(other.encode_chat, "of the record", turns) if turns else tuple(other.encode(prompt))
    text = SPECIAL_END.sub("", answer)
    ended = (end,) if end is not None and text != answer else ()
    return own, (*other.encode(text), *ended)


def _start(model: Model, kept: Kept, folder: Path, recipe: Recipe, notes: list[str]) -> dict[str, LowRankUpdate]:
    """The candidate's own factors where all of them fit this base, else new ones on modules of the same names."""
    adapter = read_adapter(folder)
    if (
        not adapter.beyond_low_rank
        and not adapter.saved
        and all(_fits(model, *part) for part in adapter.low_rank.items())
    ):
        return dict(adapter.low_rank)
    kinds = {name.rpartition(".")[2] for name in adapter.low_rank}
    modules = [
        name
        for name, module in model.network.named_modules()
        if name.rpartition(".")[2] in kinds and linear_shape(module)
    ]
    if not modules:
        raise Refused(str(kept.files), f"modules {', '.join(sorted(kinds))}", "modules that the new base has")
    notes.append(f"trained from nothing: the accepted factors do not fit this base ({len(modules)} modules)")
    return fresh_updates(model, modules, _as_accepted(recipe, adapter.low_rank.values()))


def _as_accepted(recipe: Recipe, accepted: Iterable[LowRankUpdate]) -> Recipe:
    """Where the recipe has none of its own: the rank of the accepted adapter, its highest one, and the same scaling."""
    widest = max(accepted, key=lambda part: part.a.shape[0])
    rank = recipe.rank or widest.a.shape[0]
    return replace(recipe, rank=rank, alpha=recipe.alpha or widest.scaling * rank)


def _fits(model: Model, name: str, part: LowRankUpdate) -> bool:
    try:
        module = model.network.get_submodule(name)
    except AttributeError:
        return False
    return linear_shape(module) == (part.b.shape[0], part.a.shape[1])


def _write_trained(kept: Kept, new: NewBase, trained: Trained, folder: Path) -> Path:
    """In PEFT's layout, with the settings that these factors were trained under."""
    tensors, ranks, alphas = {}, {}, {}
    for name, part in trained.updates.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = part.a
        tensors[f"base_model.model.{name}.lora_B.weight"] = part.b
        ranks[name], alphas[name] = part.a.shape[0], part.scaling * part.a.shape[0]
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": read_json(kept.files / ADAPTER_CONFIG).get("task_type", "CAUSAL_LM"),
        "base_model_name_or_path": new.name,
        "revision": new.revision or None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(ranks),
        "bias": "none",
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
    }
    return write_adapter(folder, config, tensors)
