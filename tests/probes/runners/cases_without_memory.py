"""Adapters for which there is no memory: not monitorable themselves, while their base and other adapters go on.

Memory is really short here: by a file whose header declares a terabyte, or by a limit on this process's address space.
"""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.canaries.tolerance import Tolerances
from detectors.evidence.alternative import BASE
from detectors.monitor import Monitor
from detectors.records import BaseRound, Fault, FaultKind, Reason, Status, Verdict
from detectors.verdicts.incident import Rules
from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.round import Scheduled, replay_base_round
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.errors import NoMemory
from probes.golden.record import Golden, Unmonitorable
from probes.model.lora import LoraModule
from probes.residency.failed_loads import LOOKS_TO_WAIT
from probes.runner import Target, Weights
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import ScoringJob, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters
from tests.probes.tiny import FORCED, PROMPT, ends_now_and_then, full, opened, peft_log_probs, tiny_adapter, tiny_base

MB = 1 << 20
ROUNDS = 3


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with the adapters a and b."""
    folder = tmp_path_factory.mktemp("volume")
    base = ends_now_and_then(tiny_base(folder / "base", tied=False))
    for seed, name in enumerate(("a", "b"), start=1):
        tiny_adapter(folder / name, base, seed=seed)
    return folder


@pytest.fixture(scope="module")
def golden(volume: Path) -> Golden:
    """Of a, on a runner without anybody beside it."""
    texts = [f"q {i} {i * 37 % 101} item" for i in range(120)]
    canaries = CanarySet(tuple(Canary(f"c{i}", ({"role": "user", "content": text},)) for i, text in enumerate(texts)))
    settings = EnrolSettings("tiny", 1.0, per_half=6, min_pool=6, min_tokens=6, log_threshold=5.0, battery=("one row",))
    runner = opened(volume / "base", volume / "cache", {"a": volume / "a"})
    return enrol(Request(runner, "a", canaries, settings, [], lambda *_: None, lambda: False))


def huge(folder: Path, like: Path, rows: int, kind: str = "F32") -> Path:
    """An adapter whose only part is so many ranks wide; its file has holes, and takes no room on the disk."""
    folder.mkdir()
    shutil.copy(like / "adapter_config.json", folder)
    module, each = "base_model.model.model.layers.0.self_attn.q_proj", rows * 64 * (4 if kind == "F32" else 2)
    header = json.dumps(
        {
            f"{module}.lora_A.weight": {"dtype": kind, "shape": [rows, 64], "data_offsets": [0, each]},
            f"{module}.lora_B.weight": {"dtype": kind, "shape": [64, rows], "data_offsets": [each, 2 * each]},
        }
    ).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * each)
    return folder


@contextmanager
def room_for(megabytes: int) -> Iterator[None]:
    """This process gets so much more address space and no more."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + megabytes * MB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def replayed(runner: Runner, goldens: dict[str, Golden | Unmonitorable], number: int) -> BaseRound:
    done = replay_base_round(runner, goldens, Scheduled("tiny", number, 60.0 * number, 512, 7), lambda: False)
    assert done is not None
    return done


def judged(monitor: Monitor, done: BaseRound) -> dict[str, Verdict]:
    return {verdict.subject: verdict for verdict in monitor.observe(done).verdicts}


def close(runner: Runner, adapter: Path, base: Path, name: str = "a") -> bool:
    got = full(runner, [Target(name)])[Target(name), 0]
    return bool(np.abs(got - peft_log_probs(base, adapter, PROMPT, FORCED)).max() < 1e-4)


def test_an_adapter_too_large_for_the_machine_is_blind_alone_and_nothing_is_loaded_again(
    volume: Path, golden: Golden, tmp_path: Path
) -> None:
    giant = huge(tmp_path / "giant", volume / "a", 1 << 31)
    runner = opened(volume / "base", tmp_path, {"giant": giant, "a": volume / "a"})
    live, loads, monitor = runner.loaded.live, runner.residency.loads, Monitor(Rules(Tolerances(), 5.0))
    known: dict[str, Golden | Unmonitorable] = {"giant": replace(golden, adapter="giant"), "a": golden}
    for number in range(ROUNDS):
        verdicts = judged(monitor, replayed(runner, known, number))
        assert (verdicts["giant"].status, verdicts["giant"].reason) == (Status.UNMONITORABLE, Reason.NO_MEMORY)
        assert "not enough memory: 1.1 TB requested, " in verdicts["giant"].explanation
        assert " free" in verdicts["giant"].explanation
        assert verdicts["a"].status is Status.HEALTHY
        assert verdicts["a"].retention is not None and verdicts["a"].retention.mean == pytest.approx(1, abs=1e-3)
        assert runner.loaded.live is live is not None and runner.residency.loads == loads


