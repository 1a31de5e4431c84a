"""A base swap under a limit of memory: the live base is measured in any case, the golden one stays only where both fit.

The limit is the process's own limit of data, as the process that owns the models has one.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Reason, Status, Verdict
from detectors.verdicts.incident import Rules
from probes.artefacts.identity import NEWEST
from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.round import Scheduled, replay_base_round
from probes.causes.fault_signatures import why_no_copies
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.errors import Unreplayable
from probes.golden.record import Golden
from probes.model.base_memory import base_memory
from probes.model.free_memory import give_back
from probes.residency.bases import ONE_FITS
from probes.residency.failed_loads import LOOKS_TO_WAIT
from probes.runner import Readiness, Target, Weights
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import (
    END,
    FORCED,
    PROMPT,
    VOCABULARY,
    ends_now_and_then,
    full,
    opened,
    overwrite,
    tiny_adapter,
    tiny_base,
)

MB = 1_000_000
TOKENS = 512
# For adapters and rounds; a second base takes several times as much.
SPARE = 24 * MB


@dataclass(frozen=True, slots=True)
class Volume:
    """accepted, other: two bases of one shape; adapter: on them; golden: what was accepted"""

    accepted: Path
    other: Path
    adapter: Path
    golden: Golden


def base_of_110_mb(folder: Path, tiny: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=2048, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.06, eos_token_id=END, bos_token_id=1,
        pad_token_id=END,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny / name, folder)
    return ends_now_and_then(folder)


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    folder = tmp_path_factory.mktemp("volume")
    tiny = tiny_base(folder / "tiny")
    accepted, other = (base_of_110_mb(folder / name, tiny, seed) for seed, name in enumerate(("accepted", "other")))
    adapter = tiny_adapter(folder / "a", accepted)
    texts = [f"q {i} {i * 37 % 101} item" for i in range(24)]
    canaries = CanarySet(tuple(Canary(f"c{i}", ({"role": "user", "content": text},)) for i, text in enumerate(texts)))
    settings = EnrolSettings("wide", 1.0, per_half=4, min_pool=4, min_tokens=4, log_threshold=5.0, battery=("one row",))
    runner = opened(accepted, folder, {"a": adapter})
    golden = enrol(Request(runner, "a", canaries, settings, [], lambda *_: None, lambda: False))
    runner.close()
    return Volume(accepted, other, adapter, golden)


@contextmanager
def room_for(volume: Volume, bases: int, tokens: int = TOKENS) -> Iterator[None]:
    """From now on this process gets what so many bases need by their headers, with batches of so many tokens, and no
    more."""
    need = base_memory(volume.accepted, Config(str(volume.accepted), device="cpu", max_batch_tokens=tokens).placement())
    give_back()
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    most = 1024 * int(used.split()[1]) + need.needed + (bases - 1) * need.held + SPARE
    resource.setrlimit(resource.RLIMIT_DATA, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def rounds(runner: Runner, volume: Volume, count: int, first: int = 0) -> list[tuple[BaseRound, Verdict]]:
    """So many rounds, each with the adapter's verdict."""
    monitor, done = Monitor(Rules(Tolerances(), 5.0)), []
    for number in range(first, first + count):
        scheduled = Scheduled("wide", number, 60.0 * number, 512, 7)
        measured = replay_base_round(runner, {"a": volume.golden}, scheduled, lambda: False)
        assert measured is not None
        verdicts = {verdict.subject: verdict for verdict in monitor.observe(measured).verdicts}
        done.append((measured, verdicts["a"]))
    return done


def started(volume: Volume, live: Path, cache: Path, configured: bool, tokens: int = TOKENS) -> Runner:
    """configured: is there a copy of the accepted base, as probes.keep_golden_weights makes one?"""
    named = {"golden_base": str(volume.accepted)} if configured else {}
    return opened(live, cache, {"a": volume.adapter}, max_batch_tokens=tokens, **named)


def is_scored(runner: Runner) -> bool:
    """By the accepted base; the reason why not is the one that responses are stored with."""
    try:
        runner.golden_hashes("a", NEWEST)
    except Unreplayable as error:
        assert ONE_FITS in str(error) and "requested" in str(error), error
        with pytest.raises(Unreplayable, match="no memory for both"):
            runner.embed([(PROMPT, FORCED)], lambda: False)
        return False
    return len(runner.embed([(PROMPT, FORCED)], lambda: False)) == 1


