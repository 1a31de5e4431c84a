"""What loaded models are known by: hashes, chat templates and tokenizers, and files that moved during a round."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from detectors.records import NO_GRID
from probes.artefacts.identity import SCHEMES, adapter_hash, base_hash
from probes.errors import Unreplayable
from probes.golden.record import identity_of, tokenizer_fingerprint
from probes.runner import Readiness, Replay, Target, Weights
from tests.probes.artefacts.recipes import symmetric
from tests.probes.goldens import golden
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


def test_a_base_that_is_quantised_in_place_is_known_beside_the_first_one(
    bases: tuple[Path, Path], tmp_path: Path
) -> None:
    base, other = bases
    runner = opened(base, tmp_path, {"a": tiny_adapter(tmp_path / "a", base)})
    weights = load_file(base / "model.safetensors")
    linear = [name for name in weights if name.endswith("proj.weight")]
    weights |= {name: symmetric(4, 32)(weights[name]).bfloat16().float() for name in linear}
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    overwrite(other, base)
    for _ in range(2):
        runner.refresh()
    identity = runner.identity(None)
    assert identity.base_quantised and identity.golden_grid == NO_GRID
    accepted = replace(golden("a"), base_hash=identity.golden_base, hash_scheme=identity.scheme)
    recorded = replace(accepted, base_grid="8 bits", base_hash="sha256:of another one")
    grids = [
        identity_of(record, runner).golden_grid for record in (accepted, recorded, replace(recorded, base_grid=""))
    ]
    assert grids == [NO_GRID, "8 bits", ""], "of the golden base only where that is the accepted one"
    assert identity.live_grid == "4 bits in groups of 32 (evenly spaced levels): 14 of 14 linear matrices"


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