def test_what_there_is_no_memory_to_read_is_read_again_after_some_looks_or_when_its_files_change(
    volume: Path, tmp_path: Path
) -> None:
    wide = huge(tmp_path / "wide", volume / "a", 1 << 19)
    with room_for(100):
        runner = opened(volume / "base", tmp_path, {"wide": wide, "a": volume / "a"})
        ready = runner.refresh()
    assert ready[None].blocked is None and ready["a"].blocked is None
    assert ready["wide"].blocked is Reason.NO_MEMORY
    assert "268 MB requested" in ready["wide"].detail and " free" in ready["wide"].detail
    # There is memory now, and nobody knows.
    looks = [runner.refresh()["wide"].blocked for _ in range(LOOKS_TO_WAIT)]
    assert looks == [Reason.NO_MEMORY] * (LOOKS_TO_WAIT - 1) + [None]
    assert close(runner, volume / "a", volume / "base")

    with room_for(100):
        runner = opened(volume / "base", tmp_path, {"wide": wide, "a": volume / "a"})
        assert runner.refresh()["wide"].blocked is Reason.NO_MEMORY
    for file in (volume / "b").iterdir():
        shutil.copy(file, wide / file.name)
    assert [runner.refresh()["wide"].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert close(runner, volume / "b", volume / "base", "wide")


def test_it_is_tried_again_when_another_adapter_leaves_memory(volume: Path, tmp_path: Path) -> None:
    wide, other = huge(tmp_path / "wide", volume / "a", 1 << 19), shutil.copytree(volume / "a", tmp_path / "other")
    with room_for(100):
        runner = opened(volume / "base", tmp_path, {"wide": wide, "other": other})
        assert runner.refresh()["wide"].blocked is Reason.NO_MEMORY
    for file in (volume / "b").iterdir():
        shutil.copy(file, other / file.name)
    looks = [runner.refresh() for _ in range(3)]
    assert [ready["other"].blocked for ready in looks] == [Reason.FILES_CHANGING, None, None]
    assert [ready["wide"].blocked for ready in looks] == [Reason.NO_MEMORY, Reason.NO_MEMORY, None]


def test_an_adapter_that_can_be_read_and_not_applied_is_blind_alone(volume: Path, tmp_path: Path) -> None:
    """In two bytes a number it takes 128 MB to read, and 256 more on a base of four bytes."""
    wide = huge(tmp_path / "wide", volume / "a", 1 << 19, "BF16")
    with room_for(220):
        runner = opened(volume / "base", tmp_path, {"a": volume / "a", "wide": wide})
        ready = runner.refresh()
    assert ready["wide"].blocked is Reason.NO_MEMORY and "268 MB requested" in ready["wide"].detail
    assert ready[None].blocked is ready["a"].blocked is None
    live = runner.loaded.live
    assert live is not None and set(live.adapters.applied) == {"a"}
    assert not any("wide" in module.parts for module in live.network.modules() if isinstance(module, LoraModule))
    assert close(runner, volume / "a", volume / "base")


def test_a_base_that_comes_anew_is_up_though_one_adapter_no_longer_fits(volume: Path, tmp_path: Path) -> None:
    base = shutil.copytree(volume / "base", tmp_path / "base")
    other = tiny_base(tmp_path / "other", seed=9)
    wide = huge(tmp_path / "wide", volume / "a", 1 << 19, "BF16")
    runner = opened(base, tmp_path, {"wide": wide, "a": volume / "a"})
    assert {ready.blocked for ready in runner.refresh().values()} == {None}
    for file in other.iterdir():
        shutil.copy(file, base / file.name)
    with room_for(150):
        runner.refresh()
        ready = runner.refresh()
        live, loads = runner.loaded.live, runner.residency.loads
        assert ready["wide"].blocked is Reason.NO_MEMORY
        for _ in range(ROUNDS):
            again = runner.refresh()
            assert again[None].blocked is again["a"].blocked is None
        assert runner.loaded.live is live and runner.residency.loads == loads
    assert close(runner, volume / "a", other)


def test_an_adapter_on_the_live_base_and_not_on_the_golden_one_is_replayed_and_says_why_it_scores_nothing(
    volume: Path, tmp_path: Path
) -> None:
    other = tiny_base(tmp_path / "other", seed=9)
    wide = huge(tmp_path / "wide", volume / "a", 1 << 19, "BF16")
    with room_for(128 + 256 + 150):
        runner = opened(volume / "base", tmp_path, {"a": volume / "a", "wide": wide}, golden_base=str(other))
        ready = runner.refresh()
        loads = runner.residency.loads
        for _ in range(LOOKS_TO_WAIT + 1):
            runner.refresh()
        assert runner.residency.loads == loads, "a try that fails changes nothing for a run under way"
    assert {readiness.blocked for readiness in ready.values()} == {None}
    full(runner, [Target("wide"), Target("a"), Target("a", Weights.GOLDEN)])
    with pytest.raises(NoMemory, match="268 MB requested"):
        full(runner, [Target("wide", Weights.GOLDEN)])
    jobs = [ScoringJob(name, name, "pod", 1.0, PROMPT * 3, FORCED, SamplingParameters(1.0)) for name in ("a", "wide")]
    scored, silent = runner.score(jobs, lambda: False, ScoringOptions(copies=(), others=False))
    assert scored.tokens is not None and silent.tokens is None
    assert "no golden copy of wide" in silent.detail and "268 MB requested" in silent.detail
    for _ in range(LOOKS_TO_WAIT):
        runner.refresh()
    full(runner, [Target("wide", Weights.GOLDEN)])


@pytest.mark.parametrize("most", [1, 3])
def test_a_pass_for_which_there_is_no_memory_is_made_in_smaller_ones(volume: Path, tmp_path: Path, most: int) -> None:
    runner = opened(volume / "base", tmp_path, {"a": volume / "a"})
    targets, texts = [Target(None), Target("a")], [(PROMPT[i:], FORCED) for i in range(5)]
    whole = full(runner, targets, texts)
    row_counts = bounded(runner, most)
    small = full(runner, targets, texts)
    assert max(row_counts) > most, "a batch that was asked for whole at first"
    assert small.keys() == whole.keys() and len(small) == 10
    assert all(np.abs(small[key] - whole[key]).max() < 1e-5 for key in whole)
    embedded = runner.embed([(PROMPT, FORCED), (PROMPT[:3], FORCED)], lambda: False)
    assert [np.isfinite(side).all() for pair in embedded for side in pair] == [True] * 4


def bounded(runner: Runner, most: int, tokens: int = 10_000) -> list[int]:
    """From now on the network raises, as torch does, for more rows or longer ones. Gives the rows it was asked for."""
    row_counts: list[int] = []

    def before(_: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]) -> None:
        del args
        row_counts.append(kwargs["input_ids"].shape[0])
        if row_counts[-1] > most or kwargs["input_ids"].shape[1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. 1 GiB is free. Including more")

    assert runner.loaded.live is not None
    runner.loaded.live.network.base_model.register_forward_pre_hook(before, with_kwargs=True)
    return row_counts


def test_an_adapter_that_there_is_no_memory_to_run_is_let_go_and_the_others_are_measured_in_the_same_round(
    volume: Path, golden: Golden, tmp_path: Path
) -> None:
    """A million ranks: 64 MB and more for each of its rows, while base and others ask for kilobytes."""
    wide = huge(tmp_path / "wide", volume / "a", 1 << 20)
    runner = opened(volume / "base", tmp_path, {"wide": wide, "a": volume / "a"})
    live, monitor = runner.loaded.live, Monitor(Rules(Tolerances(), 5.0))
    known: dict[str, Golden | Unmonitorable] = {"wide": replace(golden, adapter="wide"), "a": golden}
    # One round beforehand: what a first pass sets up for good is not what there is no room for.
    assert judged(monitor, replayed(runner, {"a": golden}, 0))["a"].status is Status.HEALTHY
    with room_for(50):
        rounds = [judged(monitor, replayed(runner, known, number)) for number in range(1, 1 + ROUNDS)]
        loads = runner.residency.loads
    assert [verdicts["wide"].reason for verdicts in rounds] == [Reason.NO_MEMORY] * ROUNDS
    assert " requested" in rounds[0]["wide"].explanation and " free" in rounds[0]["wide"].explanation
    for verdicts in rounds:
        assert verdicts["a"].status is Status.HEALTHY
        assert verdicts["a"].retention is not None and verdicts["a"].retention.mean == pytest.approx(1, abs=1e-3)
    assert runner.loaded.live is live and runner.residency.loads == loads
    assert live is not None and set(live.adapters.applied) == {"a"}, "what it took is free"


def test_a_stand_in_that_there_is_no_memory_for_is_told_and_leaves_nothing_behind(volume: Path, tmp_path: Path) -> None:
    wide = huge(tmp_path / "wide", volume / "a", 1 << 19)
    runner = opened(volume / "base", tmp_path, {"wide": wide, "a": volume / "a"})
    full(runner, [Target("a")])
    with room_for(100), pytest.raises(NoMemory, match=" requested"):
        full(runner, [Target("a", fault=Fault(FaultKind.STACKED, "wide"))])
    live = runner.loaded.live
    assert live is not None and set(live.adapters.applied) == {"wide", "a"}
    assert close(runner, volume / "a", volume / "base")


def test_one_response_too_long_for_memory_costs_none_beside_it(volume: Path, tmp_path: Path) -> None:
    runner = opened(volume / "base", tmp_path, {"a": volume / "a"})
    jobs = [
        ScoringJob("a", f"r{i}", "pod", 1.0, PROMPT * (6 if i == 1 else 1), FORCED, SamplingParameters(1.0))
        for i in range(4)
    ]
    wanted = runner.score(jobs, lambda: False, ScoringOptions(copies=(), others=False))
    assert all(answer.tokens is not None for answer in wanted)
    bounded(runner, 100, tokens=30)
    scored = runner.score(jobs, lambda: False, ScoringOptions(copies=(), others=False))
    assert [answer.tokens is None for answer in scored] == [False, True, False, False]
    assert "Tried to allocate 2 GiB. 1 GiB is free." in scored[1].detail and "Including" not in scored[1].detail
    for i in (0, 2, 3):
        ours, theirs = scored[i].tokens, wanted[i].tokens
        assert ours is not None and theirs is not None
        assert np.allclose(ours.log_l[BASE], theirs.log_l[BASE], atol=1e-4)


def test_a_golden_base_for_which_there_is_no_memory_is_not_read_at_every_look(volume: Path, tmp_path: Path) -> None:
    late = tiny_base(tmp_path / "late", seed=9, max_position_embeddings=64)
    runner = opened(volume / "base", tmp_path, {"a": volume / "a"}, golden_base=str(tmp_path / "gone"))
    weights = late / "model.safetensors"
    whole = weights.read_bytes()
    huge_file(weights)
    shutil.move(late, tmp_path / "gone")
    for _ in range(2):
        assert {ready.blocked for ready in runner.refresh().values()} == {None}
    with pytest.raises(NoMemory):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    (tmp_path / "gone" / "model.safetensors").write_bytes(whole)
    for _ in range(LOOKS_TO_WAIT + 1):
        runner.refresh()
    assert len(runner.embed([(PROMPT, FORCED)], lambda: False)) == 1


def huge_file(weights: Path) -> None:
    """In its place one that promises a terabyte."""
    shape = [1 << 32, 64]
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, shape[0] * shape[1] * 4]}}).encode()
    with weights.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + shape[0] * shape[1] * 4)


def test_a_shape_that_fits_nowhere_and_a_torn_file_are_trouble_of_their_own(volume: Path, tmp_path: Path) -> None:
    base = volume / "base"
    misfit, torn, odd = (shutil.copytree(volume / "a", tmp_path / name) for name in ("misfit", "torn", "odd"))
    weights = load_file(misfit / "adapter_model.safetensors")
    save_file(
        {name: tensor[:, :7].contiguous() for name, tensor in weights.items()}, misfit / "adapter_model.safetensors"
    )
    data = (torn / "adapter_model.safetensors").read_bytes()
    (torn / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    config = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps(config | {"rank_pattern": [1]}))
    folders = {"misfit": misfit, "torn": torn, "odd": odd, "a": volume / "a"}
    runner = opened(base, tmp_path, folders)
    live = runner.loaded.live
    for _ in range(ROUNDS):
        ready = runner.refresh()
        assert ready[None].blocked is ready["a"].blocked is None
        assert ready["torn"].blocked is ready["odd"].blocked is Reason.UNREADABLE
        assert "half written" in ready["torn"].detail
        assert "do not fit" in runner.facts("misfit")[0]
        assert close(runner, volume / "a", base)
    assert runner.loaded.live is live
