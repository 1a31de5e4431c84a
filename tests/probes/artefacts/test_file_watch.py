"""Watched files: what counts as a change, and when a change may be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from probes.artefacts.file_watch import FileListing, FileStat, FileWatch, WatchOutcome, list_files
from probes.artefacts.identity import TOKENIZER_FILES


def at(moment: int, *names: str) -> FileListing:
    """A listing of these files at a moment."""
    return FileListing("there", tuple(FileStat(name, 10, moment, moment) for name in sorted(names)))


ONE, TWO, THREE = at(1, "model.safetensors"), at(2, "model.safetensors"), at(3, "model.safetensors")
NOTHING = FileListing("there", ())
CASES = [
    ("first look waits for a second", [ONE], [WatchOutcome.CHANGING]),
    (
        "two equal looks are loaded, then ready",
        [ONE, ONE, ONE],
        [WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.READY],
    ),
    ("a copy under way is never loaded", [ONE, TWO, THREE], [WatchOutcome.CHANGING] * 3),
    (
        "a change after loading waits again",
        [ONE, ONE, TWO, TWO, TWO],
        [WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.READY],
    ),
    (
        "a change that is taken back needs no load",
        [ONE, ONE, TWO, ONE],
        [WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.CHANGING, WatchOutcome.READY],
    ),
    (
        "gone and back as it was",
        [ONE, ONE, NOTHING, ONE],
        [WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.GONE, WatchOutcome.READY],
    ),
    ("never there", [NOTHING, NOTHING], [WatchOutcome.GONE, WatchOutcome.GONE]),
    (
        "a folder without weights is gone",
        [ONE, ONE, at(1, "config.json")],
        [WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.GONE],
    ),
]


@pytest.mark.parametrize(("looks", "outcomes"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_outcomes_of_looks(looks: list[FileListing], outcomes: list[WatchOutcome]) -> None:
    watch, outcomes_seen = FileWatch(), []
    for now in looks:
        watch, outcome, _ = watch.look(now)
        outcomes_seen.append(outcome)
        if outcome is WatchOutcome.LOAD:
            watch = watch.took(now)
    assert outcomes_seen == outcomes


def test_a_failed_load_is_tried_again_at_each_look() -> None:
    watch = FileWatch().took(ONE)
    outcomes = []
    for _ in range(3):
        watch, outcome, _ = watch.look(TWO)
        outcomes.append(outcome)
        watch = watch.failed() if outcome is WatchOutcome.LOAD else watch
    assert outcomes == [WatchOutcome.CHANGING, WatchOutcome.LOAD, WatchOutcome.LOAD]


def test_words_name_the_files() -> None:
    watch = FileWatch().took(at(1, "adapter_config.json", "adapter_model.safetensors"))
    assert watch.look(at(1, "adapter_config.json"))[2] == "there: adapter_model.safetensors gone"
    assert (
        "adapter_model.safetensors changed"
        in watch.look(
            FileListing(
                "there", (FileStat("adapter_config.json", 10, 1, 1), FileStat("adapter_model.safetensors", 10, 2, 2))
            )
        )[2]
    )
    assert FileWatch().look(NOTHING)[2] == "there: no model files there"


def test_a_place_that_cannot_be_listed_has_no_files_and_says_why(tmp_path: Path) -> None:
    """As where a folder above it may not be entered, which root may."""
    place = tmp_path / ("a" * 300)
    listing = list_files(place)
    assert listing == FileListing(str(place), (), "File name too long")
    _, outcome, words = FileWatch().look(listing)
    assert outcome is WatchOutcome.GONE
    assert words == f"{place}: File name too long, wanted a folder that user {os.getuid()} may read"


def test_a_swap_of_equal_size_and_time_is_seen(tmp_path: Path) -> None:
    """Two adapters of one shape have one size, and an unpacked archive may carry one date for all."""
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(b"first")
    os.utime(file, ns=(1_000, 1_000))
    before = list_files(tmp_path)
    other = tmp_path / "new"
    other.write_bytes(b"other")
    os.utime(other, ns=(1_000, 1_000))
    other.rename(file)
    assert list_files(tmp_path) != before


def test_only_model_files_count_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in ("model.safetensors", "README.md"):
        (tmp_path / "real" / name).write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert list_files(tmp_path / "link").names == {"model.safetensors"}
    assert list_files(tmp_path / "real" / "model.safetensors").names == {"model.safetensors"}
    assert list_files(tmp_path / "nowhere") == FileListing(str(tmp_path / "nowhere"), ())
    before = list_files(tmp_path / "link")
    (tmp_path / "real" / "README.md").write_text("longer")
    assert list_files(tmp_path / "link") == before
    (tmp_path / "real" / "model.safetensors").write_text("longer")
    assert list_files(tmp_path / "link") != before


def test_a_hard_link_made_elsewhere_is_no_change_and_a_file_put_in_its_place_is(tmp_path: Path) -> None:
    watched, other = tmp_path / "base", tmp_path / "other.safetensors"
    watched.mkdir()
    file = watched / "model.safetensors"
    file.write_bytes(b"one")
    before = list_files(watched)
    other.hardlink_to(file)
    assert list_files(watched) == before
    fresh = tmp_path / "fresh.safetensors"
    fresh.write_bytes(b"two")
    seen = file.stat()
    os.utime(fresh, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    fresh.replace(file)
    assert list_files(watched) != before


@pytest.mark.parametrize("name", ["a.tiktoken", "tokenizer.model.v3", "additional_chat_templates/tools.jinja"])
def test_every_file_of_a_tokenizer_is_watched(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    before = list_files(tmp_path)
    (tmp_path / name).write_text("1")
    first = list_files(tmp_path)
    assert first.names - before.names == {name}
    (tmp_path / name).write_text("12")
    assert list_files(tmp_path) != first


def test_every_tokenizer_file_is_watched(tmp_path: Path) -> None:
    for name in (*TOKENIZER_FILES, "qwen.tiktoken", "tokenizer.model.v3"):
        (tmp_path / name).write_bytes(b"words")
        assert name in list_files(tmp_path).names
