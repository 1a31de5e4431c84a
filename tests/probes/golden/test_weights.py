"""Copies of accepted weights: found by their hash alone, whole or absent, also when two enrolments write at once."""

from __future__ import annotations

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from probes.artefacts.identity import ADAPTER_WEIGHTS, adapter_hash, base_hash, template_hash
from probes.errors import Unreplayable
from probes.golden.weights import accepted_adapter, find, find_adapter, folder_of, keep, keep_adapter
from tests.probes.goldens import golden
from tests.probes.tiny import tiny_adapter, tiny_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def test_kept_weights_are_found_by_their_hash(base: Path, tmp_path: Path) -> None:
    kept = keep(base, tmp_path, base_hash(base))
    assert find(tmp_path, base_hash(base)) == kept
    assert keep(base, tmp_path, base_hash(base)) == kept
    assert find(tmp_path, "sha256:" + "0" * 64) is None
    assert list((tmp_path / "weights").iterdir()) == [kept]


@pytest.mark.parametrize("damage", ["torn", "gone", "other"])
def test_damaged_or_other_weights_are_not_found(base: Path, tmp_path: Path, damage: str) -> None:
    accepted = base_hash(base)
    kept = keep(base, tmp_path, accepted)
    file = kept / "model.safetensors"
    whole = file.read_bytes()
    file.unlink()
    if damage == "torn":
        file.write_bytes(whole[:500])
    elif damage == "other":
        file.write_bytes(whole[:-4] + bytes(4))
    assert find(tmp_path, accepted) is None
    # The base itself is as it was: the same enrolment puts it right.
    assert keep(base, tmp_path, accepted) == kept == find(tmp_path, accepted)
    assert list((tmp_path / "weights").iterdir()) == [kept]


def test_many_at_once_leave_one_whole_folder_and_nothing_else(base: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(lambda _: keep(base, tmp_path, base_hash(base)), range(8)))
    assert kept == {folder_of(tmp_path, base_hash(base))}
    assert list((tmp_path / "weights").iterdir()) == [*kept]
    assert find(tmp_path, base_hash(base)) is not None


def test_templates_beside_the_default_one_are_kept_with_the_tokenizer(base: Path, tmp_path: Path) -> None:
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/tools.jinja").write_text("{{ tools }}")
    kept = keep(base, tmp_path, base_hash(base))
    assert template_hash(kept) == template_hash(base)
    assert (kept / "additional_chat_templates/tools.jinja").read_text() == "{{ tools }}"


def test_a_base_that_cannot_be_read_leaves_nothing(base: Path, tmp_path: Path) -> None:
    accepted = base_hash(base)
    (base / "model.safetensors").write_bytes(b"torn")
    for source in (base, tmp_path / "nowhere"):
        with pytest.raises(Unreplayable, match=str(source)):
            keep(source, tmp_path / "golden", accepted)
    assert list((tmp_path / "golden/weights").iterdir()) == []


def test_a_base_that_changed_since_it_was_recorded_is_not_kept_as_that(base: Path, tmp_path: Path) -> None:
    accepted = base_hash(base)
    tiny_base(base, seed=1)
    with pytest.raises(Unreplayable, match="changed since it was recorded"):
        keep(base, tmp_path, accepted)
    assert list((tmp_path / "weights").iterdir()) == []


def test_a_base_that_changes_while_it_is_copied_is_not_kept(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another file system, where a link cannot be made: the config is copied before a release, the weights after."""
    accepted, other = base_hash(base), tiny_base(tmp_path / "other", seed=1)
    copyfile = shutil.copyfile

    def released_meanwhile(source: Path, target: Path) -> None:
        copyfile(other / source.name if source.suffix == ".safetensors" else source, target)

    monkeypatch.setattr(Path, "hardlink_to", _elsewhere)
    monkeypatch.setattr("probes.golden.weights.shutil.copyfile", released_meanwhile)
    with pytest.raises(Unreplayable, match="changed since it was recorded"):
        keep(base, tmp_path / "golden", accepted)
    assert list((tmp_path / "golden/weights").iterdir()) == []


def test_a_full_disk_is_a_reason_and_leaves_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "hardlink_to", _elsewhere)
    monkeypatch.setattr("probes.golden.weights.shutil.copyfile", full)
    with pytest.raises(Unreplayable, match="No space left on device"):
        keep(base, tmp_path / "golden", base_hash(base))
    assert list((tmp_path / "golden/weights").iterdir()) == []


def _elsewhere(target: Path, source: Path) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return tiny_adapter(tmp_path / "adapter", base)


def test_a_kept_adapter_is_a_copy_that_its_hash_finds(adapter: Path, tmp_path: Path) -> None:
    accepted = adapter_hash(adapter)
    kept = keep_adapter(adapter, tmp_path, accepted)
    assert find_adapter(tmp_path, accepted) == kept == keep_adapter(adapter, tmp_path, accepted)
    assert find_adapter(tmp_path, "sha256:" + "0" * 64) is None
    # A release that writes into the file leaves the copy alone.
    (adapter / ADAPTER_WEIGHTS).write_bytes(b"another release")
    assert find_adapter(tmp_path, accepted) == kept
    assert list((tmp_path / "adapters").iterdir()) == [kept]


def test_a_damaged_copy_is_not_found_and_made_again(adapter: Path, tmp_path: Path) -> None:
    accepted = adapter_hash(adapter)
    kept = keep_adapter(adapter, tmp_path, accepted)
    (kept / ADAPTER_WEIGHTS).write_bytes(b"torn")
    assert find_adapter(tmp_path, accepted) is None
    assert keep_adapter(adapter, tmp_path, accepted) == kept == find_adapter(tmp_path, accepted)


def test_an_adapter_that_changed_since_it_was_recorded_is_not_kept_as_that(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(Unreplayable, match="changed since it was recorded"):
        keep_adapter(adapter, tmp_path, "sha256:" + "0" * 64)
    (adapter / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(Unreplayable, match="cannot be copied"):
        keep_adapter(adapter, tmp_path, "sha256:" + "1" * 64)
    assert list((tmp_path / "adapters").iterdir()) == []


def test_weights_are_found_under_the_scheme_of_the_record_and_kept_once_for_all(base: Path, tmp_path: Path) -> None:
    first, second = base_hash(base, 1), base_hash(base, 2)
    kept = keep(base, tmp_path, first, 1)
    assert find(tmp_path, first, 1) == kept and find(tmp_path, first, 2) is None
    again = keep(base, tmp_path, second, 2)
    assert again == folder_of(tmp_path, second) == find(tmp_path, second, 2)
    assert again.resolve() == kept
    # What lies there is damaged: the next enrolment puts it right under its own name.
    (kept / "config.json").unlink()
    (kept / "config.json").write_text("{}")
    assert find(tmp_path, second, 2) is None
    assert keep(base, tmp_path, second, 2) == again == find(tmp_path, second, 2)


def test_an_adapter_is_found_under_the_scheme_of_the_record(base: Path, tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", base)
    first = adapter_hash(adapter, 1)
    kept = keep_adapter(adapter, tmp_path, first, 1)
    made = replace(golden(), adapter_hash=first)
    assert accepted_adapter(tmp_path, made) == kept
    assert accepted_adapter(tmp_path, replace(made, hash_scheme=2)) is None
