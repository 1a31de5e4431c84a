"""What the users of an engine notice of its being watched: the real server of llama.cpp and a closed-loop client.

A random two-layer Llama with a random adapter, accepted by ``gapwatch enrol`` through the engine, so that a token costs
the engine about as little as one of a large model costs a large card. Two clients send a request as soon as the last
one is answered. Beside them is ``gapwatch run``, a process of its own with the default settings; in short blocks of one
run its processes go on, and are stopped by a signal, in the order on, off, off, on or the reverse, as is drawn: the
engine alone may answer 15 % slower or faster from one ten seconds to the next, and what it gains or loses steadily over
four blocks is so on both sides. Its first round, with the check of the route, is among the blocks, so that it has more
rounds in the time that it runs than one in ten minutes: no mean is corrected for that. Where other programs share the
machine the ratio is theirs: its load stands beside it.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from scipy.stats import t as student_t

from benchmarks.engines.real_llama import Served, random_adapter
from benchmarks.figures import Figure, at_most, console, context
from benchmarks.process.agents import Agent, agent, wait_for
from detectors.records import Floats
from probes.serving.json_form import samples

CLIENTS = 2
PROMPT_TOKENS, WRITTEN = 160, 48
PAIRS, BLOCK_S = 160, 1.5
ROUND_WITHIN_S = 400.0
ROUNDS = r"gapwatch_rounds_total"


def measure(quick: bool) -> list[Figure]:
    """Ratio of mean latencies with its upper bound, the one of 99th percentiles, and the share of tokens."""
    with random_adapter() as served, served.server(["--slots", "4"]) as url, tempfile.TemporaryDirectory() as place:
        with agent(Path(place) / "agent", _settings(served, url)) as running:
            wait_for(lambda: running.get("/livez"), "an agent that answers")
            before = _tokens(url)
            with _clients(url) as clients:
                pairs = _pairs(running, clients, 3 if quick else PAIRS)
            _signal(running, signal.SIGCONT)
            wait_for(lambda: running.metric(ROUNDS), "the end of a round", ROUND_WITHIN_S)
            rounds = running.metric(ROUNDS) or 0.0
            of_probes = _tokens(url) - before - len(clients.answered) * (PROMPT_TOKENS + WRITTEN)
    (model,) = served.config.models
    assert model.served is not None
    return list(_figures(pairs, model.served.every, of_probes, rounds))


def _settings(served: Served, url: str) -> dict[str, object]:
    """As `gapwatch init` writes them, with what was accepted; there is no broker and no store."""
    (model,) = served.config.models
    (adapter,) = model.adapters
    watched = {"name": adapter.name, "canaries": str(adapter.canaries)}
    return {
        "models": [{"name": model.name, "served": {"url": url}, "adapters": [watched]}],
        "probes": {"golden_dir": str(served.config.probes.golden_dir)},
        "kafka": None,
    }


@dataclass(frozen=True, slots=True)
class Block:
    """latencies: of the requests that were sent and answered in it, s"""

    latencies: Floats
    seconds: float


@dataclass
class Clients:
    """answered: when, and after how long, s"""

    answered: list[tuple[float, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def between(self, start: float, end: float) -> Floats:
        """Latencies of the requests that were sent and answered within."""
        return np.array([took for at, took in self.answered if start <= at - took and at <= end], np.float32)


def _pairs(running: Agent, clients: Clients, count: int) -> list[tuple[Block, Block]]:
    """Each with the agent going on, and with it stopped, in an order that is drawn."""
    rng = np.random.default_rng(0)
    return [_pair(running, clients, bool(rng.integers(2))) for _ in range(count)]


def _pair(running: Agent, clients: Clients, is_on_first: bool) -> tuple[Block, Block]:
    """Two blocks with the agent going on and two with it stopped, all of equal length; two of a kind count as one."""
    first, second = (signal.SIGCONT, signal.SIGSTOP) if is_on_first else (signal.SIGSTOP, signal.SIGCONT)
    blocks = [(number, _block(running, clients, number)) for number in (first, second, second, first)]
    on, off = (_joined([block for of, block in blocks if of == number]) for number in (signal.SIGCONT, signal.SIGSTOP))
    console.print(f"  {on.latencies.mean():.4f} s a request beside the agent, {off.latencies.mean():.4f} without")
    return on, off


def _joined(blocks: Sequence[Block]) -> Block:
    return Block(np.concatenate([block.latencies for block in blocks]), sum(block.seconds for block in blocks))


def _block(running: Agent, clients: Clients, number: signal.Signals) -> Block:
    _signal(running, number)
    began = time.monotonic()
    time.sleep(BLOCK_S)
    now = time.monotonic()
    return Block(clients.between(began, now), now - began)


def _signal(running: Agent, number: signal.Signals) -> None:
    for process in running.processes:
        process.send_signal(number)


def _figures(
    pairs: Sequence[tuple[Block, Block]], cadence_s: float, of_probes: float, rounds: float
) -> Iterator[Figure]:
    ratios = np.array([on.latencies.mean() / off.latencies.mean() for on, off in pairs])
    on, off = (np.concatenate([pair[i].latencies for pair in pairs]) for i in (0, 1))
    ran_s, without_s = (sum(pair[i].seconds for pair in pairs) for i in (0, 1))
    of_clients = len(off) / without_s * (PROMPT_TOKENS + WRITTEN)
    share, of_round = of_probes / rounds / (of_clients * cadence_s), of_probes / rounds
    p99 = float(np.quantile(on, 0.99) / np.quantile(off, 0.99))
    of = f"llama.cpp, random two-layer Llama, {CLIENTS} closed-loop clients, gapwatch run beside them"
    yield at_most(f"{of}: mean latency over that without it, upper 95 % bound", _upper(ratios), "times", 1.02)
    yield context(f"{of}: mean latency over that without it", float(ratios.mean()), "times")
    yield context(f"{of}: 99th percentile over that without it", p99, "times")
    yield at_most(f"{of}: tokens of a round over those of clients in {cadence_s / 60:g} min", 100 * share, "%", 0.5)
    yield context(f"{of}: tokens that the engine computes for a round, with the first one's checks", of_round, "tokens")
    yield context(f"{of}: time that it ran while they were measured", ran_s, "s")
    yield context(f"{of}: tokens that the engine computes for clients in a second", of_clients, "tokens")
    yield context(f"{of}: load average of the machine", os.getloadavg()[1], "processes")
    yield context(f"{of}: requests of clients that were measured", len(on) + len(off), "requests")


def _upper(ratios: Floats) -> float:
    """One-sided 95 % bound of the mean over pairs.

    Null hypothesis: pairs are independent draws with that mean. Guarantee: asymptotic, exact for normal ones.
    What breaks it: other load on the machine that lasts for several blocks. Source: Student (1908), Biometrika 6.
    """
    n = len(ratios)
    return float(ratios.mean() + student_t.ppf(0.95, n - 1) * ratios.std(ddof=1) / n**0.5)


def _tokens(url: str) -> float:
    """That it has computed since its start: of prompts, without what came from a cache, and written."""
    values = samples(httpx.get(f"{url}/metrics").text)
    return values["llamacpp:prompt_tokens_total"][0] + values["llamacpp:tokens_predicted_total"][0]


@contextmanager
def _clients(url: str) -> Iterator[Clients]:
    clients = Clients()
    threads = [threading.Thread(target=_ask_on, args=(url, clients, seed)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.ended.set()
        for thread in threads:
            thread.join()


def _ask_on(url: str, clients: Clients, seed: int) -> None:
    """Another prompt each time; the adapter answers at its own scale."""
    rng = np.random.default_rng(seed)
    with httpx.Client(timeout=60.0) as client:
        while not clients.ended.is_set():
            prompt = rng.integers(5, 90, PROMPT_TOKENS).tolist()
            began = time.monotonic()
            body = {"prompt": prompt, "n_predict": WRITTEN, "temperature": 0, "ignore_eos": True}
            client.post(f"{url}/completion", json=body).raise_for_status()
            now = time.monotonic()
            clients.answered.append((now, now - began))
