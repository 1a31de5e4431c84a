"""A file is read once, under whatever names and however often it is looked at: by what this process reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.records import Reason
from probes.artefacts.safetensors_header import digest, digest_row, read_folder, same_tensors
from probes.errors import Unreplayable
from probes.residency.known_weights import MOST, KnownWeights, files_of
from probes.runner import Readiness, Target, Weights
from tests.probes.tiny import FORCED, PROMPT, close, full, opened, overwrite, peft_log_probs, tiny_base


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bases of one shape whose weights are much larger than all else: ``accepted`` and ``other``."""
    folder = tmp_path_factory.mktemp("volume")
    for seed, name in enumerate(("accepted", "other")):
        base = tiny_base(folder / name, seed=seed)
        weights = load_file(base / "model.safetensors")
        torch.manual_seed(seed)
        # What lies beside the model's own tensors and is known to be harmless is hashed with them.
        weights["mtp.padding"] = torch.randn(2_000_000)
        save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return folder


def linked(source: Path, folder: Path) -> Path:
    """The same files under other names, as a kept copy has them."""
    folder.mkdir()
    for file in source.iterdir():
        os.link(file, folder / file.name)
    return folder


@contextmanager
def reads(times: int, base: Path) -> Iterator[None]:
    """That the weights of this base are read so often within: bytes that this process had read by the kernel."""
    before = _bytes_read()
    yield
    size = (base / "model.safetensors").stat().st_size
    assert round((_bytes_read() - before) / size, 1) == pytest.approx(times, abs=0.4)


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_kept_copy_that_is_a_link_to_the_live_base_is_not_read_a_second_time(volume: Path, tmp_path: Path) -> None:
    kept = linked(volume / "accepted", tmp_path / "kept")
    opened(volume / "accepted", tmp_path).close()  # what libraries read when they are first used
    with reads(1, kept):
        runner = opened(volume / "accepted", tmp_path, golden_base=str(kept))
    assert runner.loaded.golden is runner.loaded.live is not None
    assert not runner.identity(None).base_moved


def test_a_copy_of_its_own_is_read_once_to_see_that_it_is_the_same(volume: Path, tmp_path: Path) -> None:
    kept = shutil.copytree(volume / "accepted", tmp_path / "kept")
    opened(volume / "accepted", tmp_path).close()
    with reads(2, kept):
        runner = opened(volume / "accepted", tmp_path, golden_base=str(kept))
    assert runner.loaded.golden is runner.loaded.live is not None


def test_another_base_is_read_once_and_one_that_comes_back_not_at_all(volume: Path, tmp_path: Path) -> None:
    live = linked(volume / "accepted", tmp_path / "live")
    runner = opened(live, tmp_path, golden_base=str(volume / "accepted"))
    weights = live / "model.safetensors"
    for source, times in (("other", 1), ("accepted", 0)):
        weights.unlink()
        os.link(volume / source / "model.safetensors", weights)
        with reads(times, live):
            assert [runner.refresh()[None].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
        assert runner.identity(None).base_moved is (source == "other")
        answered = full(runner, [Target(None)])[Target(None), 0]
        assert close(answered, peft_log_probs(volume / source, None, PROMPT, FORCED))
    assert runner.loaded.golden is runner.loaded.live


def test_what_is_written_into_the_shared_file_is_read_again(volume: Path, tmp_path: Path) -> None:
    """A release that writes into the file changes the kept copy with it; the golden base in memory is what it was."""
    kept = shutil.copytree(volume / "accepted", tmp_path / "kept")
    live = linked(kept, tmp_path / "live")
    runner = opened(live, tmp_path, golden_base=str(kept))
    overwrite(volume / "other", live)
    for _ in range(2):
        ready = runner.refresh()
    assert ready == {None: Readiness()} and runner.identity(None).base_moved
    for target, source in ((Target(None), "other"), (Target(None, Weights.GOLDEN), "accepted")):
        assert close(full(runner, [target])[target, 0], peft_log_probs(volume / source, None, PROMPT, FORCED))


def test_tensors_are_the_same_whatever_their_order_and_files(tmp_path: Path) -> None:
    first, second = tiny_base(tmp_path / "first"), tiny_base(tmp_path / "second", seed=1)
    rows = [digest_row(tensor) for tensor in read_folder(first)]
    assert same_tensors(first, rows) and same_tensors(first, rows[::-1])
    assert not same_tensors(second, rows) and not same_tensors(first, rows[1:])
    weights = load_file(first / "model.safetensors")
    name = sorted(weights)[-1]
    save_file(weights | {name: weights[name] + 1}, first / "model.safetensors", metadata={"format": "pt"})
    assert not same_tensors(first, rows)


def test_files_that_change_while_they_are_read_are_not_known_by_what_was_read(tmp_path: Path) -> None:
    base, known = tiny_base(tmp_path / "base"), KnownWeights()
    before = files_of(base)
    (base / "model.safetensors").touch()
    known.note(base, before, "sha256:0")
    assert known.digest(before) is None
    known.note(base, files_of(base), digest(read_folder(base)))
    assert known.digest(files_of(base)) == digest(read_folder(base))
    (base / "model.safetensors").unlink()
    with pytest.raises(Unreplayable, match="holds neither"):
        files_of(base)


def test_no_more_bases_are_remembered_than_a_runner_meets(tmp_path: Path) -> None:
    base, known = tiny_base(tmp_path / "base"), KnownWeights()
    first = files_of(base)
    for moment in range(MOST + 1):
        os.utime(base / "model.safetensors", (moment, moment))
        first = files_of(base) if moment == 0 else first
        known.note(base, files_of(base), str(moment))
    assert known.digest(first) is None and known.digest(files_of(base)) == str(MOST)
