"""A base of recurrent layers beside attention: an adapter on both is enrolled, replayed, judged, and told when lost."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Monitor
from detectors.records import BaseRound, Cause, FaultReplay, Reason, Status, SubjectKind, Verdict
from detectors.verdicts.incident import Rules
from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.round import Scheduled, replay_base_round
from probes.causes.adapter_replay import AdapterReplay
from probes.causes.fault_signatures import why_no_copies
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.settings import EnrolSettings
from probes.golden.archive import load, save
from probes.golden.record import Golden
from probes.runners.in_process import Runner
from tests.probes.architectures import architecture_base
from tests.probes.tiny import ends_now_and_then, opened, tiny_adapter

# Which modules the adapter is on; the first is of the recurrent layers.
PARTS = {"qwen3_next": ["in_proj_qkvz", "o_proj", "out_proj"], "bamba": ["in_proj", "q_proj", "out_proj"]}
SETTINGS = EnrolSettings("hybrid", 1.0, per_half=6, min_pool=6, min_tokens=6, log_threshold=5.0)
ENOUGH = 12  # rounds


def plain_model(base: Path, adapter: Path) -> Any:
    """As transformers and PEFT read the files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
        return PeftModel.from_pretrained(model, adapter).eval()


def never() -> bool:
    return False


@pytest.fixture(scope="module", params=PARTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def volume(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, and an adapter on its recurrent layers and its attention."""
    folder = tmp_path_factory.mktemp(kind)
    base = ends_now_and_then(architecture_base(folder / "base", kind, tie_word_embeddings=False))
    tiny_adapter(folder / "a", base, target_modules=PARTS[kind])
    return folder


@pytest.fixture(scope="module")
def golden(volume: Path) -> Golden:
    """As enrolled, written to a folder and read again."""
    texts = [f"q {i} {i * 37 % 101} item" for i in range(120)]
    canaries = CanarySet(tuple(Canary(f"c{i}", ({"role": "user", "content": text},)) for i, text in enumerate(texts)))
    runner = opened(volume / "base", volume / "cache", {"a": volume / "a"})
    made = enrol(Request(runner, "a", canaries, SETTINGS, [], lambda *_: None, never))
    return load(volume / "golden", save(made, volume / "golden"))


def replayed(runner: Runner, golden: Golden, number: int) -> BaseRound:
    done = replay_base_round(runner, {"a": golden}, Scheduled("hybrid", number, 60.0 * number, 512, 7), never)
    assert done is not None
    return done


def judged(monitor: Monitor, record: BaseRound | FaultReplay) -> Verdict:
    return next(verdict for verdict in monitor.observe(record).verdicts if verdict.subject == "a")


def after_the_alarm(runner: Runner, golden: Golden, round: BaseRound) -> FaultReplay:
    """What the worker replays."""
    assert why_no_copies(runner, golden) == ""
    replay = AdapterReplay.of(runner, golden, round.members[0])
    while replay.step(never):
        pass
    return FaultReplay(SubjectKind.ADAPTER, "a", round, (replay.measured(),), replay.replayed, round.at + 30.0)


def test_the_record_is_what_transformers_and_peft_say_of_such_a_base(kind: str, golden: Golden, volume: Path) -> None:
    assert len(golden.pool) == len(golden.held_out) == 6 and golden.power.monitorable
    assert golden.unrecorded == ()
    assert {"eager attention", "padded on the left", "prefill in chunks of 16"} <= golden.noise.keys()
    blocks = opened(volume / "base", volume / "cache", {"a": volume / "a"}).blocks("a")
    assert set(PARTS[kind]) <= set(blocks), "each of its parts can be left out, the recurrent layers' too"
    plain = plain_model(volume / "base", volume / "a")
    for canary in golden.held_out:
        text = torch.tensor([[*canary.prompt, *canary.forced]])
        with torch.inference_mode():
            logits = plain(input_ids=text, use_cache=False).logits[0, len(canary.prompt) - 1 : -1]
        wanted, kept = logits.log_softmax(-1).numpy(), canary.reference.kept
        assert np.array_equal(wanted.argmax(-1), canary.forced)
        seen = canary.reference.golden_adapter.log_probs[kept >= 0]
        assert np.abs(seen - np.take_along_axis(wanted, kept.clip(0), 1)[kept >= 0]).max() < 1e-4


def test_a_healthy_round_is_healthy_by_a_process_that_begins_anew(golden: Golden, volume: Path) -> None:
    runner, monitor = opened(volume / "base", volume / "cache", {"a": volume / "a"}), Monitor(Rules(Tolerances(), 5.0))
    told = judged(monitor, replayed(runner, golden, 0))
    assert told.status is Status.HEALTHY and told.retention is not None
    assert told.retention.mean == pytest.approx(1, abs=1e-3)
    assert not runner.facts("a")


def test_the_loss_of_the_recurrent_layers_part_is_named(
    kind: str, golden: Golden, volume: Path, tmp_path: Path
) -> None:
    lost = shutil.copytree(volume / "a", tmp_path / "a")
    weights = load_file(lost / "adapter_model.safetensors")
    save_file(
        {key: it * 0 if f"{PARTS[kind][0]}.lora_B" in key else it for key, it in weights.items()},
        lost / "adapter_model.safetensors",
    )
    kept = {"golden_adapters": {"a": str(volume / "a")}}
    runner, monitor = opened(volume / "base", volume / "cache", {"a": lost}, **kept), Monitor(Rules(Tolerances(), 5.0))
    rounds = [replayed(runner, golden, number) for number in range(ENOUGH)]
    alarm = [judged(monitor, round) for round in rounds][-1]
    assert (alarm.status, alarm.cause) == (Status.DEGRADED, Cause.ADAPTER_REPLACED)
    told = judged(monitor, after_the_alarm(runner, golden, rounds[-1]))
    assert told.reason is Reason.CAUSE_REFINED
    assert (told.status, told.cause) == (Status.DEGRADED, Cause.PARTLY_APPLIED), told.explanation
    assert PARTS[kind][0] in told.explanation
