"""Do GGUF files of the llama.cpp example hold what PEFT and transformers hold? (The real server reads them, too.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from examples.engines.llama_cpp.convert import Heads, write_adapter, write_base
from examples.engines.llama_cpp.tiny_llama import WORDS, byte_level_base
from probes.artefacts.lora_files import read_adapter
from tests.probes.tiny import tiny_adapter

LAYER = "model.layers.0."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level_base(tmp_path_factory.mktemp("convert") / "base")


def tensors(file: Path) -> dict[str, NDArray[np.float32]]:
    return {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(str(file)).tensors}


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5}}]
)
def test_alpha_over_rank_times_b_a_is_the_update_of_peft(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """llama.cpp multiplies B A by adapter.lora.alpha / rank of the module, whatever scaling the adapter has in PEFT."""
    folder = tiny_adapter(tmp_path / "router", base, **settings)
    write_adapter(folder, base, tmp_path / "router.gguf")
    written, adapter = tensors(tmp_path / "router.gguf"), read_adapter(folder)
    alpha = float(gguf.GGUFReader(str(tmp_path / "router.gguf")).fields["adapter.lora.alpha"].contents())
    assert len(written) == 2 * len(adapter.low_rank)
    for name, module in (("blk.0.attn_v", "self_attn.v_proj"), ("blk.0.ffn_down", "mlp.down_proj")):
        a, b = written[f"{name}.weight.lora_a"], written[f"{name}.weight.lora_b"]
        expected = adapter.low_rank[LAYER + module]
        update = expected.scaling * (expected.b @ expected.a).numpy()
        assert np.abs(alpha / a.shape[0] * (b @ a) - update).max() < 1e-6


def test_rows_of_queries_are_in_pairs_where_transformers_has_halves() -> None:
    """Of each head the first row of both halves comes first, then the second row of both."""
    rows = np.arange(8, dtype=np.float32)[:, None]
    heads = Heads(queries=2, keys=1)
    assert heads.ordered("blk.0.attn_q", rows)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert heads.ordered("blk.0.attn_k", rows)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert heads.ordered("blk.0.attn_v", rows)[:, 0].tolist() == list(range(8))


def test_a_base_has_its_heads_and_its_vocabulary(base: Path, tmp_path: Path) -> None:
    write_base(base, tmp_path / "base.gguf")
    fields = gguf.GGUFReader(str(tmp_path / "base.gguf")).fields
    assert Heads.read(tmp_path / "base.gguf") == Heads.read(base) == Heads(queries=4, keys=2)
    assert fields["tokenizer.ggml.tokens"].contents() == list(WORDS)
    assert fields["tokenizer.ggml.token_type"].contents()[:4] == [3, 3, 3, 1]  # three of control, then letters


def test_what_llama_cpp_would_leave_out_is_refused(base: Path, tmp_path: Path) -> None:
    folder = tiny_adapter(tmp_path / "saved", base, modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="would serve it without lm_head"):
        write_adapter(folder, base, tmp_path / "saved.gguf")
