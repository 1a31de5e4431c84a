"""What is remembered of the responses of all adapters and of their bases: incidents, and the latest verdict on each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from detectors.evidence.e_process_bank import OnsetEstimate
from detectors.records import Evidence, Interval, Status, Verdict
from detectors.traffic.adapter_decision import ResponseEstimates, ResponseIncident, decide_traffic
from detectors.traffic.base_decision import decide_traffic_base
from detectors.traffic.response_summary import summarise
from detectors.traffic.sampler_report import sampler_in_words, with_sampler
from detectors.traffic_records import Calibration, TrafficRound
from detectors.verdicts.decision import Incident, Rules


class Likelihood(Protocol):
    """What is asked of kinds/traffic_likelihood.py beside its evidence."""

    def onset(self, subject: str) -> OnsetEstimate | None: ...

    def retention(self, subject: str) -> Interval | None: ...


class Samplers(Protocol):
    """What is asked of kinds/token_calibration.py beside its evidence."""

    def calibration(self, subject: str, record: TrafficRound) -> Calibration | None: ...


@dataclass(slots=True)
class ResponseIncidents:
    """rules: of the fleet; likelihood, samplers: None where that detector is switched off

    incidents: adapter -> what is remembered; latest: adapter -> the last verdict by its responses, not saved
    bases, latest_bases: likewise of bases with two adapters or more; calibrations: adapter -> the last, not saved
    """

    rules: Rules
    likelihood: Likelihood | None
    samplers: Samplers | None = None
    incidents: dict[str, ResponseIncident] = field(default_factory=dict)
    latest: dict[str, Verdict] = field(default_factory=dict)
    bases: dict[str, Incident] = field(default_factory=dict)
    latest_bases: dict[str, Verdict] = field(default_factory=dict)
    calibrations: dict[str, Calibration] = field(default_factory=dict)

    def decide(self, record: TrafficRound, evidence: Mapping[str, tuple[Evidence, ...]]) -> list[Verdict]:
        """The verdict on each adapter of the round, in their order, then on their base where there are two or more.

        evidence: adapter -> its streams
        """
        found = [self._decide(record, name, evidence.get(name, ())) for name in record.adapters]
        before = self.bases.get(record.base, Incident())
        if len(found) < 2 and not before.open:  # an open one is ended also where adapters were taken off meanwhile
            return found
        base, self.bases[record.base] = decide_traffic_base(record, found, self.incidents, before, self.rules)
        self.latest_bases[record.base] = base
        found = [replace(verdict, covered_by=self.speaking(record.base)) for verdict in found]
        self.latest |= {verdict.subject: verdict for verdict in found}
        return [*found, base]

    def is_open(self, adapter: str) -> bool:
        return self.incidents.get(adapter, ResponseIncident()).open

    def speaking(self, base: str) -> str:
        """The base, while its own incident speaks for its adapters; "" else, also while it cannot be judged."""
        judged = base not in self.latest_bases or self.latest_bases[base].status is not Status.UNMONITORABLE
        return base if judged and self.bases.get(base, Incident()).open else ""

    def calibrated(self, record: TrafficRound) -> tuple[Calibration, ...]:
        """What the round's responses say of the sampler, of each adapter that had one with something to say."""
        heard = {score.adapter for score in record.scores if score.log_sampler.size}
        return tuple(self.calibrations[name] for name in record.adapters if name in heard and name in self.calibrations)

    def sampler(self, adapter: str) -> str:
        """In words, where it is not the one that requests ask for, else ""."""
        seen = self.calibrations.get(adapter)
        return "" if seen is None else sampler_in_words(seen, self.rules.log_threshold)

    def forget(self, adapter: str) -> None:
        self.incidents.pop(adapter, None)
        self.latest.pop(adapter, None)
        self.calibrations.pop(adapter, None)

    def to_json(self) -> dict[str, Any]:
        return {adapter: seen.to_json() for adapter, seen in self.incidents.items()}

    def bases_json(self) -> dict[str, Any]:
        return {base: incident.to_json() for base, incident in self.bases.items()}

    def restore(self, stored: Mapping[str, Any], bases: Mapping[str, Any]) -> None:
        """stored, bases: of ``to_json`` and of ``bases_json``. Where responses are not judged any more, nothing could
        end their incidents: they are let go, and the canaries' word is the one that counts."""
        if self.likelihood is None:
            return
        self.incidents = {adapter: ResponseIncident.from_json(seen) for adapter, seen in stored.items()}
        self.bases = {base: Incident.from_json(seen) for base, seen in bases.items()}

    def _decide(self, record: TrafficRound, adapter: str, mine: tuple[Evidence, ...]) -> Verdict:
        before = self.incidents.get(adapter, ResponseIncident())
        heard = summarise([score for score in record.scores if score.adapter == adapter])
        reading = self._reading(adapter, before)
        verdict, after = decide_traffic(record, adapter, mine, heard, reading, before, self.rules)
        # The alarm's answer is kept until the incident ends: M starts again at 0 then, and the twin with it.
        began = reading.onset_at if after.open else None
        self._calibrate(adapter, record)
        verdict = with_sampler(verdict, self.sampler(adapter))
        self.incidents[adapter], self.latest[adapter] = replace(after, began=began), verdict
        return verdict

    def _calibrate(self, adapter: str, record: TrafficRound) -> None:
        found = None if self.samplers is None else self.samplers.calibration(adapter, record)
        if found is None:
            self.calibrations.pop(adapter, None)
        else:
            self.calibrations[adapter] = found

    def _reading(self, adapter: str, before: ResponseIncident) -> ResponseEstimates:
        if self.likelihood is None:
            return ResponseEstimates(onset_at=before.began)
        found = self.likelihood.onset(adapter)
        at = before.began if before.open else None if found is None else found.at
        return ResponseEstimates(self.likelihood.retention(adapter), at)
