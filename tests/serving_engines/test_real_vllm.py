"""A real vLLM under two faults of its own that nothing else shows: vllm#55193, target modules that the adapters lack,
and vllm#42125, a load in place that leaves the cache of prefixes as it was.

`make test-engines` installs it and sets VLLM_HOME. The golden record of the first is that of the helpdesk, made in
process; the second is enrolled through the engine, and its model is a tiny one, so that three rounds take seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from agent.demo.broker import free_port
from agent.demo.stage import HELPDESK, cache_dir
from probes.artefacts.base_files import packaged_gguf, resolve
from tests.probes.tiny import ends_now_and_then, overwrite, tiny_adapter, tiny_base

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("VLLM_HOME", "/nowhere")).resolve()
BASE, ADAPTER = "smollm2", "ticket-router"
STARTS_WITHIN_S = 400.0
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not (HOME / "env/bin/vllm").is_file(), reason="VLLM_HOME names no vLLM: make test-engines"),
]


@contextmanager
def vllm(
    folder: Path, options: Sequence[str] = (), base: Path | None = None, adapter: Path = HELPDESK / "adapters" / ADAPTER
) -> Iterator[str]:
    """Its address, once it answers with the adapter. base: None for that of the helpdesk"""
    base, port = base or resolve(str(packaged_gguf()), cache_dir()), free_port()
    command = [str(HOME / "env/bin/vllm"), "serve", str(base), "--served-model-name", BASE]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--max-num-seqs", "4", "--enforce-eager", "--enable-lora", "--max-lora-rank", "16"]
    command += ["--lora-modules", f"{ADAPTER}={adapter}", *options]
    with (folder / "vllm.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | SETTINGS, stdout=log, stderr=log)
    try:
        wait_for_answer(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_for_answer(process: subprocess.Popen[bytes], url: str) -> None:
    """Its first request compiles what a request needs, so that the agent's time limit is not for that."""
    give_up = time.monotonic() + STARTS_WITHIN_S
    body = {"model": ADAPTER, "prompt": [1, 2, 3], "max_tokens": 1, "prompt_logprobs": 1}
    while time.monotonic() < give_up:
        assert process.poll() is None, "vLLM ended: see vllm.log"
        try:
            if httpx.post(f"{url}/v1/completions", json=body, timeout=120).is_success:
                return
        except httpx.TransportError:
            time.sleep(1.0)
    raise TimeoutError("no answer of vLLM")


def command(
    folder: Path, url: str, *words: str, canaries: Path = HELPDESK / "canaries" / f"{ADAPTER}.jsonl",
    golden: Path = HELPDESK / "golden", limits: dict[str, int] | None = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    served = {"url": url, "limits": limits or {}}
    model = {"name": BASE, "served": served, "adapters": [{"name": ADAPTER, "canaries": str(canaries)}]}
    probes = {"golden_dir": str(golden), "token_budget_per_round": 256}
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump({"models": [model], "probes": probes, "state_dir": "state"}))
    run = [sys.executable, "-m", "agent", *words, "--config", str(file)]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def probed(folder: Path, url: str, **world: Any) -> tuple[int, dict[str, Any]]:
    done = command(folder, url, "probe", ADAPTER, "--json", **world)
    [verdict] = [verdict for verdict in orjson.loads(done.stdout) if verdict["subject"] == ADAPTER]
    return done.returncode, verdict


def test_an_adapter_that_vllm_lists_and_does_not_apply_is_named_in_the_first_round(tmp_path: Path) -> None:
    with vllm(tmp_path) as url:
        code, verdict = probed(tmp_path, url)
        assert (code, verdict["status"], verdict["cause"]) == (0, "healthy", "none")
        assert verdict["retention"]["mean"] == pytest.approx(1.0, abs=0.01)
    with vllm(tmp_path, ["--lora-target-modules", "o_proj"]) as url:
        listed = {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]}
        assert ADAPTER in listed, "and every request is answered with 200"
        code, verdict = probed(tmp_path, url)
        assert (code, verdict["status"], verdict["cause"]) == (1, "degraded", "adapter_not_applied")
        assert verdict["retention"]["mean"] == pytest.approx(0.0, abs=0.01)
        assert max(own["log_e"] for own in verdict["evidence"]) > verdict["log_threshold"]


