"""Resolving the name of a base: hashes are of content, and a .gguf file is converted once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from probes.artefacts.base_files import FETCHED, NOT_FETCHED, is_hub_id, locate, packaged_gguf, resolve
from probes.artefacts.identity import NEWEST, template_hash, tokenizer_hashes
from probes.artefacts.safetensors_header import digest, read_folder
from probes.errors import Unreplayable
from tests.probes.tiny import tiny_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_base(tmp_path / "base")


def test_one_file_and_shards_are_the_same_base(base: Path, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert digest(read_folder(tmp_path / "sharded")) == digest(read_folder(base))


def test_one_value_a_name_and_a_type_each_make_another_base(base: Path) -> None:
    file = base / "model.safetensors"
    tensors, before = load_file(file), digest(read_folder(base))
    hashes = {before}
    for name, changed in [
        ("model.norm.weight", tensors["model.norm.weight"] + 1e-7),
        ("model.norm.weight", tensors["model.norm.weight"].double()),
    ]:
        save_file(tensors | {name: changed}, file)
        hashes.add(digest(read_folder(base)))
    save_file({key.replace("norm", "narm"): value for key, value in tensors.items()}, file)
    hashes.add(digest(read_folder(base)))
    assert len(hashes) == 4
    save_file(tensors, file, metadata={"format": "pt", "note": "written again"})
    assert digest(read_folder(base)) == before


def test_half_written_weights_are_unreplayable(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Unreplayable, match="half written"):
        digest(read_folder(base))


def test_a_folder_resolves_to_itself_and_a_missing_one_is_refused(base: Path, tmp_path: Path) -> None:
    assert resolve(str(base), tmp_path / "cache") == locate(str(base)) == base
    for source in (str(tmp_path / "nowhere"), str(tmp_path / "nowhere.gguf"), "./no/where"):
        with pytest.raises(Unreplayable):
            resolve(source, tmp_path / "cache")


def test_a_hub_id_without_copy_or_network_is_unreplayable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unreplayable, match="no local copy"):
        resolve("nobody-of-that-name/no-such-model", tmp_path)
    with pytest.raises(Unreplayable, match="no local copy"):
        locate("nobody-of-that-name/no-such-model")


def test_only_the_files_that_are_read_are_fetched_from_a_hub_snapshot() -> None:
    read = [
        *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "chat_template.jinja"),
        *("tokenizer.json", "tekken.json", "merges.txt", "tokenizer.model.v3", "additional_chat_templates/tool.jinja"),
    ]
    twice = ["original/model.safetensors", "consolidated.00.safetensors", "pytorch_model.bin", "metal/m.bin", "a.gguf"]
    found = filter_repo_objects(read + twice, allow_patterns=[*FETCHED], ignore_patterns=[*NOT_FETCHED])
    assert list(found) == read


@pytest.mark.parametrize(
    ("source", "hub"),
    [
        ("owner/name", True),
        ("/owner/name", False),
        ("./name", False),
        ("name", False),
        ("a/b/c", False),
        ("a/b.gguf", False),
    ],
)
def test_hub_ids_are_distinguished_from_paths(source: str, hub: bool) -> None:
    assert is_hub_id(source) is hub


def test_a_gguf_that_ends_inside_its_last_tensor_is_unreplayable_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = Path(shutil.copy(packaged_gguf(), tmp_path / "torn.gguf"))
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 100)
    with pytest.raises(Unreplayable, match=r"no \.gguf model that can be read"):
        resolve(str(file), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_files_beside_a_gguf_are_not_read(tmp_path: Path) -> None:
    """An adapter in the same folder would be loaded into the base, and a tokenizer's config be taken for its own."""
    (tmp_path / "both").mkdir()
    file = Path(shutil.copy(packaged_gguf(), tmp_path / "both" / "m.gguf"))
    (file.parent / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "/nowhere"}')
    (file.parent / "tokenizer_config.json").write_text("not JSON")
    folder = resolve(str(file), tmp_path / "cache")
    assert (folder / "model.safetensors").is_file() and "<|im_start|>" in (folder / "tokenizer.json").read_text()


def test_every_file_that_a_tokenizer_reads_moves_its_hash(base: Path) -> None:
    seen, template = {tokenizer_hashes(base)[NEWEST]}, template_hash(base)
    further = ("tekken.json", "a.tiktoken", "spiece.model", "tokenizer.model.v3")
    for name in further:
        (base / name).write_text("1")
        seen.add(tokenizer_hashes(base)[NEWEST])
    (base / "tekken.json").write_text("2")
    seen.add(tokenizer_hashes(base)[NEWEST])
    assert len(seen) == len(further) + 2
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates/tools.jinja").write_text("1")
    assert template_hash(base) != template


def test_a_tokenizer_that_is_a_git_lfs_pointer_is_named(base: Path) -> None:
    (base / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")
    with pytest.raises(Unreplayable, match=r"tokenizer\.json: is a Git LFS pointer"):
        tokenizer_hashes(base)


def test_weights_are_not_mapped_from_the_file(base: Path, tmp_path: Path) -> None:
    """Overwriting the files in place must not reach into a loaded model (or end the process)."""
    from probes.runner import Target
    from tests.probes.tiny import full, opened

    runner = opened(base, tmp_path)
    before = full(runner, [Target(None)])[Target(None), 0]
    assert runner.loaded.live is not None
    with (base / "model.safetensors").open("r+b") as file:
        file.truncate(0)
    network = runner.loaded.live.network
    again = network(input_ids=torch.tensor([[1, 20, 31, 42, 7, 9, 11]])).logits[0, -2:].log_softmax(-1)
    assert torch.allclose(again[0], torch.from_numpy(before[0]), atol=1e-5)
    shutil.rmtree(base)
