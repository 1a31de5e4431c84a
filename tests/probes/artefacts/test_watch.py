"""Looks at files: what counts as changed, and when a change may be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.artefacts.identity import TOKENIZER_FILES
from probes.artefacts.watch import Entry, Stamp, Step, Watch, stamp


def at(moment: int, *names: str) -> Stamp:
    """A stamp of these files at a moment."""
    return Stamp("there", tuple(Entry(name, 10, moment, moment) for name in sorted(names)))


ONE, TWO, THREE = at(1, "model.safetensors"), at(2, "model.safetensors"), at(3, "model.safetensors")
NOTHING = Stamp("there", ())
CASES = [
    ("first look waits for a second", [ONE], [Step.CHANGING]),
    ("two equal looks are loaded, then ready", [ONE, ONE, ONE], [Step.CHANGING, Step.LOAD, Step.READY]),
    ("a copy under way is never loaded", [ONE, TWO, THREE], [Step.CHANGING] * 3),
    (
        "a change after loading waits again",
        [ONE, ONE, TWO, TWO, TWO],
        [Step.CHANGING, Step.LOAD, Step.CHANGING, Step.LOAD, Step.READY],
    ),
    (
        "a change that is taken back needs no load",
        [ONE, ONE, TWO, ONE],
        [Step.CHANGING, Step.LOAD, Step.CHANGING, Step.READY],
    ),
    ("gone and back as it was", [ONE, ONE, NOTHING, ONE], [Step.CHANGING, Step.LOAD, Step.GONE, Step.READY]),
    ("never there", [NOTHING, NOTHING], [Step.GONE, Step.GONE]),
    ("a folder without weights is gone", [ONE, ONE, at(1, "config.json")], [Step.CHANGING, Step.LOAD, Step.GONE]),
]


@pytest.mark.parametrize(("looks", "steps"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_steps(looks: list[Stamp], steps: list[Step]) -> None:
    watch, seen = Watch(), []
    for now in looks:
        watch, step, _ = watch.look(now)
        seen.append(step)
        if step is Step.LOAD:
            watch = watch.took(now)
    assert seen == steps


def test_a_failed_load_is_asked_for_again_at_each_look() -> None:
    watch = Watch().took(ONE)
    steps = []
    for _ in range(3):
        watch, step, _ = watch.look(TWO)
        steps.append(step)
        watch = watch.failed() if step is Step.LOAD else watch
    assert steps == [Step.CHANGING, Step.LOAD, Step.LOAD]


def test_words_name_the_files() -> None:
    watch = Watch().took(at(1, "adapter_config.json", "adapter_model.safetensors"))
    assert watch.look(at(1, "adapter_config.json"))[2] == "there: adapter_model.safetensors gone"
    assert (
        "adapter_model.safetensors changed"
        in watch.look(
            Stamp("there", (Entry("adapter_config.json", 10, 1, 1), Entry("adapter_model.safetensors", 10, 2, 2)))
        )[2]
    )
    assert Watch().look(NOTHING)[2] == "there: no model files there"


def test_a_swap_of_equal_size_and_time_is_seen(tmp_path: Path) -> None:
    """Two adapters of one shape have one size, and an unpacked archive may carry one date for all."""
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(b"first")
    os.utime(file, ns=(1_000, 1_000))
    before = stamp(tmp_path)
    other = tmp_path / "new"
    other.write_bytes(b"other")
    os.utime(other, ns=(1_000, 1_000))
    other.rename(file)
    assert stamp(tmp_path) != before


def test_only_model_files_count_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in ("model.safetensors", "README.md"):
        (tmp_path / "real" / name).write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert stamp(tmp_path / "link").names == {"model.safetensors"}
    assert stamp(tmp_path / "real" / "model.safetensors").names == {"model.safetensors"}
    assert stamp(tmp_path / "nowhere") == Stamp(str(tmp_path / "nowhere"), ())
    before = stamp(tmp_path / "link")
    (tmp_path / "real" / "README.md").write_text("longer")
    assert stamp(tmp_path / "link") == before
    (tmp_path / "real" / "model.safetensors").write_text("longer")
    assert stamp(tmp_path / "link") != before


def test_a_hard_link_made_elsewhere_is_no_change_and_a_file_put_in_its_place_is(tmp_path: Path) -> None:
    watched, other = tmp_path / "base", tmp_path / "other.safetensors"
    watched.mkdir()
    file = watched / "model.safetensors"
    file.write_bytes(b"one")
    before = stamp(watched)
    other.hardlink_to(file)
    assert stamp(watched) == before
    fresh = tmp_path / "fresh.safetensors"
    fresh.write_bytes(b"two")
    seen = file.stat()
    os.utime(fresh, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    fresh.replace(file)
    assert stamp(watched) != before


@pytest.mark.parametrize("name", ["a.tiktoken", "tokenizer.model.v3", "additional_chat_templates/tools.jinja"])
def test_every_file_of_a_tokenizer_is_watched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    before = stamp(tmp_path)
    (tmp_path / name).write_text("1")
    first = stamp(tmp_path)
    assert first.names - before.names == {name}
    (tmp_path / name).write_text("12")
    assert stamp(tmp_path) != first


def test_every_tokenizer_file_is_watched(tmp_path: Path) -> None:
    for name in (*TOKENIZER_FILES, "qwen.tiktoken", "tokenizer.model.v3"):
        (tmp_path / name).write_bytes(b"words")
        assert name in stamp(tmp_path).names
