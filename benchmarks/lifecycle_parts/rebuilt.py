"""Successors made and measured, a share at a time: ``python -m benchmarks.lifecycle_parts.rebuilt --minutes 4``.

Rows are appended to a file of the cache as they are measured, and a training that is stopped goes on from its
checkpoint. The file is of one base; delete it where the code of rebuild or of the acceptance test has changed.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from shutil import rmtree

import torch

from agent.demo.stage import cache_dir
from benchmarks.figures import console, measured_tree
from benchmarks.lifecycle_parts.another_training import trained_on, whole_tune
from examples.helpdesk.data import ADAPTERS, HERE, check, examples
from examples.helpdesk.releases import make_release
from examples.helpdesk.train import train
from probes.artefacts.base_files import packaged_gguf, resolve
from probes.canaries.canary_file import read_canaries
from probes.golden.archive import load, newest
from probes.golden.record import Golden
from probes.rebuild.acceptance import Acceptance, assess
from probes.rebuild.rebuild import PLAIN, RE_EXPRESSED, RETRAINED, Candidate, Kept, NewBase, Wish, Working, rebuild
from probes.rebuild.training import Recipe
from probes.runner import Target
from probes.runners.in_process import Config, Runner

PERMUTED, TUNED, OTHER = "reparameterised", "the whole tune merged", "another training"
ACCEPTED, REBUILT, ORIGINAL_DATA = "as accepted", "rebuilt", "trained on the original data"
RELEASES: dict[str, Callable[[Path, Path], Path]] = {
    PERMUTED: lambda base, out: make_release("reparameterised", base, out),
    TUNED: whole_tune,
    OTHER: trained_on,
}
# As many steps for a successor as for what is trained on the original data.
STEPS, WRITTEN, MOST_TOKENS, EXERCISES = 40, 24, 40, 100
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One adapter on one release, "" for the base that it was accepted on."""

    adapter: str
    release: str
    how: str


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of a case. retention, low: the better of its two means, with the lower end of its interval

    effect, effect_low: of the effect alone; plain: retention of the adapter as it is; flips: of checked answers of
    held-out canaries; right: of exercises; texts: trained on; peak: bytes of the process at its highest; commit: of the
    tree that was measured
    """

    adapter: str
    release: str
    how: str
    right: int
    exercises: int
    retention: float = math.nan
    low: float = math.nan
    effect: float = math.nan
    effect_low: float = math.nan
    plain: float = math.nan
    flips: int = 0
    checked: int = 0
    accepted: bool = False
    texts: int = 0
    seconds: float = 0.0
    peak: int = 0
    candidate: str = ""
    move: str = ""
    commit: str = ""

    @property
    def case(self) -> Case:
        return Case(self.adapter, self.release, self.how)


def cases() -> list[Case]:
    """What is cheap first, and the adapter with the shortest answers first."""
    names = sorted(ADAPTERS, key=lambda name: name != "order-extractor")
    cheap = [Case(name, release, how) for name in names for release, how in ((PERMUTED, REBUILT), ("", ACCEPTED))]
    return cheap + [Case(*own) for own in product(names, (TUNED, OTHER), (REBUILT, ORIGINAL_DATA))]


def folder() -> Path:
    return cache_dir() / "lifecycle" / _base().name[-12:]


def rows() -> list[Row]:
    """Those that are measured."""
    file = folder() / "rebuilt.jsonl"
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []


def fill(seconds: float, wanted: Sequence[Case]) -> int:
    """Measure for so long what is missing of these; how many are missing still."""
    torch.set_num_threads(1)
    ends = time.monotonic() + seconds
    for case in missing(wanted):
        if time.monotonic() >= ends:
            break
        row = _measured(case, lambda: time.monotonic() >= ends)
        if row is not None:
            console.print(row)
            with (folder() / "rebuilt.jsonl").open("a") as opened:
                opened.write(json.dumps(asdict(replace(row, commit=measured_tree()))) + "\n")
    return len(missing(wanted))


def missing(wanted: Sequence[Case]) -> list[Case]:
    done = {row.case for row in rows()}
    return [case for case in wanted if case not in done]


def _measured(case: Case, stop: Stop) -> Row | None:
    """None where it was stopped."""
    out = folder() / "successors" / f"{case.adapter} {case.release} {case.how}".replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    began, before = time.monotonic(), _seconds(out)
    _forget_peak()
    if case.how == ACCEPTED:
        return Row(
            **asdict(case), right=_right(case.adapter, _base(), HERE / "adapters" / case.adapter), exercises=EXERCISES
        )
    new = _release(case.release)
    made = (_rebuilt if case.how == REBUILT else _on_original_data)(case, new, out, stop)
    took = before + time.monotonic() - began
    (out / "seconds").write_text(f"{took}")
    if made is None:
        return None
    row, successor = made
    return replace(row, right=_right(case.adapter, new, successor), exercises=EXERCISES, seconds=took, peak=_peak())


def _rebuilt(case: Case, new: Path, out: Path, stop: Stop) -> tuple[Row, Path] | None:
    recipe = Recipe(steps=STEPS, rate=5e-4, checked_every=10)
    trained = case.release != PERMUTED
    wish = Wish(recipe, written=WRITTEN, most_tokens=MOST_TOKENS, trained=trained, always=trained)
    kept = Kept(
        _golden(case.adapter),
        HERE / "adapters" / case.adapter,
        _base(),
        read_canaries(HERE / "canaries" / f"{case.adapter}.jsonl").canaries,
    )
    work = Working(_runner, Config(str(new), device="cpu").placement(), out, _shown, console.print, stop)
    done = rebuild(kept, NewBase(new, new.name), wish, work)
    if done is None:
        return None
    by_name = {own.name: own for own in done.candidates}
    successor = by_name[RETRAINED if trained else RE_EXPRESSED]
    row = replace(_row(case, successor.acceptance), plain=_effect(by_name.get(PLAIN)), texts=done.lessons)
    accepted = not successor.failures
    return replace(row, accepted=accepted, candidate=successor.name, move=done.move), successor.folder


def _on_original_data(case: Case, new: Path, out: Path, stop: Stop) -> tuple[Row, Path] | None:
    """By the example's own recipe, from nothing, with as many steps: what the author would have done."""
    if not (out / case.adapter).is_dir():
        train(case.adapter, new, out, STEPS)
    runner = _runner(new, {case.adapter: out / case.adapter})
    runner.open()
    try:
        done = assess(runner, case.adapter, _golden(case.adapter), stop)
    finally:
        runner.close()
    return _row(case, done), out / case.adapter


