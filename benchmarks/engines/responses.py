"""Sampled responses of a real engine, as a gateway logs them, through a real Kafka to an agent that has nothing else.

The agent is ``gapwatch run`` in a process of its own: canaries are off and no engine is named, every response is in the
sample, and all other settings are the defaults. It scores with the helpdesk's accepted base and adapter.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import orjson

from agent.demo.broker import start_broker
from agent.demo.receiver import ReceivedIncident, Receiver
from agent.demo.stage import HELPDESK, ROUTING_KEY, TOPIC, cache_dir
from agent.kafka.client import Publisher, ensure_topic, publisher
from agent.kafka.contract import Outgoing
from benchmarks.process.agents import Agent, agent, wait_for
from examples.helpdesk.data import examples
from probes.artefacts.base_files import packaged_gguf, resolve

SAMPLED = {"temperature": 0.7, "top_p": 0.95, "max_tokens": 24, "return_token_ids": True}
SCORED_WITHIN_S, PAGED_WITHIN_S = 300.0, 90.0


@dataclass(frozen=True, slots=True)
class Paged:
    """pages: sent while the engine was healthy

    responses: of the faulty engine that were scored until the page, None for no page; page: as it was received
    """

    pages: int
    responses: int | None
    page: ReceivedIncident | None


def sampled(url: str, adapter: str, count: int) -> list[bytes]:
    """So many answers of the engine to the adapter's traffic, as OpenAI pairs. Raises httpx.HTTPError."""
    chats = islice(cycle(example.messages for example in examples(adapter, "traffic")), count)
    pairs = []
    with httpx.Client(timeout=300.0) as client:
        for chat in chats:
            request = {"model": adapter, "messages": chat, **SAMPLED}
            answer = client.post(f"{url}/v1/chat/completions", json=request).raise_for_status()
            pairs.append(orjson.dumps({"request": request, "response": answer.json()}))
    return pairs


def until_paged(base: str, adapter: str, healthy: Sequence[bytes], faulty: Sequence[bytes]) -> Paged:
    """Healthy responses, then those of the faulty engine, each sent once the one before it was scored."""
    with tempfile.TemporaryDirectory() as place, Receiver() as receiver:
        folder = Path(place)
        (folder / "routing-key").write_text(ROUTING_KEY + "\n")
        with start_broker(folder / "broker") as broker:
            ensure_topic(broker.bootstrap, TOPIC, partitions=1)
            settings = _settings(folder, base, adapter, broker.bootstrap, receiver.url)
            with agent(folder / "agent", settings) as running, publisher(broker.bootstrap, TOPIC) as out:
                _scored(running, out, healthy, len(healthy))
                time.sleep(settings["scoring"]["every"] * 2)
                pages = len(receiver.incidents)
                for number, response in enumerate(faulty, 1):
                    _scored(running, out, [response], len(healthy) + number)
                    if page := _page(receiver, settings["scoring"]["every"] * 2):
                        return Paged(pages, number, page)
                page = _page(receiver, PAGED_WITHIN_S)
                return Paged(pages, len(faulty) if page else None, page)


def _settings(folder: Path, base: str, adapter: str, bootstrap: str, pagerduty: str) -> dict[str, Any]:
    """Rounds of responses every few seconds, so that each is judged alone: the threshold is a little higher then."""
    files = {"name": adapter, "path": str(HELPDESK / "adapters" / adapter)}
    canaries = {"canaries": str(HELPDESK / "canaries" / f"{adapter}.jsonl")}
    model = {"name": base, "path": str(resolve(str(packaged_gguf()), cache_dir())), "adapters": [files | canaries]}
    return {
        "models": [model],
        "kafka": {"bootstrap_servers": [bootstrap], "topic": TOPIC, "auto_offset_reset": "earliest"},
        "sampling": {"rate": 1.0, "per_adapter_per_minute": 1000},
        "scoring": {"every": 5.0},
        "probes": {"canaries": False, "golden_dir": str(HELPDESK / "golden"), "cache_dir": str(cache_dir())},
        "alerts": {"pagerduty": {"routing_key_file": str(folder / "routing-key"), "url": pagerduty}},
    }


def _scored(running: Agent, out: Publisher, responses: Sequence[bytes], total: int) -> None:
    out.send([Outgoing(None, response) for response in responses])
    wait_for(_reaches(running, total), f"{total} scored responses: see {running.folder}/agent.log", SCORED_WITHIN_S)


def _reaches(running: Agent, total: int) -> Callable[[], bool]:
    return lambda: (running.metric(r'gapwatch_responses_total\{.*scored="sampled"') or 0) >= total


def _page(receiver: Receiver, within_s: float) -> ReceivedIncident | None:
    give_up = time.monotonic() + within_s
    while not receiver.incidents and time.monotonic() < give_up:
        time.sleep(0.2)
    return next(iter(receiver.incidents), None)
