"""Does the demo's traffic say what an engine's exporter would, tokens included?"""

from __future__ import annotations

from itertools import islice

import orjson

from agent.demo.stage import HELPDESK
from agent.demo.traffic import DemoTraffic
from agent.kafka.contract import Message
from agent.traffic.formats import gapwatch_v1
from probes.scoring.interaction import Interaction


def first(traffic: DemoTraffic) -> Interaction:
    ((key, value),) = islice(traffic.records(), 1)
    message = Message(0, 0.0, key, value, {})
    return gapwatch_v1.read(message, orjson.loads(value), ("llm.interactions", 0))


def test_each_request_has_the_tokens_of_its_prompt_and_of_the_answer_that_was_served() -> None:
    traffic = DemoTraffic(HELPDESK / "traffic", "smollm2", lambda _: None)
    own = first(traffic)
    traffic.served_by_base = True
    bare = first(traffic)
    assert own.prompt_tokens == bare.prompt_tokens > own.output_tokens > 0
    assert bare.output_tokens > own.output_tokens and bare.output != own.output
