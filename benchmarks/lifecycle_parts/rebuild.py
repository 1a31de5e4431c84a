"""A successor of each helpdesk adapter on another release of its base, from its golden record and its copies alone.

On the release that permutes hidden units nothing is trained. On the one that merges the whole upstream tune a successor
is trained, in as many steps as GAPWATCH_REBUILD_STEPS says, and measured beside the adapter as it is. The task's own
check is that of held-out exercises, which no rebuild reads.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from agent.demo.stage import cache_dir
from benchmarks.figures import Figure, at_least, at_most, console, context
from examples.helpdesk.data import ADAPTERS, HERE, check, examples
from examples.helpdesk.releases import TUNE, make_release, merge_lora
from probes.artefacts.base_files import packaged_gguf, resolve
from probes.canaries.canary_file import read_canaries
from probes.golden.archive import load, newest
from probes.golden.record import Golden
from probes.rebuild.rebuild import RE_EXPRESSED, RETRAINED, Candidate, Kept, NewBase, Rebuilt, Wish, Working, rebuild
from probes.rebuild.training import Recipe
from probes.runner import Target
from probes.runners.in_process import Config, Runner

EXERCISES = 100
MOST_TOKENS = 40
ORIGINAL = "the accepted adapter on its own base"


def measure(quick: bool) -> list[Figure]:
    names = ["order-extractor"] if quick else list(ADAPTERS)
    base = resolve(str(packaged_gguf()), cache_dir())
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="rebuild-", dir=os.environ.get("GAPWATCH_SCRATCH")) as folder:
        scratch = Path(folder)
        figures += _on_permuted(base, names, scratch, quick)
        steps = int(os.environ.get("GAPWATCH_REBUILD_STEPS", "0"))
        if steps:
            figures += _on_improved(base, names[-1], scratch, steps)
    return figures


def _on_permuted(base: Path, names: list[str], scratch: Path, quick: bool) -> list[Figure]:
    new = make_release("reparameterised", base, scratch / "reparameterised")
    figures = []
    for name in names:
        began = time.monotonic()
        done = _rebuilt(name, base, new, scratch / "out" / name, Wish(trained=False))
        seconds = time.monotonic() - began
        best, plain = done.candidates[0], done.candidates[-1]
        console.print(name, done.move, _words(best), _words(plain))
        on = f"{name} on a permuted base"
        low = best.acceptance.of_effect.low if best.name == RE_EXPRESSED and best.acceptance.of_effect else float("nan")
        figures += [
            at_least(f"Rebuild, {on}: retention of the re-expressed adapter, lower end of 95 %", low, "", 0.99),
            at_most(f"Rebuild, {on}: flips of held-out canaries", len(best.acceptance.flips), "", 0),
            context(f"Rebuild, {on}: retention of the adapter as it is", _mean(plain), ""),
            context(f"Rebuild, {on}: time, with the acceptance tests", seconds, "s"),
        ]
        if not quick:
            figures += _task_checks(name, {ORIGINAL: (base, HERE / "adapters" / name), on: (new, best.folder)})
    return figures


def _on_improved(base: Path, name: str, scratch: Path, steps: int) -> list[Figure]:
    """The whole upstream tune merged in."""
    new = _improved(base, scratch / "improved")
    began = time.monotonic()
    wish = Wish(Recipe(steps=steps, rate=5e-4, checked_every=10), written=16, most_tokens=MOST_TOKENS, always=True)
    done = _rebuilt(name, base, new, scratch / "out" / f"{name}-improved", wish)
    seconds = time.monotonic() - began
    trained = next(own for own in done.candidates if own.name == RETRAINED)
    plain = next(own for own in done.candidates if own.name != RETRAINED)
    console.print(name, _words(trained), _words(plain))
    on = f"{name} on a base with the whole tune merged, {steps} steps"
    low = trained.acceptance.retention.low if trained.acceptance.retention else float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        at_least(f"Rebuild, {on}: retention, lower end of 95 %", low, "", 0.9),
        context(f"Rebuild, {on}: retention of the adapter as it is", _mean(plain), ""),
        context(f"Rebuild, {on}: texts trained on", done.lessons, ""),
        context(f"Rebuild, {on}: time", seconds, "s"),
        context(f"Rebuild, {on}: memory of the process at its highest", peak / 1e9, "GB"),
        *_task_checks(name, {ORIGINAL: (base, HERE / "adapters" / name), on: (new, trained.folder)}),
    ]


def _improved(base: Path, out: Path) -> Path:
    make_release("improved", base, out)
    tensors = {name: own.float() for name, own in load_file(base / "model.safetensors").items()}
    from safetensors.torch import save_file

    save_file(merge_lora(tensors, TUNE, 1.0), out / "model.safetensors", metadata={"format": "pt"})
    return out


def _rebuilt(name: str, base: Path, new: Path, out: Path, wish: Wish) -> Rebuilt:
    canaries = read_canaries(HERE / "canaries" / f"{name}.jsonl").canaries
    kept = Kept(_golden(name), HERE / "adapters" / name, base, canaries)

    def make(base: Path, adapters: Mapping[str, Path]) -> Runner:
        named = {own: str(path) for own, path in adapters.items()}
        return Runner(Config(str(base), named, device="cpu", cache_dir=str(cache_dir()), threads=1))

    placement = Config(str(new), device="cpu").placement()
    work = Working(make, placement, out, _shown, console.print, lambda: False)
    done = rebuild(kept, NewBase(new, new.name), wish, work)
    assert done is not None, "nobody stops it"
    return done


def _golden(name: str) -> Golden:
    record = newest(HERE / "golden", name)
    assert record is not None, f"no golden record of {name}"
    return load(HERE / "golden", record)


def _task_checks(name: str, sides: Mapping[str, tuple[Path, Path]]) -> list[Figure]:
    """Right answers to held-out exercises: of the accepted adapter, and of the successor, within three points of it."""
    right = {side: _right(name, *paths) for side, paths in sides.items()}
    original = right.pop(ORIGINAL)
    figures = [context(f"Rebuild, {name}: right answers to {EXERCISES} exercises, {ORIGINAL}", original, "")]
    return figures + [
        at_least(f"Rebuild, {on}: right answers to {EXERCISES} exercises", count, "", original - 0.03 * EXERCISES)
        for on, count in right.items()
    ]


def _right(name: str, base: Path, adapter: Path) -> int:
    exercises = examples(name, "heldout")[:EXERCISES]
    runner = Runner(Config(str(base), {name: str(adapter)}, device="cpu", cache_dir=str(cache_dir()), threads=1))
    runner.open()
    try:
        runner.refresh()
        prompts = [runner.encode_chat(own.messages) for own in exercises]
        answers = runner.generate_many(Target(name), prompts, MOST_TOKENS, lambda: False)
        texts = [runner.decode(ids).removesuffix("<|im_end|>") for ids in answers]
    finally:
        runner.close()
    return sum(check(own, text) for own, text in zip(exercises, texts, strict=True))


def _mean(candidate: Candidate) -> float:
    own = candidate.acceptance.of_effect
    return own.mean if own else float("nan")


def _words(candidate: Candidate) -> str:
    done = candidate.acceptance
    return f"{candidate.name}: {done.of_effect} {done.of_answers} flips {len(done.flips)} of {done.checked}"


def _shown(stage: str, done: int, total: int) -> None:
    if done in (0, total) or done % 10 == 0:
        console.print(f"{stage} {done}/{total}")
