"""What the users of an engine notice of its being watched: the real server of llama.cpp and a closed-loop client.

A random two-layer Llama with a random adapter, accepted by ``gapwatch enrol`` through the engine, so that a token costs
the engine about as little as one of a large model costs a large card. Two clients send a request as soon as the last
one is answered. In alternating blocks of one run a round of canaries by the default settings is under way (its requests
one after the other, without the waits by which the budget of a minute spreads them), or nothing for as long. The
default cadence has one such round every ten minutes: a mean at that cadence is that of both kinds of block, weighted by
the requests that are answered in the time that each kind takes of ten minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
from scipy.stats import t as student_t

from benchmarks.engines.real_llama import random_adapter
from benchmarks.engines.watched import Watch, watching
from benchmarks.figures import Figure, at_most, console, context
from detectors.records import Floats
from probes.serving.json_form import samples

CLIENTS = 2
PROMPT_TOKENS, WRITTEN = 160, 48
PAIRS = 8


def measure(quick: bool) -> list[Figure]:
    """Ratio of mean latencies with its upper bound, the one of 99th percentiles, and the share of tokens."""
    with _engine() as (url, watch):
        watch.round()  # the first one checks the route besides
        before, began = _tokens(url), time.monotonic()
        watch.round()
        of_round, alone_s = _tokens(url) - before, time.monotonic() - began
        with _clients(url) as clients:
            pairs = [_pair(url, watch, clients) for _ in range(3 if quick else PAIRS)]
    assert watch.config.models[0].served is not None
    return _figures(pairs, watch.config.models[0].served.every, of_round, alone_s)


@dataclass(frozen=True, slots=True)
class Block:
    """latencies: of the requests that were answered in it, s; tokens: that the engine read and wrote for clients"""

    latencies: Floats
    seconds: float
    tokens: float


@dataclass
class Clients:
    """answered: when, and after how long, s"""

    answered: list[tuple[float, float]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def between(self, start: float, end: float) -> Floats:
        """Latencies of the requests that were sent and answered within."""
        return np.array([took for at, took in self.answered if start <= at - took and at <= end], np.float32)


def _pair(url: str, watch: Watch, clients: Clients) -> tuple[Block, Block]:
    """Blocks of equal length: with a round under way, and without."""
    began = time.monotonic()
    watch.round()
    ended = time.monotonic()
    before = _tokens(url)
    time.sleep(ended - began)
    now = time.monotonic()
    on = Block(clients.between(began, ended), ended - began, float("nan"))
    off = Block(clients.between(ended, now), now - ended, _tokens(url) - before)
    console.print(
        f"  {on.seconds:.1f} s: {on.latencies.mean():.4f} s a request in a round, {off.latencies.mean():.4f} without"
    )
    return on, off


def _figures(pairs: Sequence[tuple[Block, Block]], cadence_s: float, of_round: float, alone_s: float) -> list[Figure]:
    ratios = np.array([_at_cadence(on, off, cadence_s) / float(off.latencies.mean()) for on, off in pairs])
    in_round = np.array([on.latencies.mean() / off.latencies.mean() for on, off in pairs])
    off_tokens = sum(off.tokens for _, off in pairs) / sum(off.seconds for _, off in pairs)
    of = f"llama.cpp, random two-layer Llama, {CLIENTS} closed-loop clients, a round every {cadence_s / 60:g} min"
    requests = sum(len(block.latencies) for pair in pairs for block in pair)
    return [
        at_most(f"{of}: mean latency over that without a watch, upper 95 % bound", _upper(ratios), "times", 1.02),
        context(f"{of}: mean latency over that without a watch", float(ratios.mean()), "times"),
        context(f"{of}: 99th percentile over that without a watch", _p99(pairs, cadence_s), "times"),
        context(f"{of}: mean latency while a round is under way", float(in_round.mean()), "times"),
        context(f"{of}: upper 95 % bound of that", _upper(in_round), "times"),
        at_most(
            f"{of}: tokens that the engine computes for probes over those for clients",
            100 * of_round / (off_tokens * cadence_s), "%", 0.5,
        ),
        context(f"{of}: tokens that the engine computes for one round", of_round, "tokens"),
        context(f"{of}: tokens that it computes for clients in a second", off_tokens, "tokens"),
        context(f"{of}: a round with no client beside", alone_s, "s"),
        context(f"{of}: requests of clients that were measured", requests, "requests"),
    ]  # fmt: skip


def _at_cadence(on: Block, off: Block, cadence_s: float) -> float:
    """Mean latency over a cadence, of which a round takes the length of its block."""
    in_round, without = len(on.latencies), len(off.latencies) / off.seconds * (cadence_s - on.seconds)
    return float(in_round * on.latencies.mean() + without * off.latencies.mean()) / (in_round + without)


def _p99(pairs: Sequence[tuple[Block, Block]], cadence_s: float) -> float:
    """Ratio of weighted 99th percentiles: each request of a block without stands for as many as a cadence has."""
    on, off = (np.concatenate([pair[i].latencies for pair in pairs]) for i in (0, 1))
    seconds = sum(block.seconds for block, _ in pairs), sum(block.seconds for _, block in pairs)
    weight = (len(pairs) * cadence_s - seconds[0]) / seconds[1]
    values, weights = np.concatenate([on, off]), np.concatenate([np.ones(len(on)), np.full(len(off), weight)])
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(weights[order]), 0.99 * weights.sum())
    return float(values[order][at] / np.quantile(off, 0.99))


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
def _engine() -> Iterator[tuple[str, Watch]]:
    """With an adapter that is accepted and watched."""
    with random_adapter() as served, served.server(["--slots", "4"]) as url:
        watch = watching(served.config, seed=3, url=url)
        yield url, watch
        watch.runner.close()


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
