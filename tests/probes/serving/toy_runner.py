"""A runner over the toy engine: what a runner through a serving engine has to do, without HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from detectors.records import Identity
from probes.artefacts.identity import NEWEST
from probes.errors import Unsupported
from probes.runner import BatchShape, Replay, Replayed, Stop, Target
from probes.runners.memory import Config, Runner
from probes.serving.engine import Listed, Request, Route
from probes.serving.listed_summary import summary_of
from probes.serving.probe_check import Probe, ProbeCheck
from tests.probes.serving.toy_engine import BASE, ToyEngine
from tests.probes.worlds import ADAPTERS


class ToyRunner(Runner):
    """``engine`` answers; the rest of a memory runner renders prompts and knows no files."""

    def __init__(self, engine: ToyEngine) -> None:
        super().__init__(engine.config)
        self.engine = engine
        self.routes: dict[str, Route] = {}
        self.check = ProbeCheck(engine, BASE, engine.routes, lambda: f"salt{engine.requests}")

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        del shape
        for replay in replays:
            if stop():
                return
            assert replay.kept is not None
            yield Replayed(replay, summary_of(self._listed(replay), replay.kept))

    def most_listed(self) -> int:
        return self.engine.most_listed

    def listings(self, replays: Sequence[Replay], stop: Stop) -> dict[Replay, Listed]:
        return {replay: self._listed(replay) for replay in replays if not stop()}

    def choose_route(
        self,
        adapter: str,
        probes: Sequence[Probe],
        tolerance: float,
        stop: Stop,  # noqa: ARG002
    ) -> tuple[str, ...]:
        checked = self.check.known(adapter, probes, tolerance)
        self.routes[adapter] = checked.route
        return checked.findings

    def takes_strengths(self) -> bool:
        return False

    def made_on(self, adapter: str) -> str:
        return f"toy 1.0, {self.routes[adapter]}"

    def identity(self, adapter: str | None, scheme: int = NEWEST) -> Identity:
        del adapter
        return Identity(scheme=scheme)

    def facts(self, adapter: str) -> tuple[str, ...]:
        del adapter
        return ()

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        del stop
        answer = self.engine.generate(Request(target.adapter or BASE, tuple(prompt)), max_new_tokens)
        return tuple(answer.listed.tokens.tolist())

    def _listed(self, replay: Replay) -> Listed:
        if replay.target.scale != 1.0 or replay.target.fault:
            raise Unsupported(str(replay.target.adapter), "another strength")
        model = replay.target.adapter or BASE
        request = Request(model, replay.prompt, replay.listed or self.engine.most_listed)
        return self.engine.score(request, replay.forced, self.routes.get(model, Route.PROMPT)).listed


def served(**changed: Any) -> ToyRunner:
    """Open, over an engine with the usual adapters."""
    runner = ToyRunner(ToyEngine(Config(adapters=dict(ADAPTERS)), **changed))
    runner.open()
    return runner
