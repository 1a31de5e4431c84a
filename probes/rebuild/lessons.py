"""What a successor is trained on: the accepted adapter's own answers, and how likely it found each token of them.

Two sources. The golden record holds both for its canaries; of these the selected half is used and the held-out half
never, because that half decides (``acceptance.py``). The golden copies of base and adapter answer other prompts in the
same way. Nothing of the original training data is needed or read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from detectors.records import Floats, Ints
from probes.canaries.log_prob_summary import keep, summarise
from probes.canaries.replay_pairs import Progress
from probes.golden.record import Golden
from probes.runner import Batching, Replay, Runner, Stop, Target

# Tokens kept of each position, as a golden record keeps them of either side.
TOP = 20
STAGE = "accepted answers"
# Prompts that are answered together: their log-probabilities over the whole vocabulary are in memory at once.
AT_ONCE = 8
Tokens = tuple[int, ...]
Turns = tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """One text with what the accepted adapter made of it.

    prompt, forced: token ids; kept: (T, K) token ids, -1 where padded; log_probs: (T, K) of them, nats; rest: (T,) log
    of the probability of all others together
    turns: that the prompt was rendered from, empty where they are not known
    """

    prompt: tuple[int, ...]
    forced: tuple[int, ...]
    kept: Ints
    log_probs: Floats
    rest: Floats
    turns: Turns = ()


def of_record(golden: Golden) -> list[Lesson]:
    """The canaries of the selected half, on the positions that are scored; none of the held-out half."""
    return [
        Lesson(
            canary.prompt,
            canary.forced,
            canary.reference.kept,
            canary.reference.golden_adapter.log_probs,
            canary.reference.golden_adapter.rest,
            canary.messages,
        )
        for canary in golden.pool
        if not canary.reference.listed  # an engine's listing is no distribution over the vocabulary
    ]


def of_copies(
    runner: Runner, adapter: str, turns_of: Mapping[Tokens, Turns], most_tokens: int, stop: Stop, progress: Progress
) -> list[Lesson]:
    """The golden adapter's greedy answers to these prompts on the golden base. runner: over the copies, open; turns_of:
    token ids -> the turns that they were rendered from

    Fewer after ``stop()``. Raises Unreplayable as the runner does.
    """
    lessons, prompts = list[Lesson](), list(turns_of)
    for start in range(0, len(prompts), AT_ONCE):
        progress(STAGE, start, len(prompts))
        batch = prompts[start : start + AT_ONCE]
        answers = _answers(runner, adapter, batch, most_tokens, stop)
        if stop():
            return lessons
        answered = [pair for pair in zip(batch, answers, strict=True) if pair[1]]
        lessons += [replace(own, turns=turns_of[own.prompt]) for own in _scored(runner, adapter, answered, stop)]
    progress(STAGE, len(prompts), len(prompts))
    return lessons


def _answers(
    runner: Runner, adapter: str, prompts: Sequence[tuple[int, ...]], most: int, stop: Stop
) -> list[tuple[int, ...]]:
    if isinstance(runner, Batching):
        return runner.generate_many(Target(adapter), prompts, most, stop)
    return [tuple(runner.generate(Target(adapter), prompt, most, stop)) for prompt in prompts]


def _scored(
    runner: Runner, adapter: str, texts: Iterable[tuple[tuple[int, ...], tuple[int, ...]]], stop: Stop
) -> list[Lesson]:
    replays = [Replay(str(i), prompt, forced, Target(adapter)) for i, (prompt, forced) in enumerate(texts)]
    lessons = []
    for answer in sorted(runner.run(replays, stop), key=lambda answer: int(answer.replay.canary)):
        assert answer.full is not None, "without kept tokens the whole vocabulary is answered"
        forced = np.asarray(answer.replay.forced, np.int32)
        kept = keep(answer.full, answer.full, forced, TOP)
        summary = summarise(answer.full, kept)
        lessons.append(Lesson(answer.replay.prompt, answer.replay.forced, kept, summary.log_probs, summary.rest))
    return lessons


def retokenised(texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Lesson]:
    """Answers as another tokenizer writes them: there is no distribution over its tokens, so each counts as certain."""
    return [
        Lesson(
            prompt,
            forced,
            np.asarray(forced, np.int32)[:, None],
            np.zeros((len(forced), 1), np.float32),
            np.full(len(forced), -np.inf, np.float32),
        )
        for prompt, forced in texts
        if forced
    ]


def write(path: Path, lessons: Sequence[Lesson], made_from: Mapping[str, object]) -> None:
    """For a rebuild that is stopped: whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    for index, lesson in enumerate(lessons):
        arrays |= {
            f"{index}.prompt": np.asarray(lesson.prompt, np.int32),
            f"{index}.forced": np.asarray(lesson.forced, np.int32),
            f"{index}.kept": lesson.kept,
            f"{index}.log_probs": lesson.log_probs,
            f"{index}.rest": lesson.rest,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    turns = json.dumps([[dict(turn) for turn in lesson.turns] for lesson in lessons])
    save_file(arrays, partial, metadata={"count": str(len(lessons)), "turns": turns, "made_from": _key(made_from)})
    partial.replace(path)


def read(path: Path, made_from: Mapping[str, object]) -> list[Lesson] | None:
    """What ``write`` wrote of the same; None where there is none, or it is of something else or damaged."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="np") as opened:  # type: ignore[no-untyped-call]
            metadata = opened.metadata() or {}
        if metadata.get("made_from") != _key(made_from):
            return None
        arrays, turns = load_file(path), json.loads(metadata["turns"])
        return [replace(_lesson(arrays, index), turns=tuple(own)) for index, own in enumerate(turns)]
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _lesson(arrays: Mapping[str, np.ndarray], index: int) -> Lesson:
    prompt, forced = (tuple(map(int, arrays[f"{index}.{side}"])) for side in ("prompt", "forced"))
    kept, log_probs, rest = (arrays[f"{index}.{name}"] for name in ("kept", "log_probs", "rest"))
    return Lesson(prompt, forced, kept, log_probs, rest)


def _key(made_from: Mapping[str, object]) -> str:
    return json.dumps(made_from, sort_keys=True, default=str)