def _row(case: Case, done: Acceptance) -> Row:
    best, effect = done.retention, done.of_effect
    assert best is not None and effect is not None, "every release has the same tokenizer"
    own = Row(**asdict(case), right=0, exercises=0, flips=len(done.flips), checked=done.checked)
    return replace(own, retention=best.mean, low=best.low, effect=effect.mean, effect_low=effect.low)


def _effect(candidate: Candidate | None) -> float:
    own = candidate.acceptance.of_effect if candidate else None
    return own.mean if own else math.nan


def _right(name: str, base: Path, adapter: Path) -> int:
    """Right answers to exercises that neither a training nor a rebuild reads."""
    exercises = examples(name, "heldout")[:EXERCISES]
    runner = _runner(base, {name: adapter})
    runner.open()
    try:
        runner.refresh()
        prompts = [runner.encode_chat(own.messages) for own in exercises]
        answers = runner.generate_many(Target(name), prompts, MOST_TOKENS, lambda: False)
        texts = [runner.decode(ids).removesuffix("<|im_end|>") for ids in answers]
    finally:
        runner.close()
    return sum(check(own, text) for own, text in zip(exercises, texts, strict=True))


def _base() -> Path:
    return resolve(str(packaged_gguf()), cache_dir())


def _release(name: str) -> Path:
    """Made once: the training of one takes minutes."""
    out = folder() / "releases" / name.replace(" ", "-")
    if not out.is_dir():
        unfinished = out.with_name(f"{out.name}.unfinished")
        rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        RELEASES[name](_base(), unfinished).rename(out)
    return out


def _runner(base: Path, adapters: Mapping[str, Path]) -> Runner:
    named = {own: str(path) for own, path in adapters.items()}
    return Runner(Config(str(base), named, device="cpu", cache_dir=str(cache_dir()), threads=1))


def _golden(name: str) -> Golden:
    record = newest(HERE / "golden", name)
    assert record is not None, f"no golden record of {name}"
    return load(HERE / "golden", record)


def _seconds(out: Path) -> float:
    """That shares before this one took."""
    file = out / "seconds"
    return float(file.read_text()) if file.is_file() else 0.0


def _forget_peak() -> None:
    """From now on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _shown(stage: str, done: int, total: int) -> None:
    if done in (0, total) or done % 10 == 0:
        console.print(f"{time.strftime('%H:%M:%S')} {stage} {done}/{total}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0)
    options = parser.parse_args()
    left = fill(60 * options.minutes, cases())
    print(f"{left} of {len(cases())} cases are missing")
