"""Where the golden and the live base come from, when they arrive, and when one model serves as both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.records import Reason
from probes.errors import Unreplayable
from probes.residency.failed_loads import LOOKS_TO_WAIT
from probes.runner import Readiness, Target, Weights
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import (
    FORCED,
    PROMPT,
    close,
    full,
    opened,
    peft_log_probs,
    rewrite_unnoticed,
    tiny_adapter,
    tiny_base,
)

GOLDEN_BASE, LIVE_BASE = Target(None, Weights.GOLDEN), Target(None)


def test_a_base_that_lacks_tensors_is_unreadable_and_not_filled_up_at_random(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, _ = bases
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    readiness = opened(base, tmp_path).refresh()[None]
    assert readiness.blocked is Reason.UNREADABLE and "9 tensors are missing" in readiness.detail


@pytest.mark.parametrize(("stored", "spacing"), [("bfloat16", 2.0**-7), ("float16", 2.0**-10), ("float32", 2.0**-23)])
def test_a_model_knows_how_fine_its_files_are(
    stored: str, spacing: float, bases: tuple[Path, Path], tmp_path: Path
) -> None:
    """It computes in float32 all the same; an engine computes as finely as the files."""
    base, _ = bases
    file = base / "model.safetensors"
    save_file({name: tensor.to(getattr(torch, stored)) for name, tensor in load_file(file).items()}, file)
    model = opened(base, tmp_path).loaded.golden_model()
    assert model.spacing == model.rounded(4).spacing == spacing
    assert next(model.network.parameters()).dtype is torch.float32


def test_a_golden_base_of_its_own_is_not_the_live_one(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = bases
    runner = opened(other, tmp_path, golden_base=str(base))
    assert runner.identity(None).base_moved
    answers = full(runner, [LIVE_BASE, GOLDEN_BASE])
    assert close(answers[LIVE_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))
    assert close(answers[GOLDEN_BASE, 0], peft_log_probs(base, None, PROMPT, FORCED))


def test_without_golden_weights_embedding_is_refused_and_the_rest_works(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    runner = opened(base, tmp_path, golden_base=str(tmp_path / "lost"))
    with pytest.raises(Unreplayable, match=r"golden base is not loaded \(.*lost: no such folder or .gguf file\)"):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "config.json").write_text('{"model_type": "bert"}')
    runner.refresh()
    with pytest.raises(Unreplayable, match=r"golden base is not loaded \(.*is an encoder"):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    shutil.rmtree(tmp_path / "lost")
    full(runner, [LIVE_BASE])
    assert runner.identity(None).golden_base == "" and runner.encode("abc")
    shutil.copytree(other, tmp_path / "lost")
    runner.refresh()
    assert runner.identity(None).base_moved


def test_a_rejected_golden_base_is_read_again_once_its_files_change_and_not_before(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    config = other / "config.json"
    rewrite_unnoticed(config, '"num_hidden_layers": 2', '"num_hidden_layers": 3')
    runner = opened(base, tmp_path, golden_base=str(other))
    rewrite_unnoticed(config, '"num_hidden_layers": 3', '"num_hidden_layers": 2')
    for _ in range(2 * LOOKS_TO_WAIT):
        assert runner.refresh() == {None: Readiness()}
        with pytest.raises(Unreplayable, match=r"golden base is not loaded \(.*tensors are missing"):
            runner.embed([(PROMPT, FORCED)], lambda: False)
    config.touch()
    runner.refresh()
    assert close(full(runner, [GOLDEN_BASE])[GOLDEN_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))


def test_a_golden_base_that_comes_late_has_the_adapters_that_were_read(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter}, golden_base=str(tmp_path / "late"))
    shutil.copytree(other, tmp_path / "late")
    runner.refresh()
    there = Target("a", Weights.GOLDEN)
    assert close(full(runner, [there])[there, 0], peft_log_probs(other, adapter, PROMPT, FORCED))


def test_a_golden_base_that_comes_late_and_is_the_live_one_is_no_second_copy(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    runner = opened(bases[0], tmp_path, golden_base=str(tmp_path / "late"))
    late = shutil.copytree(bases[0], tmp_path / "late")
    (late / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    runner.refresh()
    assert runner.loaded.golden is not None and runner.loaded.golden is runner.loaded.live
    messages = [{"role": "user", "content": "hi"}]
    assert runner.encode_chat(messages, Weights.GOLDEN) == runner.encode("hi") != runner.encode_chat(messages)


def test_a_base_on_the_hub_is_fetched_while_opening_and_not_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is played by a function with the signature of its client's."""
    there, here = tiny_base(tmp_path / "hub"), tmp_path / "snapshot"

    def snapshot_download(_: str, local_files_only: bool, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        if not here.exists() and local_files_only:
            raise FileNotFoundError("no snapshot here")
        if not here.exists():
            shutil.copytree(there, here)
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    runner = Runner(Config("somebody/some-base", device="cpu", cache_dir=str(tmp_path)))
    assert runner.refresh()[None].blocked is Reason.UNREADABLE and not here.exists()
    runner.open()
    assert runner.refresh()[None] == Readiness()
    full(runner, [LIVE_BASE])


@pytest.mark.parametrize("torn", ["", "{", '{"version":"1.0","added_tokens":[],"model":{"type":"BPE"}}'])
def test_a_torn_tokenizer_blocks_its_base_in_words(tmp_path: Path, torn: str) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "tokenizer.json").write_text(torn)
    (readiness,) = opened(base, tmp_path).refresh().values()
    assert readiness.blocked is Reason.UNREADABLE
    assert "its tokenizer cannot be read" in readiness.detail and "\n" not in readiness.detail