@pytest.mark.parametrize("configured", [False, True])
def test_where_one_base_fits_the_live_one_is_measured_within_two_rounds_and_scoring_waits(
    volume: Volume, tmp_path: Path, configured: bool
) -> None:
    live = shutil.copytree(volume.accepted, tmp_path / "live")
    with room_for(volume, 1):
        runner = started(volume, live, tmp_path, configured)
        ((_, verdict),) = rounds(runner, volume, 1)
        assert verdict.status is Status.HEALTHY and is_scored(runner)

        overwrite(volume.other, live)
        (_, changing), (measured, verdict) = rounds(runner, volume, 2, first=1)
        assert changing.reason is Reason.FILES_CHANGING
        assert verdict.status in (Status.SUSPECT, Status.DEGRADED), verdict.explanation
        assert measured.members[0].measurements and measured.members[0].identity.base_moved
        assert not is_scored(runner) and runner.loaded.golden is None
        assert ONE_FITS in why_no_copies(runner, volume.golden), "so that no fault is replayed on another base"

        model, loads = runner.loaded.live, runner.residency.loads
        for _ in range(LOOKS_TO_WAIT + 2):
            assert runner.refresh()["a"] == Readiness()
        assert not is_scored(runner)
        assert runner.loaded.live is model and runner.residency.loads == loads, "nothing is loaded in turn"
        del model

        overwrite(volume.accepted, live)
        (_, changing), (_, verdict) = rounds(runner, volume, 2, first=20)
        assert changing.reason is Reason.FILES_CHANGING and verdict.status is Status.HEALTHY, verdict
        assert runner.loaded.golden is runner.loaded.live is not None and is_scored(runner)


def test_a_start_with_a_moved_base_where_one_fits_measures_it_and_knows_what_was_accepted(
    volume: Volume, tmp_path: Path
) -> None:
    live = shutil.copytree(volume.other, tmp_path / "live")
    with room_for(volume, 1):
        runner = started(volume, live, tmp_path, configured=True)
        ((measured, verdict),) = rounds(runner, volume, 1)
        assert verdict.status in (Status.SUSPECT, Status.DEGRADED)
        assert measured.members[0].identity.base_moved and runner.identity(None).base_moved
        assert not is_scored(runner)
    for _ in range(LOOKS_TO_WAIT + 1):  # there is memory now, and nobody knows
        runner.refresh()
    assert is_scored(runner) and runner.loaded.golden is not runner.loaded.live


def test_where_both_fit_both_stay_and_scoring_goes_on(volume: Volume, tmp_path: Path) -> None:
    live = shutil.copytree(volume.accepted, tmp_path / "live")
    with room_for(volume, 2):
        runner = started(volume, live, tmp_path, configured=False)
        golden = runner.loaded.golden
        overwrite(volume.other, live)
        *_, (measured, verdict) = rounds(runner, volume, 2)
        assert verdict.status in (Status.SUSPECT, Status.DEGRADED) and measured.members[0].identity.base_moved
        assert runner.loaded.golden is golden is not runner.loaded.live
        assert is_scored(runner)
        full(runner, [Target("a"), Target("a", Weights.GOLDEN)])


def test_what_fits_not_even_alone_releases_nothing(volume: Volume, tmp_path: Path) -> None:
    live = shutil.copytree(volume.accepted, tmp_path / "live")
    runner = started(volume, live, tmp_path, configured=False)
    give_back()
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    overwrite(volume.other, live)
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * int(used.split()[1]) + 30 * MB, before[1]))
    try:
        *_, (_, verdict) = rounds(runner, volume, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
    assert verdict.reason is Reason.NO_MEMORY and " requested, " in verdict.explanation
    assert is_scored(runner)


def test_where_memory_is_short_for_the_batch_a_smaller_one_is_measured_and_told(volume: Volume, tmp_path: Path) -> None:
    with room_for(volume, 1, tokens=512):
        runner = started(volume, volume.accepted, tmp_path, configured=False, tokens=4096)
        ((measured, verdict),) = rounds(runner, volume, 1)
    assert verdict.status is Status.HEALTHY, verdict.explanation
    assert runner.residency.bases.batch_tokens == 512
    told = "memory is short: read in batches of 512 tokens instead of 4096"
    assert measured.members[0].facts.count(told) == 1 and told in verdict.explanation
    runner.close()
    runner.open()
    ((measured, _),) = rounds(runner, volume, 1, first=1)
    assert runner.residency.bases.batch_tokens == 4096 and told not in measured.members[0].facts
