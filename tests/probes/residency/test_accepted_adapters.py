"""Which copy of an adapter answers as the accepted one, and when a copy that cannot be used is read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from probes.artefacts.identity import adapter_hash
from probes.errors import Unreplayable, Unsupported
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import AdapterVersion
from tests.probes.tiny import opened, overwrite, rewrite_unnoticed, tiny_adapter, tiny_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def scored_by(runner: Runner) -> str:
    return runner.golden_hashes("a", 2)[1]


def test_the_live_adapter_answers_while_it_is_the_accepted_one_and_the_copy_after_that(
    base: Path, tmp_path: Path
) -> None:
    live, copy, other = (
        tiny_adapter(tmp_path / name, base, seed=seed) for name, seed in (("a", 1), ("c", 1), ("b", 5))
    )
    runner = opened(base, tmp_path, {"a": live}, golden_adapters={"a": str(copy)})
    golden = runner.loaded.golden
    assert golden is not None
    assert scored_by(runner) == adapter_hash(copy, 2)
    assert set(golden.adapters.applied) == {"a"}, "nothing is applied twice"
    overwrite(other, live)
    for _ in range(2):
        runner.refresh()
    assert scored_by(runner) == adapter_hash(copy, 2) != adapter_hash(live, 2)
    assert len(golden.adapters.applied) == 2
    runner.accept_adapter(AdapterVersion("a"), str(other))
    assert scored_by(runner) == adapter_hash(other, 2)
    assert set(golden.adapters.applied) == {"a"}, "the former copy is taken off"


def test_a_copy_that_is_rejected_is_read_again_once_its_files_change_and_not_before(base: Path, tmp_path: Path) -> None:
    live, copy = (tiny_adapter(tmp_path / name, base) for name in ("a", "copy"))
    config = copy / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_qalora": True}))
    runner = opened(base, tmp_path, {"a": live}, golden_adapters={"a": str(copy)})
    with pytest.raises(Unsupported, match="use_qalora"):
        scored_by(runner)
    rewrite_unnoticed(config, '"use_qalora": true', '"use_qalora": null')
    runner.refresh()
    with pytest.raises(Unsupported, match="use_qalora"):
        scored_by(runner)
    config.touch()
    runner.refresh()
    assert scored_by(runner) == adapter_hash(copy, 2)


def test_a_copy_that_fits_in_part_is_no_reference(base: Path, tmp_path: Path) -> None:
    live, copy = (tiny_adapter(tmp_path / name, base) for name in ("a", "copy"))
    weights = copy / "adapter_model.safetensors"
    save_file({name.replace("layers.1.", "layers.7."): part for name, part in load_file(weights).items()}, weights)
    runner = opened(base, tmp_path, {"a": live}, golden_adapters={"a": str(copy)})
    with pytest.raises(Unreplayable, match="match nothing in this base"):
        scored_by(runner)
