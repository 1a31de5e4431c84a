"""Do the upstream releases do to a model what their recipes say?"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from examples.helpdesk import releases

IDS = torch.arange(3, 27).reshape(2, 12)


def tiny(folder: Path, **changes: object) -> Path:
    """A random Llama with 4 query heads in 2 groups, written as a transformers folder."""
    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **heads, "tie_word_embeddings": True, **changes}))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # norms and biases, too, are told apart by position
    model.save_pretrained(str(folder))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return LlamaForCausalLM.from_pretrained(folder).eval()(IDS).logits


def plain_lora(folder: Path, base: Path, rank: int = 2, modules: tuple[str, ...] = ("q_proj", "down_proj")) -> Path:
    """A random LoRA on the base's own modules, in peft's file format."""
    torch.manual_seed(1)
    folder.mkdir()
    lora = {}
    for key, weight in load_file(base / "model.safetensors").items():
        if key.endswith(tuple(f"{module}.weight" for module in modules)):
            name = "base_model.model." + key.removesuffix(".weight")
            lora[f"{name}.lora_A.weight"] = 0.3 * torch.randn(rank, weight.shape[1])
            lora[f"{name}.lora_B.weight"] = 0.3 * torch.randn(weight.shape[0], rank)
    save_file(lora, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank, "lora_alpha": 2 * rank}))
    return folder


def with_lora(folder: Path, adapter: Path) -> torch.Tensor:
    tensors = releases.merge_lora(load_file(folder / "model.safetensors"), adapter, 1.0)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    model.load_state_dict(tensors, strict=False)
    with torch.inference_mode():
        return model(IDS).logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 16},
        {"attention_bias": True, "mlp_bias": True},
    ],
    ids=["tied, grouped", "untied", "no groups", "one group", "heads wider than the stream", "biases"],
)
def test_reparameterised_base_answers_as_before(tmp_path: Path, changes: dict[str, object]) -> None:
    base = tiny(tmp_path / "base", **changes)
    out = releases.make_release("reparameterised", base, tmp_path / "out")
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[key], after[key]) for key in before if key.endswith("_proj.weight"))
    torch.testing.assert_close(logits(out), logits(base), atol=2e-4, rtol=1e-4)


def test_adapter_loses_its_effect_on_a_reparameterised_base(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    adapter = plain_lora(tmp_path / "lora", base)
    out = releases.make_release("reparameterised", base, tmp_path / "out")
    meant = with_lora(base, adapter) - logits(base)
    seen = with_lora(out, adapter) - logits(out)
    retention = float((meant * seen).sum() / (meant * meant).sum())
    assert float(meant.abs().mean()) > 0.1
    assert abs(retention) < 0.5


def test_another_seed_gives_other_coordinates(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    key = "model.layers.0.self_attn.q_proj.weight"
    made = [releases.make_release("reparameterised", base, tmp_path / str(i), seed) for i, seed in enumerate((5, 5, 6))]
    first, again, other = (load_file(folder / "model.safetensors")[key] for folder in made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_requantised_layers_keep_15_levels_a_row_and_move_the_answers(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    out = releases.make_release("requantised", base, tmp_path / "out")
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    for key, weight in after.items():
        if key.endswith("_proj.weight"):
            assert all(len(row.unique()) <= 15 for row in weight)
            step = before[key].abs().amax(dim=1, keepdim=True) / 7
            assert bool(((weight - before[key]).abs() <= step * 0.5001).all())
        else:
            assert torch.equal(weight, before[key])
    assert float((logits(out) - logits(base)).abs().max()) > 0.01


def test_improved_moves_a_little_and_only_where_the_tune_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny(tmp_path / "base")
    tune = plain_lora(tmp_path / "tune", base, modules=("v_proj",))
    monkeypatch.setattr(releases, "TUNE", tune)
    out = releases.make_release("improved", base, tmp_path / "out")
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {key for key in before if key.endswith("v_proj.weight")}
    whole = with_lora(base, tune) - logits(base)
    share = logits(out) - logits(base)
    assert 0 < float(share.norm()) < 0.6 * float(whole.norm())


def test_release_is_a_complete_folder_and_leaves_no_half_written_one(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    out = releases.make_release("requantised", base, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"base", "out"}


def test_release_refuses_to_overwrite(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    with pytest.raises(FileExistsError, match="new folder"):
        releases.make_release("requantised", base, base)
