"""A real vLLM under a fault of its own that nothing else shows: vllm#55193, target modules that the adapters lack.

`make test-engines` installs it and sets VLLM_HOME. The golden record is that of the helpdesk, made in process.
"""

from __future__ import annotations

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

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("VLLM_HOME", "/nowhere")).resolve()
ADAPTER = "ticket-router"
STARTS_WITHIN_S = 400.0
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
}

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not (HOME / "env/bin/vllm").is_file(), reason="VLLM_HOME names no vLLM: make test-engines"),
]


@contextmanager
def vllm(folder: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """Its address, once it answers with the adapter."""
    base, port = resolve(str(packaged_gguf()), cache_dir()), free_port()
    command = [str(HOME / "env/bin/vllm"), "serve", str(base), "--served-model-name", "smollm2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--max-num-seqs", "4", "--enforce-eager", "--enable-lora", "--max-lora-rank", "16"]
    command += ["--lora-modules", f"{ADAPTER}={HELPDESK / 'adapters' / ADAPTER}", *options]
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


def command(folder: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    canaries = HELPDESK / "canaries" / f"{ADAPTER}.jsonl"
    model = {"name": "smollm2", "served": {"url": url}, "adapters": [{"name": ADAPTER, "canaries": str(canaries)}]}
    probes = {"golden_dir": str(HELPDESK / "golden"), "token_budget_per_round": 256}
    file = folder / "gapwatch.yaml"
    file.write_text(yaml.safe_dump({"models": [model], "probes": probes, "state_dir": "state"}))
    run = [sys.executable, "-m", "agent", *words, "--config", str(file)]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def probed(folder: Path, url: str) -> tuple[int, dict[str, Any]]:
    done = command(folder, url, "probe", ADAPTER, "--json")
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
