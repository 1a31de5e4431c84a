"""Settings of the in-process runner, the limits of what it answers, and what a base's own files decide."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from probes import cpu_share
from probes.errors import Unreplayable
from probes.runner import Replay, Target, Weights
from probes.runners.in_process import Config
from tests.probes.tiny import FORCED, PROMPT, close, full, opened, tiny_base

GOLDEN_BASE, LIVE_BASE = Target(None, Weights.GOLDEN), Target(None)


def test_a_token_beyond_the_vocabulary_is_unreplayable(tmp_path: Path) -> None:
    runner = opened(tiny_base(tmp_path / "base"), tmp_path)
    with pytest.raises(Unreplayable, match="token 5000 is beyond its vocabulary of 98"):
        full(runner, [LIVE_BASE], [(PROMPT, (5000,))])


def test_a_token_to_keep_beyond_the_logits_is_unreplayable(tmp_path: Path) -> None:
    kept = np.full((len(FORCED), 2), -1, np.int32)
    kept[3, 1] = 98
    runner = opened(tiny_base(tmp_path / "base"), tmp_path)
    with pytest.raises(Unreplayable, match="token 98 to keep is beyond its 98 logits"):
        list(runner.run([Replay("c", PROMPT, FORCED, LIVE_BASE, kept)], lambda: False))
    kept[3, 1] = 97
    assert len(list(runner.run([Replay("c", PROMPT, FORCED, LIVE_BASE, kept)], lambda: False))) == 1


def test_a_model_that_caps_its_logits_keeps_its_own_head(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=98, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, final_logit_softcapping=2.0, initializer_range=0.3,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config)
    folder = tiny_base(tmp_path / "capped")  # for its tokenizer
    model.save_pretrained(folder)
    runner = opened(folder, tmp_path / "cache", attention="eager")
    assert runner.loaded.live is not None and not runner.loaded.live.plain_head
    wanted = (
        model.eval()(input_ids=torch.tensor([[*PROMPT, *FORCED]]))
        .logits[0, len(PROMPT) - 1 : -1]
        .log_softmax(-1)
        .detach()
        .numpy()
    )
    assert close(full(runner, [LIVE_BASE])[LIVE_BASE, 0], wanted)


@pytest.mark.parametrize("wrong", [{"dtype": "int3"}, {"attention": "flash9"}, {"max_batch_tokens": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Config("base", **wrong)  # type: ignore[arg-type]


def test_a_base_without_a_chat_template_says_so(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    with pytest.raises(Unreplayable, match=r"its tokenizer has no chat template \(chat_template\.jinja"):
        opened(base, tmp_path).encode_chat([{"role": "user", "content": "hi"}])


def test_how_much_a_base_reads_is_in_its_config(tmp_path: Path) -> None:
    plain = tiny_base(tmp_path / "plain", max_position_embeddings=64)
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
    stretched = tiny_base(tmp_path / "stretched", max_position_embeddings=64, rope_parameters=rope)
    assert opened(plain, tmp_path).context() == 64
    assert opened(stretched, tmp_path).context() == 256


def test_threads_are_those_of_the_setting_or_of_the_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "9")
    base, before = tiny_base(tmp_path / "base"), torch.get_num_threads()
    try:
        opened(base, tmp_path, threads=2)
        assert (torch.get_num_threads(), os.environ["RAYON_NUM_THREADS"]) == (2, "2")
        opened(base, tmp_path)
        assert torch.get_num_threads() == cpu_share.process_share().threads
    finally:
        torch.set_num_threads(before)


def test_a_text_ends_where_generation_config_says_id_0_too(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for settings, ends in (({"eos_token_id": 0}, {0}), ({"eos_token_id": [0, 5]}, {0, 5}), ({}, {2})):
        (base / "generation_config.json").write_text(json.dumps(settings))
        live = opened(base, tmp_path / "cache").loaded.live
        assert live is not None and live.ends == ends
