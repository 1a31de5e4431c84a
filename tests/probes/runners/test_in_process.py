"""Files that change under a runner: what is told, what answers meanwhile, and what answers afterwards."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.records import Floats, Reason
from probes import cpu_share
from probes.artefacts.identity import SCHEMES, adapter_hash, base_hash
from probes.errors import Unreplayable, Unsupported
from probes.golden.record import tokenizer_fingerprint
from probes.runner import Readiness, Replay, Target, Weights
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import FORCED, PROMPT, full, opened, peft_log_probs, tiny_adapter, tiny_base

GOLDEN_BASE, LIVE_BASE = Target(None, Weights.GOLDEN), Target(None)


@pytest.fixture
def bases(tmp_path: Path) -> tuple[Path, Path]:
    """Two bases of one shape; the first is where the runner looks."""
    return tiny_base(tmp_path / "base", seed=0), tiny_base(tmp_path / "other", seed=9)


def put(source: Path, target: Path) -> None:
    """Overwrite every file of ``target`` by its namesake, as an upstream release does."""
    for file in source.iterdir():
        shutil.copy(file, target / file.name)


def close(first: Floats, second: Floats) -> bool:
    return bool(np.abs(first - second).max() < 1e-4)


def test_a_swapped_base_is_noticed_waited_for_and_answers_beside_the_golden_one(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    adapter, first = tiny_adapter(tmp_path / "a", base), shutil.copytree(base, tmp_path / "first")
    runner = opened(base, tmp_path, {"a": adapter})
    assert set(runner.refresh().values()) == {Readiness()}
    golden_id = runner.identity(None)
    assert golden_id.golden_base == golden_id.live_base

    put(other, base)
    assert runner.refresh()[None].blocked is Reason.FILES_CHANGING
    with pytest.raises(Unreplayable, match="changed, waiting"):
        full(runner, [LIVE_BASE])
    assert runner.refresh()[None] == Readiness()
    assert runner.identity("a").base_moved and not runner.identity("a").adapter_moved
    answers = full(runner, [LIVE_BASE, Target("a"), GOLDEN_BASE, Target("a", Weights.GOLDEN)])
    assert close(answers[LIVE_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))
    assert close(answers[Target("a"), 0], peft_log_probs(other, adapter, PROMPT, FORCED))
    assert close(answers[GOLDEN_BASE, 0], peft_log_probs(first, None, PROMPT, FORCED))
    assert close(answers[Target("a", Weights.GOLDEN), 0], peft_log_probs(first, adapter, PROMPT, FORCED))

    put(first, base)
    runner.refresh()
    assert runner.refresh()[None] == Readiness()
    assert runner.loaded.live is runner.loaded.golden, "the golden base answers again, and the other one is let go"
    assert close(full(runner, [Target("a")])[Target("a"), 0], peft_log_probs(first, adapter, PROMPT, FORCED))


def test_rewriting_the_same_content_blocks_for_one_look_and_loads_nothing_new(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, _ = bases
    runner = opened(base, tmp_path)
    before = runner.loaded.live
    put(shutil.copytree(base, tmp_path / "copy"), base)
    assert [runner.refresh()[None].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert runner.loaded.live is before and not runner.identity(None).base_moved


def test_a_changed_setting_in_the_config_is_another_base(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    runner = opened(base, tmp_path)
    before = full(runner, [LIVE_BASE])[LIVE_BASE, 0]
    config = json.loads((base / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 10.0
    (base / "config.json").write_text(json.dumps(config))
    runner.refresh()
    runner.refresh()
    assert runner.identity(None).base_moved
    assert not close(full(runner, [LIVE_BASE])[LIVE_BASE, 0], before)


def test_half_a_base_is_unreadable_until_the_rest_has_come(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = bases
    runner = opened(base, tmp_path)
    weights, whole = base / "model.safetensors", (other / "model.safetensors").read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert runner.refresh()[None].blocked is Reason.FILES_CHANGING
    stalled = runner.refresh()[None]
    assert stalled.blocked is Reason.UNREADABLE and "half written" in stalled.detail
    with pytest.raises(Unreplayable, match="half written"):
        full(runner, [LIVE_BASE])
    assert len(runner.embed([(PROMPT, FORCED)], lambda: False)) == 1, "the golden base does not depend on the files"
    weights.write_bytes(whole)
    runner.refresh()
    assert runner.refresh()[None] == Readiness()
    assert close(full(runner, [LIVE_BASE])[LIVE_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))


def test_a_base_that_lacks_tensors_is_unreadable_and_not_filled_up_at_random(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, _ = bases
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    readiness = opened(base, tmp_path).refresh()[None]
    assert readiness.blocked is Reason.UNREADABLE and "9 tensors are missing" in readiness.detail


def test_a_base_away_at_open_is_told_and_loaded_when_it_comes(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "elsewhere")
    runner = opened(tmp_path / "base", tmp_path)
    assert runner.refresh()[None].blocked is Reason.UNREADABLE
    with pytest.raises(Unreplayable):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    shutil.copytree(base, tmp_path / "base")
    assert [runner.refresh()[None].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert runner.identity(None).golden_base, "the base first loaded is the golden one"
    full(runner, [LIVE_BASE])


def test_a_golden_base_of_its_own_is_not_the_live_one(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = bases
    runner = opened(other, tmp_path, golden_base=str(base))
    assert runner.identity(None).base_moved
    answers = full(runner, [LIVE_BASE, GOLDEN_BASE])
    assert close(answers[LIVE_BASE, 0], peft_log_probs(other, None, PROMPT, FORCED))
    assert close(answers[GOLDEN_BASE, 0], peft_log_probs(base, None, PROMPT, FORCED))


def test_without_golden_weights_embedding_is_refused_and_the_rest_works(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    runner = opened(base, tmp_path, golden_base=str(tmp_path / "lost"))
    with pytest.raises(Unreplayable, match=r"golden base is not loaded \(.*lost: no such folder or .gguf file\)"):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "config.json").write_text('{"model_type": "bert"}')
    runner.refresh()
    with pytest.raises(Unreplayable, match=r"golden base is not loaded \(.*is an encoder"):
        runner.embed([(PROMPT, FORCED)], lambda: False)
    shutil.rmtree(tmp_path / "lost")
    full(runner, [LIVE_BASE])
    assert runner.identity(None).golden_base == "" and runner.encode("abc")
    shutil.copytree(other, tmp_path / "lost")
    runner.refresh()
    assert runner.identity(None).base_moved


def test_a_golden_base_that_comes_late_has_the_adapters_that_were_read(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter}, golden_base=str(tmp_path / "late"))
    shutil.copytree(other, tmp_path / "late")
    runner.refresh()
    there = Target("a", Weights.GOLDEN)
    assert close(full(runner, [there])[there, 0], peft_log_probs(other, adapter, PROMPT, FORCED))


def test_a_golden_base_that_comes_late_and_is_the_live_one_is_no_second_copy(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    runner = opened(bases[0], tmp_path, golden_base=str(tmp_path / "late"))
    late = shutil.copytree(bases[0], tmp_path / "late")
    (late / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    runner.refresh()
    assert runner.loaded.golden is not None and runner.loaded.golden is runner.loaded.live
    messages = [{"role": "user", "content": "hi"}]
    assert runner.encode_chat(messages, Weights.GOLDEN) == runner.encode("hi") != runner.encode_chat(messages)


def test_a_base_on_the_hub_is_fetched_while_opening_and_not_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is played by a function with the signature of its client's."""
    there, here = tiny_base(tmp_path / "hub"), tmp_path / "snapshot"

    def snapshot_download(_: str, local_files_only: bool, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        if not here.exists() and local_files_only:
            raise FileNotFoundError("no snapshot here")
        if not here.exists():
            shutil.copytree(there, here)
        return str(here)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    runner = Runner(Config("somebody/some-base", device="cpu", cache_dir=str(tmp_path)))
    assert runner.refresh()[None].blocked is Reason.UNREADABLE and not here.exists()
    runner.open()
    assert runner.refresh()[None] == Readiness()
    full(runner, [LIVE_BASE])


def test_a_load_that_failed_keeps_no_frames_and_so_no_model(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    runner = opened(base, tmp_path)
    for _ in range(2):
        error = runner.loaded.base.error
        assert isinstance(error, Unreplayable) and "half written" in str(error)
        assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
        with pytest.raises(Unreplayable, match="half written"):
            full(runner, [LIVE_BASE])


def test_an_adapter_that_changes_is_read_again_and_has_no_golden_copy(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter, other = tiny_adapter(tmp_path / "a", base), tiny_adapter(tmp_path / "b", base, seed=5)
    runner = opened(base, tmp_path, {"a": adapter})
    put(other, adapter)
    assert [runner.refresh()["a"].blocked for _ in range(2)] == [Reason.FILES_CHANGING, None]
    assert runner.identity("a").adapter_moved
    assert close(full(runner, [Target("a")])[Target("a"), 0], peft_log_probs(base, other, PROMPT, FORCED))
    with pytest.raises(Unreplayable, match="no golden copy"):
        full(runner, [Target("a", Weights.GOLDEN)])


def test_what_lies_there_is_hashed_by_the_scheme_that_is_asked_for(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter})
    loaded = runner.loaded.live
    for file, changes in (
        (adapter / "adapter_config.json", {"lora_dropout": 0.5}),
        (base / "config.json", {"pad_token_id": 0}),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    for _ in range(2):
        runner.refresh()
    first, second = runner.identity("a", 1), runner.identity("a", 2)
    assert first.base_moved and first.adapter_moved and not second.base_moved and not second.adapter_moved
    for scheme, seen in ((1, first), (2, second)):
        assert (seen.live_base, seen.live_adapter) == (base_hash(base, scheme), adapter_hash(adapter, scheme))
        assert runner.golden_hashes("a", scheme) == (seen.golden_base, seen.live_adapter)
    assert runner.loaded.live is loaded, "what answers alike is not loaded twice"


def test_a_lost_adapter_names_the_file_and_the_base_goes_on(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    runner = opened(base, tmp_path, {"a": adapter})
    (adapter / "adapter_model.safetensors").rename(tmp_path / "aside")
    readiness = runner.refresh()
    assert readiness["a"].blocked is Reason.UNREADABLE
    assert readiness["a"].detail.endswith("adapter_model.safetensors gone")
    with pytest.raises(Unreplayable, match="gone"):
        full(runner, [Target("a")])
    full(runner, [LIVE_BASE])
    (tmp_path / "aside").rename(adapter / "adapter_model.safetensors")
    for _ in range(2):
        runner.refresh()
    full(runner, [Target("a")])


def test_an_unsupported_adapter_is_told_by_name_everywhere(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    adapter = tiny_adapter(tmp_path / "a", base)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    runner = opened(base, tmp_path, {"a": adapter})
    assert runner.refresh()["a"].blocked is Reason.UNREADABLE
    assert "use_dora" in runner.facts("a")[0]
    with pytest.raises(Unsupported, match="use_dora"):
        full(runner, [Target("a")])


def test_files_that_change_during_a_round_drop_it(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = bases
    runner = opened(base, tmp_path)
    answers = runner.run([Replay("c", PROMPT, FORCED, LIVE_BASE)], lambda: False)
    next(answers)
    put(other, base)
    with pytest.raises(Unreplayable, match="changed while replaying"):
        next(answers)


def test_a_changed_template_is_known_as_one_and_the_golden_one_is_left_to_traffic(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, _ = bases
    runner = opened(base, tmp_path, {"a": tiny_adapter(tmp_path / "a", base)})
    messages = [{"role": "user", "content": "hi"}]
    before = runner.encode_chat(messages)
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    runner.refresh()
    runner.refresh()
    for scheme in SCHEMES:
        seen = runner.identity("a", scheme)
        assert seen.template_moved and not seen.tokenizer_moved and not seen.base_moved and seen.scheme == scheme
    assert runner.encode_chat(messages, Weights.GOLDEN) == before
    assert runner.encode_chat(messages) == runner.encode("hi")


def test_another_tokenizer_that_is_then_accepted_needs_no_restart(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    runner = opened(base, tmp_path)
    before = tokenizer_fingerprint(runner)
    file = base / "tokenizer.json"
    told = json.loads(file.read_text())
    words = told["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(told))
    runner.refresh()
    assert runner.refresh()[None] == Readiness()
    present = tokenizer_fingerprint(runner)
    assert present != before
    assert present == tokenizer_fingerprint(opened(base, tmp_path)), "what an enrolment in another process records"
    assert runner.encode("ab", Weights.GOLDEN) == runner.encode("ba")


def test_a_token_beyond_the_vocabulary_is_unreplayable(bases: tuple[Path, Path], tmp_path: Path) -> None:
    runner = opened(bases[0], tmp_path)
    with pytest.raises(Unreplayable, match="token 5000 is beyond its vocabulary of 98"):
        full(runner, [LIVE_BASE], [(PROMPT, (5000,))])


def test_a_token_to_keep_beyond_the_logits_is_unreplayable(bases: tuple[Path, Path], tmp_path: Path) -> None:
    kept = np.full((len(FORCED), 2), -1, np.int32)
    kept[3, 1] = 98
    runner = opened(bases[0], tmp_path)
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


def test_a_closed_runner_can_be_opened_again(bases: tuple[Path, Path], tmp_path: Path) -> None:
    runner: Runner = opened(bases[0], tmp_path)
    before = full(runner, [LIVE_BASE])
    runner.close()
    with pytest.raises(Unreplayable, match="closed"):
        full(runner, [LIVE_BASE])
    runner.open()
    assert np.array_equal(full(runner, [LIVE_BASE])[LIVE_BASE, 0], before[LIVE_BASE, 0])


def test_a_base_without_a_chat_template_says_so(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    with pytest.raises(Unreplayable, match=r"its tokenizer has no chat template \(chat_template\.jinja"):
        opened(base, tmp_path).encode_chat([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("torn", ["", "{", '{"version":"1.0","added_tokens":[],"model":{"type":"BPE"}}'])
def test_a_torn_tokenizer_blocks_its_base_in_words(tmp_path: Path, torn: str) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "tokenizer.json").write_text(torn)
    (readiness,) = opened(base, tmp_path).refresh().values()
    assert readiness.blocked is Reason.UNREADABLE
    assert "its tokenizer cannot be read" in readiness.detail and "\n" not in readiness.detail


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
    for told, ends in (({"eos_token_id": 0}, {0}), ({"eos_token_id": [0, 5]}, {0, 5}), ({}, {2})):
        (base / "generation_config.json").write_text(json.dumps(told))
        live = opened(base, tmp_path / "cache").loaded.live
        assert live is not None and live.ends == ends
