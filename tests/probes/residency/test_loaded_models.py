"""What loaded models are known by: hashes, chat templates and tokenizers, and files that moved during a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probes.artefacts.identity import SCHEMES, adapter_hash, base_hash
from probes.errors import Unreplayable
from probes.golden.record import tokenizer_fingerprint
from probes.runner import Readiness, Replay, Target, Weights
from tests.probes.tiny import FORCED, PROMPT, opened, overwrite, tiny_adapter

GOLDEN_BASE, LIVE_BASE = Target(None, Weights.GOLDEN), Target(None)


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
    for scheme, identity in ((1, first), (2, second)):
        assert (identity.live_base, identity.live_adapter) == (base_hash(base, scheme), adapter_hash(adapter, scheme))
        assert runner.golden_hashes("a", scheme) == (identity.golden_base, identity.live_adapter)
    assert runner.loaded.live is loaded, "what answers alike is not loaded twice"


def test_files_that_change_during_a_round_drop_it(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, other = bases
    runner = opened(base, tmp_path)
    answers = runner.run([Replay("c", PROMPT, FORCED, LIVE_BASE)], lambda: False)
    next(answers)
    overwrite(other, base)
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
        identity = runner.identity("a", scheme)
        assert (
            identity.template_moved
            and not identity.tokenizer_moved
            and not identity.base_moved
            and identity.scheme == scheme
        )
    assert runner.encode_chat(messages, Weights.GOLDEN) == before
    assert runner.encode_chat(messages) == runner.encode("hi")


def test_another_tokenizer_that_is_then_accepted_needs_no_restart(bases: tuple[Path, Path], tmp_path: Path) -> None:
    base, _ = bases
    runner = opened(base, tmp_path)
    before = tokenizer_fingerprint(runner)
    file = base / "tokenizer.json"
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    file.write_text(json.dumps(content))
    runner.refresh()
    assert runner.refresh()[None] == Readiness()
    present = tokenizer_fingerprint(runner)
    assert present != before
    assert present == tokenizer_fingerprint(opened(base, tmp_path)), "what an enrolment in another process records"
    assert runner.encode("ab", Weights.GOLDEN) == runner.encode("ba")