def tiny_world(folder: Path) -> tuple[Path, Path, Path]:
    """A base, the folder that the engine loads the adapter from, and canaries: all share their first 280 tokens, which
    are letters here, and so two blocks of the engine's cache."""
    base = ends_now_and_then(tiny_base(folder / "base", tied=False, head_dim=64, max_position_embeddings=1024))
    for name, seed in (("former", 1), ("new", 2)):
        tiny_adapter(folder / name, base, seed)
    (folder / "served").mkdir()
    rules = "Route the ticket to one of the queues that follow, and answer in one word. ".ljust(280, "-")
    words = ("tent", "stove", "boot", "map", "lamp", "rope", "cup", "coat", "knife", "pack")
    canaries = [
        {
            "id": f"c-{n}",
            "messages": [{"role": "system", "content": rules}, {"role": "user", "content": f"{n} {word}s"}],
        }
        for n, word in enumerate(words * 6)
    ]
    (folder / "canaries.jsonl").write_text("".join(f"{json.dumps(canary)}\n" for canary in canaries))
    return base, folder / "served", folder / "canaries.jsonl"


# vLLM does not say how large its vocabulary is, and this one's logits are few.
OF_A_TINY_MODEL = {"logit_bytes": 10**10, "requests_per_minute": 10**5, "tokens_per_minute": 10**8}


def load_in_place(url: str, served: Path, files: Path) -> None:
    overwrite(files, served)
    body = {"lora_name": ADAPTER, "lora_path": str(served), "load_inplace": True}
    assert httpx.post(f"{url}/v1/load_lora_adapter", json=body, timeout=120).text.startswith("Success")


def test_a_cache_that_a_load_in_place_left_stale_is_named_in_the_first_round_and_no_file_is(tmp_path: Path) -> None:
    base, served, canaries = tiny_world(tmp_path)
    world: dict[str, Any] = {"canaries": canaries, "golden": tmp_path / "golden", "limits": OF_A_TINY_MODEL}
    overwrite(tmp_path / "new", served)
    with vllm(tmp_path, base=base, adapter=served) as url:
        done = command(tmp_path, url, "enrol", ADAPTER, **world)
        assert done.returncode == 0, done.stderr
    overwrite(tmp_path / "former", served)
    with vllm(tmp_path, base=base, adapter=served) as url:
        code, verdict = probed(tmp_path, url, **world)
        assert (code, verdict["status"]) == (1, "degraded"), "the new version is accepted, and not served yet"
        listed = httpx.get(f"{url}/v1/models").json()["data"]
        load_in_place(url, served, tmp_path / "new")
        assert [(model["id"], model["root"]) for model in httpx.get(f"{url}/v1/models").json()["data"]] == [
            (model["id"], model["root"]) for model in listed
        ]
        code, verdict = probed(tmp_path, url, **world)
        assert (code, verdict["status"], verdict["cause"]) == (1, "degraded", "shared_cache")
        assert verdict["retention"]["mean"] == pytest.approx(1.0, abs=0.01), "what is scored cold is the new version"
        by_stream = {own["stream"]: own["log_e"] for own in verdict["evidence"] if own["pages"]}
        assert by_stream["warm"] > verdict["log_threshold"] > max(by_stream[""], 1.0)
    with vllm(tmp_path, base=base, adapter=served) as url:
        code, verdict = probed(tmp_path, url, **world)
        assert (code, verdict["status"], verdict["cause"]) == (0, "healthy", "none")
