"""Is a base in other coordinates recognised from its weights, and any other one not taken for it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from examples.helpdesk.releases import make_release
from probes.artefacts.lora_files import read_adapter
from probes.errors import Unreplayable
from probes.rebuild.base_tensors import PART_NUMBERS, BaseTensors
from probes.rebuild.candidates import plain_copy, re_expressed
from probes.rebuild.coordinates import Coordinates, solve
from probes.runner import Target
from tests.probes.rebuild.worlds import base_and_adapter
from tests.probes.tiny import close, full, opened, tiny_base


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return base_and_adapter(tmp_path_factory.mktemp("world"))


def solved(old: Path, new: Path, adapter: Path) -> Coordinates:
    return solve(BaseTensors(old), BaseTensors(new), read_adapter(adapter).low_rank)


def answers(base: Path, adapter: Path, cache: Path) -> object:
    runner = opened(base, cache, {"a": adapter})
    (answer,) = full(runner, [Target("a")]).values()
    runner.close()
    return answer


def rotated(base: Path, out: Path) -> Path:
    """The residual stream turned by a random matrix, gains of the norms folded into what reads them."""
    tensors = {name: own.double() for name, own in load_file(base / "model.safetensors").items()}
    width = tensors["model.embed_tokens.weight"].shape[1]
    generator = torch.Generator().manual_seed(4)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    moved = {}
    for name, own in tensors.items():
        if name.endswith("norm.weight"):
            moved[name] = torch.ones_like(own)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            moved[name] = turn @ own
        else:
            part = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
            gain = torch.ones(width, dtype=torch.float64)
            if "layers." in name:
                gain = tensors[f"{name.partition('self_attn')[0].partition('mlp')[0]}{part}.weight"]
            elif name == "lm_head.weight":
                gain = tensors["model.norm.weight"]
            moved[name] = (own * gain) @ turn.T
    out.mkdir()
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (out / file.name).write_bytes(file.read_bytes())
    save_file(
        {name: own.float().contiguous() for name, own in moved.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    return out


@pytest.mark.parametrize("how", ["permuted", "rotated"])
def test_an_adapter_answers_as_before_in_the_new_coordinates(
    world: tuple[Path, Path], tmp_path: Path, how: str
) -> None:
    base, adapter = world
    new = (
        make_release("reparameterised", base, tmp_path / "new")
        if how == "permuted"
        else rotated(base, tmp_path / "new")
    )
    move = solved(base, new, adapter)
    assert move.explained and move.kind == {"permuted": "permutation", "rotated": "rotation"}[how], move.words
    assert move.error < 1e-4 and move.kind in move.words
    before = answers(base, adapter, tmp_path)
    moved = re_expressed(adapter, tmp_path / "moved", move, "org/new", "v2")
    assert close(answers(new, moved, tmp_path), before)  # type: ignore[arg-type]
    copied = plain_copy(adapter, tmp_path / "copied", "org/new")
    assert not close(answers(new, copied, tmp_path), before)  # type: ignore[arg-type]
    config = json.loads((moved / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/new", "v2")


@pytest.mark.parametrize("release", ["requantised", "itself"])
def test_the_same_coordinates_are_no_move(world: tuple[Path, Path], tmp_path: Path, release: str) -> None:
    base, adapter = world
    new = base if release == "itself" else make_release(release, base, tmp_path / "new")
    move = solved(base, new, adapter)
    assert move.explained and move.kind == "same" and "the same coordinates" in move.words


def test_a_base_of_another_training_is_not_explained(world: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = world
    move = solved(base, tiny_base(tmp_path / "other", seed=5, tied=False), adapter)
    assert not move.explained and "no permutation or rotation" in move.words


def test_one_module_that_was_trained_besides_is_named(world: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = world
    new = make_release("reparameterised", base, tmp_path / "new")
    tensors = load_file(new / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"] + torch.randn_like(tensors[f"{name}.weight"])
    save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    move = solved(base, new, adapter)
    assert not move.explained and list(move.unexplained) == [name] and name in move.words


def test_a_base_with_another_vocabulary_or_without_the_module_is_refused(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    base, adapter = world
    tensors = load_file(base / "model.safetensors")
    folder = tmp_path / "new"
    folder.mkdir()
    save_file({name: own for name, own in tensors.items() if "v_proj" not in name}, folder / "model.safetensors")
    with pytest.raises(Unreplayable, match="v_proj"):
        solved(base, folder, adapter)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-1].clone()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(Unreplayable, match="embeddings"):
        solved(base, folder, adapter)


class Largest(TorchDispatchMode):
    """The most bytes of one tensor that was computed meanwhile: no view, and no mapping of a file (``set_``)."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        is_new = not function.is_view and function is not torch.ops.aten.set_.source_Storage
        for own in tree_leaves(made) if is_new else ():
            if isinstance(own, torch.Tensor):
                self.bytes = max(self.bytes, own.numel() * own.element_size())
        return made


def test_no_tensor_as_large_as_the_embeddings_of_a_large_vocabulary_is_made(tmp_path: Path) -> None:
    rows, width = 200_000, 64
    table = torch.randn(rows, width, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(width, generator=torch.Generator().manual_seed(2))
    for name, own in (("old", table), ("new", table[:, order].contiguous())):
        (tmp_path / name).mkdir()
        save_file({"model.embed_tokens.weight": own}, tmp_path / name / "model.safetensors")
    with Largest() as largest:
        move = solve(BaseTensors(tmp_path / "old"), BaseTensors(tmp_path / "new"), {})
    assert move.kind == "permutation" and move.residual_error < 1e-6
    assert move.residual.order is not None and torch.equal(move.residual.order, order)
    part = 4 * PART_NUMBERS
    assert 0 < largest.bytes <= part < 4 * rows * width / 3
