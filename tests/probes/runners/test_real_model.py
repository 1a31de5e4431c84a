"""The real small model, from the .gguf that a package ships, with the committed ticket router, against PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from probes.artefacts.base_files import locate, packaged_gguf, resolve
from probes.artefacts.safetensors_header import digest, read_folder
from probes.canaries.log_prob_summary import keep, summarise
from probes.runner import BatchShape, Replay, Target
from probes.runners.in_process import Config, Runner
from tests.probes.tiny import peft_log_probs

ROUTER = Path(__file__).parents[3] / "examples" / "helpdesk" / "adapters" / "ticket-router"
# Converting takes far longer than anything here; the copy that the product keeps is the one used.
CACHE = Path(Config("unused").cache_dir).expanduser()


@pytest.fixture(scope="module")
def base() -> Path:
    return resolve(str(packaged_gguf()), CACHE)


@pytest.fixture(scope="module")
def runner(base: Path) -> Iterator[Runner]:
    opened = Runner(Config(str(packaged_gguf()), {"ticket-router": str(ROUTER)}, device="cpu"))
    opened.open()
    yield opened
    opened.close()


def test_a_converted_file_is_known_by_the_grid_that_it_was_quantised_on(runner: Runner) -> None:
    wanted = "4 bits in groups of 32 (evenly spaced levels): 210 of 210 linear matrices"
    assert runner.identity("ticket-router").live_grid == wanted, "Q4_1"


def test_the_converted_copy_is_kept_and_names_no_machine(base: Path) -> None:
    assert resolve(str(packaged_gguf()), CACHE) == base != locate(str(packaged_gguf()))
    assert digest(read_folder(base)).startswith("sha256:")
    assert str(packaged_gguf().parent) not in "".join(file.read_text() for file in base.glob("*config.json"))


@pytest.mark.timeout(900)
def test_the_ticket_router_answers_as_under_peft(runner: Runner, base: Path) -> None:
    messages = [{"role": "user", "content": "My parcel has not arrived and tracking has not moved for a week."}]
    prompt = runner.encode_chat(messages)
    forced = runner.generate(Target("ticket-router"), prompt, 12, lambda: False)
    assert runner.facts("ticket-router") == ()
    targets = {Target("ticket-router"): ROUTER, Target(None): None}
    replays = [Replay(str(i), prompt[i:], forced, target) for target in targets for i in (0, 1)]
    shape = BatchShape(rows=4)
    answers = {
        (answer.replay.target, answer.replay.canary): answer.full
        for answer in runner.run(replays, lambda: False, shape)
    }
    wanted = {target: peft_log_probs(base, folder, prompt, forced) for target, folder in targets.items()}
    for target, reference in wanted.items():
        got = answers[target, "0"]
        assert got is not None
        assert np.abs(got - reference).max() < 1e-3
    a, b = wanted[Target("ticket-router")], wanted[Target(None)]
    gap = (np.exp(a) * (a - b)).sum(axis=1).mean()
    assert gap > 0.5, "an adapter that does nothing here would prove nothing"

    kept = keep(a, b, np.array(forced, dtype=np.int32))
    (summarised,) = runner.run([Replay("s", prompt, forced, Target("ticket-router"), kept)], lambda: False)
    plain = summarise(a, kept)
    assert summarised.summary is not None
    assert np.abs(summarised.summary.log_probs[kept >= 0] - plain.log_probs[kept >= 0]).max() < 1e-3
    assert np.array_equal(summarised.summary.top1, plain.top1)
