"""Files that change under a runner: what is reported, what answers meanwhile, and what answers afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.records import Reason
from probes.errors import NoMemory, Unreplayable, Unsupported
from probes.residency.failed_loads import LOOKS_TO_WAIT
from probes.runner import Readiness, Target, Weights
from probes.runners.in_process import Runner
from tests.probes.tiny import FORCED, PROMPT, close, full, opened, overwrite, peft_log_probs, tiny_adapter, tiny_base

GOLDEN_BASE, LIVE_BASE = Target(None, Weights.GOLDEN), Target(None)


def test_a_swapped_base_is_noticed_waited_for_and_answers_beside_the_golden_one(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    adapter, first = tiny_adapter(tmp_path / "a", base), shutil.copytree(base, tmp_path / "first")
    runner = opened(base, tmp_path, {"a": adapter})
    assert set(runner.refresh().values()) == {Readiness()}
    golden_id = runner.identity(None)
    assert golden_id.golden_base == golden_id.live_base

    overwrite(other, base)
    assert runner.refresh()[None].blocked is Reason.FILES_CHANGING
    with pytest.raises(Unreplayable, match="changed, waiting"):
        full(runner, [LIVE_BASE])
    assert runner.refresh()[None] == Readiness()
    assert runner.identity("a").base_moved and not runner.identity("a").adapter_moved
    answers = full(runner, [LIVE_BASE, Target("a"), GOLDEN_BASE, Target("a", Weights.GOLDEN)])
    assert close(answers[LIVE_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))
    assert close(answers[Target("a"), 0], peft_log_probs(other, adapter, PROMPT, FORCED))
    assert close(answers[GOLDEN_BASE, 0], peft_log_probs(first, None, PROMPT, FORCED))
    assert close(answers[Target("a", Weights.GOLDEN), 0], peft_log_probs(first, adapter, PROMPT, FORCED))

    overwrite(first, base)
    runner.refresh()
    assert runner.refresh()[None] == Readiness()
    assert runner.loaded.live is runner.loaded.golden, "the golden base answers again, and the other one is let go"
    assert close(full(runner, [Target("a")])[Target("a"), 0], peft_log_probs(first, adapter, PROMPT, FORCED))


def test_rewriting_the_same_content_blocks_for_one_look_and_loads_nothing_new(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, _ = bases
    runner = opened(base, tmp_path)
    before = runner.loaded.live
    overwrite(shutil.copytree(base, tmp_path / "copy"), base)
    assert [runner.refresh()[None].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert runner.loaded.live is before and not runner.identity(None).base_moved


def test_a_changed_setting_in_the_config_is_another_base(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    runner = opened(base, tmp_path)
    before = full(runner, [LIVE_BASE])[LIVE_BASE, 0]
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10.0
    (base / "config.json").write_text(json.dumps(config))
    runner.refresh()
    runner.refresh()
    assert runner.identity(None).base_moved
    assert not close(full(runner, [LIVE_BASE])[LIVE_BASE, 0], before)


def test_half_a_base_is_unreadable_until_the_rest_has_come(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = bases
    runner = opened(base, tmp_path)
    weights, whole = base / "model.safetensors", (other / "model.safetensors").read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert runner.refresh()[None].blocked is Reason.FILES_CHANGING
    stalled = runner.refresh()[None]
    assert stalled.blocked is Reason.UNREADABLE and "half written" in stalled.detail
    with pytest.raises(Unreplayable, match="half written"):
        full(runner, [LIVE_BASE])
    assert len(runner.embed([(PROMPT, FORCED)], lambda: False)) == 1, "the golden base does not depend on the files"
    weights.write_bytes(whole)
    runner.refresh()
    assert runner.refresh()[None] == Readiness()
    assert close(full(runner, [LIVE_BASE])[LIVE_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))


def test_a_base_away_at_open_is_told_and_loaded_when_it_comes(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "elsewhere")
    runner = opened(tmp_path / "base", tmp_path)
    assert runner.refresh()[None].blocked is Reason.UNREADABLE
    with pytest.raises(Unreplayable):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    shutil.copytree(base, tmp_path / "base")
    assert [runner.refresh()[None].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert runner.identity(None).golden_base, "the base first loaded is the golden one"
    full(runner, [LIVE_BASE])


def test_a_load_that_failed_keeps_no_frames_and_so_no_model(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    runner = opened(base, tmp_path)
    for _ in range(2):
        error = runner.residency.base.error
        assert isinstance(error, Unreplayable) and "half written" in str(error)
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
        with pytest.raises(Unreplayable, match="half written"):
            full(runner, [LIVE_BASE])


def test_an_adapter_that_changes_is_read_again_and_has_no_golden_copy(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter, other = tiny_adapter(tmp_path / "a", base), tiny_adapter(tmp_path / "b", base, seed=5)
    runner = opened(base, tmp_path, {"a": adapter})
    overwrite(other, adapter)
    assert [runner.refresh()["a"].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert runner.identity("a").adapter_moved
    assert close(full(runner, [Target("a")])[Target("a"), 0], peft_log_probs(base, other, PROMPT, FORCED))
    with pytest.raises(Unreplayable, match="no golden copy"):
        full(runner, [Target("a", Weights.GOLDEN)])


def test_a_lost_adapter_names_the_file_and_the_base_goes_on(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter})
    (adapter / "adapter_model.safetensors").rename(tmp_path / "aside")
    readiness = runner.refresh()
    assert readiness["a"].blocked is Reason.UNREADABLE
    assert readiness["a"].detail.endswith("adapter_model.safetensors gone")
    with pytest.raises(Unreplayable, match="gone"):
        full(runner, [Target("a")])
    full(runner, [LIVE_BASE])
    (tmp_path / "aside").rename(adapter / "adapter_model.safetensors")
    for _ in range(2):
        runner.refresh()
    full(runner, [Target("a")])


def test_an_unsupported_adapter_is_told_by_name_everywhere(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_qalora": True}))
    runner = opened(base, tmp_path, {"a": adapter})
    assert runner.refresh()["a"].blocked is Reason.UNREADABLE
    assert "use_qalora" in runner.facts("a")[0]
    with pytest.raises(Unsupported, match="use_qalora"):
        full(runner, [Target("a")])


def test_a_closed_runner_can_be_opened_again(bases: tuple[Path, Path], tmp_path: Path) -> None:
    runner: Runner = opened(bases[0], tmp_path)
    before = full(runner, [LIVE_BASE])
    runner.close()
    with pytest.raises(Unreplayable, match="closed"):
        full(runner, [LIVE_BASE])
    runner.open()
    assert np.array_equal(full(runner, [LIVE_BASE])[LIVE_BASE, 0], before[LIVE_BASE, 0])


FULL_CARD = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 9.50 GiB of which 1.00 GiB is free."
)


def test_a_pass_that_fits_only_without_the_golden_base_is_measured_without_it(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(other, tmp_path, {"a": adapter}, golden_base=str(base))
    live = runner.loaded.live
    assert live is not None and runner.loaded.golden is not live

    def is_full(*_: object) -> None:
        if runner.loaded.golden is not None:
            raise torch.OutOfMemoryError(FULL_CARD)

    live.network.base_model.register_forward_pre_hook(is_full)
    wanted = peft_log_probs(other, adapter, PROMPT, FORCED)
    assert close(full(runner, [Target("a")])[Target("a"), 0], wanted)
    assert runner.loaded.golden is None and runner.identity("a").base_moved and runner.refresh()["a"] == Readiness()
    with pytest.raises(NoMemory, match=r"Tried to allocate 2.00 GiB.*the live one is in memory and measured"):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    for _ in range(LOOKS_TO_WAIT - 1):
        runner.refresh()
        assert runner.loaded.golden is None and close(full(runner, [Target("a")])[Target("a"), 0], wanted)
    runner.refresh()
    assert runner.loaded.golden is not None, "by its size it fits: tried again after some looks"


def test_a_pass_that_fits_only_without_a_quantised_copy_lets_that_go_first(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    runner = opened(bases[1], tmp_path, golden_base=str(bases[0]))
    live = runner.loaded.live
    assert live is not None
    copy = runner.residency.rounded(live, 4)

    def is_full(*_: object) -> None:
        if runner.residency.quantised is not None:
            raise torch.OutOfMemoryError(FULL_CARD)

    live.network.base_model.register_forward_pre_hook(is_full)
    full(runner, [LIVE_BASE])
    assert runner.residency.quantised is None and runner.loaded.golden is not None
    assert copy is not runner.residency.rounded(live, 4)


def test_an_adapter_that_the_golden_base_rejects_is_put_on_it_again_when_its_files_change_and_not_before(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    source, adapter = tiny_adapter(tmp_path / "source", base), tmp_path / "a"
    runner = opened(base, tmp_path, {"a": adapter}, golden_base=str(other))
    golden, accepted = runner.loaded.golden, Target("a", Weights.GOLDEN)
    assert golden is not None
    callable_modules, golden.adapters.rowwise = golden.adapters.rowwise, frozenset()
    shutil.copytree(source, adapter)
    assert [runner.refresh()["a"].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    golden.adapters.rowwise = callable_modules
    loads = runner.residency.loads
    for _ in range(2 * LOOKS_TO_WAIT):
        assert runner.refresh()["a"] == Readiness()
        with pytest.raises(Unsupported, match="does not call with the rows"):
            full(runner, [accepted])
    assert runner.residency.loads == loads
    assert close(full(runner, [Target("a")])[Target("a"), 0], peft_log_probs(base, adapter, PROMPT, FORCED))
    (adapter / "adapter_config.json").touch()
    for _ in range(2):
        runner.refresh()
    assert close(full(runner, [accepted])[accepted, 0], peft_log_probs(other, adapter, PROMPT, FORCED))
