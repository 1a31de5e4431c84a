"""What one round of sampled responses says about one adapter, in a few numbers. Pure.

Whether a round is good or bad is decided here and nowhere else; whether that is evidence is the detector's to say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from detectors.evidence.alternative import BASE, Alternative
from detectors.evidence.likelihood_process import averaged, weights_of
from detectors.on_call_text import SCORE_NOT_FINITE
from detectors.traffic.leading_alternative import Explanations
from detectors.traffic.path_recovery import PathLikelihood
from detectors.traffic_records import ScoringMode, TrafficScore
from detectors.verdicts.incident import AnswerTimes
from detectors.verdicts.recovery import DrawCounts

# A response speaks against what was accepted when its e-value reaches this: under the null at most one in twenty does,
# and those of a real healthy adapter were measured 49 nats and more below 1.
AGAINST = math.log(20.0)
MOST_AGAINST = 1.0 / 20.0
FIRST_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class ResponseSummary:
    """Responses of one adapter in one TrafficRound.

    scored: responses with an e-value, tokens: of those; against: how many of them reach ``AGAINST``; favour: how many
    speak as clearly for it
    gain: nats of all of them together; pods: replicas with a scored response, bad_pods: those with one against
    unscored: responses without one, and why, the most frequent reason; any_known: is one of the responses known? Where
    none is, ``why`` says why nobody can tell whether there were any
    leaning: how many have an e-value above 1
    sampled: how many were drawn, and so may have a likelihood along a path
    explanations: of the responses against it by each alternative, or of all responses where none is
    path: of the scored responses
    answers: when the scored ones were served; None where none is scored, or of one that is not known
    since_fault: of those from the first bad one on, where the fault began within this round (``answers.good_until``);
    None where it did not
    """

    scored: int = 0
    tokens: int = 0
    against: int = 0
    favour: int = 0
    gain: float = 0.0
    pods: frozenset[str] = frozenset()
    bad_pods: frozenset[str] = frozenset()
    unscored: int = 0
    why: str = ""
    any_known: bool = True
    leaning: int = 0
    sampled: int = 0
    explanations: Explanations = field(default_factory=Explanations)
    path: PathLikelihood = field(default_factory=PathLikelihood)
    answers: AnswerTimes | None = None
    since_fault: ResponseSummary | None = None

    @property
    def scores(self) -> DrawCounts:
        """Of the scored responses, of which there are some: how many are against it, as scores of 0 and 1 that date the
        onset (docs/mathematics.md#onset-interval)."""
        return DrawCounts(self.scored, self.against, MOST_AGAINST)

    @property
    def leading(self) -> Alternative | None:
        """By these responses alone."""
        return self.explanations.leading

    @property
    def leans(self) -> DrawCounts:
        """Of the scored responses, of which there are some: how many speak against it at all, however little."""
        return DrawCounts(self.scored, self.leaning, MOST_AGAINST)

    @property
    def good(self) -> bool:
        """Nothing against the adapter, in any response or in all together; without scored ones neither good nor bad."""
        return self.scored > 0 and self.against == 0 and self.gain < AGAINST

    @property
    def bad(self) -> bool:
        return self.scored > 0 and not self.good


def summarise(scores: Sequence[TrafficScore]) -> ResponseSummary:
    """All scores of one adapter in one round; one with NaN among its numbers counts as not scored.

    The e-value of a response is the weighted mean over its alternatives, the base at one half and all others alike (of
    requests that name the base all are alike): valid under any dependence between them. The detector weighs the others
    by what they are worth over many responses (detectors/kinds/traffic_likelihood.py); this one is only looked at
    response by response.
    """
    scored = [(score, value) for score in scores if (value := evidence_of(score)) is not None]
    bad = [score for score, value in scored if value >= AGAINST]
    ids = {id(score) for score, _ in scored}
    unscored = [score for score in scores if id(score) not in ids]
    reasons = Counter(score.detail or SCORE_NOT_FINITE for score in unscored)
    answers = _answer_times([(score.at, value) for score, value in scored])
    from_fault = answers.first_bad if answers and answers.good_until is not None else None
    return ResponseSummary(
        scored=len(scored),
        tokens=sum(score.tokens for score, _ in scored),
        against=len(bad),
        favour=sum(value <= -AGAINST for _, value in scored),
        gain=float(sum(value for _, value in scored)),
        pods=frozenset(score.pod for score, _ in scored) - {""},
        bad_pods=frozenset(score.pod for score in bad) - {""},
        unscored=len(unscored),
        why=reasons.most_common(1)[0][0] if reasons else "",
        any_known=not scores or any(score.request_id or score.pod for score in scores),
        leaning=sum(value > 0 for _, value in scored),
        sampled=sum(score.scored is ScoringMode.SAMPLED for score, _ in scored),
        explanations=Explanations.of(bad or [score for score, _ in scored], bool(bad)),
        path=PathLikelihood.of([score for score, _ in scored]),
        answers=answers,
        since_fault=None if from_fault is None else summarise([own for own, _ in scored if own.at >= from_fault]),
    )


def _answer_times(scored: Sequence[tuple[float, float]]) -> AnswerTimes | None:
    """scored: when each response was served, and its evidence against what was accepted, nats"""
    times = [at for at, _ in scored]
    if not times or not min(times) > 0:
        return None
    first_bad = min((at for at, value in scored if value >= AGAINST), default=min(times))
    is_cut = all(value > 0 for at, value in scored if at >= first_bad)
    before = [at for at in times if at < first_bad]
    return AnswerTimes(min(times), max(times), first_bad, max(before) if is_cut and before else None)


def evidence_of(score: TrafficScore) -> float | None:
    """ln of the response's e-value, nats; None where it was not scored."""
    if not score.tokens or not score.log_l.size or not bool(np.isfinite(score.log_l).all()):
        return None
    own = {BASE: FIRST_WEIGHT} if score.alternatives[0] == BASE else {}
    weights = weights_of(own, score.alternatives[len(own) :])
    return averaged(score.log_l.astype(np.float64), np.array([weights[name] for name in score.alternatives]))
