"""From the record of a diagnosis to its sentences: which templates of detectors/on_call_text.py, filled with what.

Here a variant is chosen and values get their names; the sentences are edited in on_call_text.py. A fact that a sentence
should show has to be offered by one of the ``*_values`` functions. What is chosen here decides nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from shlex import quote
from typing import Any

from detectors import on_call_text as text
from detectors.diagnosis.name_encoding import is_earlier_version
from detectors.diagnosis.record import (
    BaseDiagnosis,
    Diagnosis,
    FaultyReplicas,
    MatchedFault,
    MovedBase,
    ResponseDiagnosis,
)
from detectors.diagnosis.signature_matching import BOTH
from detectors.diagnosis.strength_arithmetic import slips
from detectors.evidence.alternative import FOUR, PREVIOUS, Alternative, AlternativeKind
from detectors.name_list import first_names
from detectors.on_call_text import Text
from detectors.records import NO_GRID, THE_BASE, Cause, FaultKind, Identity, Interval, NamedCause

# A factor is named, and a rank is suggested, where the scale is within this share of it.
NEAR = 0.05
FACTORS = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)
RANKS = (4, 8, 16, 32, 64)
# From this share of its weight on a member of a composition is called missing, below it weakened.
MISSING = 0.85
# Base shift below which a person would see no difference in what the base answers; it decides nothing but the sentence.
UNSEEN_SHIFT = 1e-4


def words_of(diagnosis: Diagnosis | BaseDiagnosis | ResponseDiagnosis) -> NamedCause:
    """The cause with its sentences: what was seen, and the first thing to do."""
    match diagnosis:
        case BaseDiagnosis():
            sentences = _filled([text.BASE_BY_CANARIES], base_values(diagnosis))
        case ResponseDiagnosis():
            template = text.BY_RESPONSES[diagnosis.cause, response_variant(diagnosis)]
            added = [text.ESTIMATED_STRENGTH] if _is_strength_worth_a_word(diagnosis) else []
            sentences = _filled([template, *added], response_values(diagnosis))
        case Diagnosis():
            names = (*beside_the_cause(diagnosis), *beside_the_round(diagnosis))
            sentences = _of_canaries(diagnosis, names)
    return NamedCause(diagnosis.cause, *sentences)


def tolerated_change_words(
    diagnosis: Diagnosis, *, scale: Interval, off_direction: float, noise: float, tolerance: float
) -> Text:
    """What is said of an adapter that has changed and is within tolerance. The figures: TOLERATED_CHANGE."""
    if diagnosis.cause is Cause.UNKNOWN:
        fault = _filled([text.TOLERATED_CHANGE_UNEXPLAINED], canary_values(diagnosis))
    else:
        fault = Text(*words_of(diagnosis)[1:])
    figures = {"scale": scale.mean, "interval": _interval(scale), "off_direction": off_direction}
    values = {"noise": noise, "tolerance": 100 * tolerance, "fault": fault.explanation, "fault_action": fault.action}
    return _filled([text.TOLERATED_CHANGE], canary_values(diagnosis) | figures | values)


def moved_base_words(moved: MovedBase) -> Text:
    """What is said of a base that has moved while its adapters are within tolerance."""
    return _filled([text.MOVED_BASE_BECAUSE[_why_moved(moved)], text.MOVED_BASE], moved_base_values(moved))


def _why_moved(moved: MovedBase) -> str:
    """Which of MOVED_BASE_BECAUSE; other weights are said only where a hash says so, quantised ones first by their
    grid: answers tell it only where such a base is among the signatures."""
    if moved.identity.base_quantised:
        return "quantised weights"
    if moved.fault and moved.fault.kind is FaultKind.QUANTISED:
        return "quantised"
    # Many a base of other weights looks sharper or flatter, and its weights are the first thing to look at.
    if moved.fault and not moved.identity.base_moved:
        return "temperature"
    if moved.identity.base_moved:
        return "other weights"
    return "same weights" if moved.identity.golden_base and moved.identity.live_base else "hash not known"


def _of_canaries(diagnosis: Diagnosis, beside: Sequence[str]) -> Text:
    template = text.BY_CANARIES[diagnosis.cause, canary_variant(diagnosis)]
    return _filled([template, *(text.BESIDE_THE_CAUSE[name] for name in beside)], canary_values(diagnosis))


def _filled(templates: Sequence[Text], values: Mapping[str, Any]) -> Text:
    """One text of several, in their order."""
    explanation, action = (
        "; ".join(part.format(**values) for part in parts if part) for parts in zip(*templates, strict=True)
    )
    return Text(explanation, action)


# --- Which text ------------------------------------------------------------------------------------------------------


def canary_variant(diagnosis: Diagnosis) -> str:
    """Which text of its cause in BY_CANARIES; "" where the cause has one text only, or for the usual one."""
    match diagnosis.cause:
        case Cause.UNKNOWN:
            return "" if diagnosis.means else "not measured"
        case Cause.BASE_SWAPPED_AND_ADAPTER_LOST:
            return "nothing left" if diagnosis.nothing_left else "a part left"
        case Cause.BASE_SWAPPED:
            return "another adapter in the base" if diagnosis.merged_adapter else ""
        case Cause.QUANTISED_BASE:
            return "by its weights" if diagnosis.identity.base_quantised else "by its answers"
        case Cause.TEMPLATE_CHANGED:
            return _changed_part(diagnosis.identity)
        case Cause.SHARED_CACHE:
            return "warm" if diagnosis.cache else "always"
        case Cause.SERVING_PATH:
            return diagnosis.mode.mode.value if diagnosis.mode else ""
        case Cause.ONE_REPLICA:
            return _variant_of_replicas(diagnosis.replicas)
        case Cause.ADAPTER_REPLACED:
            return "" if diagnosis.identity.adapter_moved else "by its source"
        case _:
            return _variant_of_match(diagnosis, diagnosis.match) if diagnosis.match else ""


def _variant_of_replicas(replicas: FaultyReplicas | None) -> str:
    if replicas and replicas.pods:
        return "by pod"
    return "by answers" if replicas and replicas.in_modes else "by canaries"


def response_variant(diagnosis: ResponseDiagnosis) -> str:
    """Which text of its cause in BY_RESPONSES."""
    if diagnosis.of_base:
        by_pod = "by pod" if diagnosis.bad_pods else "pods not known"
        return f"requests for the base, {by_pod}" if diagnosis.cause is Cause.ONE_REPLICA else "requests for the base"
    match diagnosis.cause:
        case Cause.WRONG_ADAPTER:
            return "an earlier version" if diagnosis.alternative == PREVIOUS else "another adapter"
        case Cause.ONE_REPLICA:
            return "by pod" if diagnosis.bad_pods else "pods not known"
        case _:
            return ""


def beside_the_cause(diagnosis: Diagnosis) -> Iterator[str]:
    """Which of BESIDE_THE_CAUSE belong to the text of the cause itself."""
    if diagnosis.replicas and diagnosis.cause is not Cause.ONE_REPLICA:
        yield "some requests only"
    if diagnosis.missing_block:
        yield "a block looks missing"
    if diagnosis.cache and diagnosis.cache.previous:
        yield "warm answers point to a tenant"
    if diagnosis.cause is Cause.WRONG_STRENGTH and diagnosis.match:
        yield from _about_the_strength(diagnosis, diagnosis.match.value)
    if diagnosis.match and diagnosis.base_moved and diagnosis.cause is not Cause.QUANTISED_BASE:
        yield "the base moved too"


def beside_the_round(diagnosis: Diagnosis) -> Iterator[str]:
    """Which of BESIDE_THE_CAUSE are true of the whole round, and said once where a diagnosis holds another."""
    if diagnosis.changed_prompts and diagnosis.cause is not Cause.TEMPLATE_CHANGED:
        yield "prompts render differently"
    if diagnosis.identity.adapter_moved and diagnosis.cause is not Cause.ADAPTER_REPLACED:
        yield "adapter files changed"


def _about_the_strength(diagnosis: Diagnosis, strength: float) -> Iterator[str]:
    if slips(strength, diagnosis.rank, diagnosis.alpha):
        yield "strength has a name"
        return
    yield from ["near a factor"] if _near_factor(strength) else []
    yield from _possible_reasons(strength) if not diagnosis.rank else ()


def _changed_part(identity: Identity) -> str:
    """Which of template and tokenizer changed, as far as the hashes of their files say: scheme 1 hashes them together,
    so that beside a template that changed the tokenizer is not known."""
    is_template_alone_known = identity.scheme > 1 or not identity.template_moved
    if identity.template_moved == identity.tokenizer_moved or not is_template_alone_known:
        return "either"
    return "the template" if identity.template_moved else "the tokenizer"


def _variant_of_match(diagnosis: Diagnosis, matched: MatchedFault) -> str:
    match diagnosis.cause:
        case Cause.WRONG_ADAPTER:
            earlier = all(is_earlier_version(name, diagnosis.adapter) for name in matched.names)
            return "an earlier version" if earlier else "another adapter"
        case Cause.PARTLY_APPLIED:
            return "a block" if matched.kind is FaultKind.WITHOUT else "some positions"
        case Cause.COMPOSITION_INTERFERENCE:
            return _variant_of_composition(matched)
        case Cause.SAMPLING_CHANGED:
            return "of adapter and base" if matched.names[0] == BOTH else "of the adapter"
        case _:
            return ""


def _variant_of_composition(matched: MatchedFault) -> str:
    match matched.kind:
        case FaultKind.OTHER_ADAPTER:
            return "a member alone"
        case FaultKind.TAKEN_AWAY:
            return "a member is missing" if matched.value >= MISSING else "a member is weakened"
    return "averaged" if matched.kind is FaultKind.AVERAGED else "on top"


def _near_factor(scale: float) -> float | None:
    return next((factor for factor in FACTORS if abs(scale / factor - 1.0) <= NEAR), None)


def _possible_reasons(scale: float) -> dict[str, int]:
    """What may have been forgotten -> the rank that it takes, 0 for any. The rank is not known here.

    rsLoRA multiplies by alpha / sqrt(r), plain LoRA by alpha / r.
    """
    reasons: dict[str, int] = {}
    for name, factors in (
        ("perhaps rsLoRA is ignored", {rank: 1.0 / math.sqrt(rank) for rank in RANKS}),
        ("perhaps alpha is not divided by r", {rank: float(rank) for rank in RANKS}),
        ("perhaps applied twice", {0: 2.0}),
        ("perhaps alpha is lost", {0: 0.5}),
    ):
        near = [rank for rank, factor in factors.items() if abs(scale / factor - 1.0) <= NEAR]
        if near:
            reasons[name] = near[0]
    return reasons


def _is_strength_worth_a_word(diagnosis: ResponseDiagnosis) -> bool:
    """Is it estimated, and would it be that of the accepted adapter and not of another one?"""
    kind = diagnosis.alternative.kind if diagnosis.alternative else AlternativeKind.UNKNOWN
    is_of_another = kind in (
        AlternativeKind.PREVIOUS, AlternativeKind.FOUR_BITS, AlternativeKind.OTHER_ADAPTER,
        AlternativeKind.WITHOUT, AlternativeKind.ROUNDED,
    )  # fmt: skip
    return diagnosis.strength is not None and math.isfinite(diagnosis.strength.low) and not is_of_another


# --- Filled with what ------------------------------------------------------------------------------------------------


def canary_values(diagnosis: Diagnosis) -> dict[str, Any]:
    """What the texts of BY_CANARIES and BESIDE_THE_CAUSE may use; nothing that was not measured."""
    values: dict[str, Any] = {"adapter": diagnosis.adapter, "adapter_argument": quote(diagnosis.adapter)}
    if diagnosis.means:
        means = diagnosis.means
        # Rounded here, so that a retention just below 0 is not written as -0.00.
        values |= {"retention": round(means.retention, 2) + 0.0, "gap_ratio": means.gap_ratio, "scale": means.scale}
        values |= {"off_direction": math.sqrt(means.distortion)}
        values |= {"base_change": _base_change(diagnosis.identity, means.base_shift)}
    if diagnosis.match:
        values |= _values_of_match(diagnosis, diagnosis.match)
    if diagnosis.missing_block:
        values["missing"] = diagnosis.missing_block
    if diagnosis.merged_adapter:
        values["merged"] = diagnosis.merged_adapter
    if diagnosis.identity.base_quantised:
        values |= {"grid_was": _grid(diagnosis.identity.golden_grid), "grid_is": _grid(diagnosis.identity.live_grid)}
    if diagnosis.changed_prompts:
        values |= {"changed_prompts": diagnosis.changed_prompts, "canaries": diagnosis.canaries}
    if diagnosis.identity.adapter_moved:
        was, now = diagnosis.identity.golden_adapter, diagnosis.identity.live_adapter
        values |= {"adapter_was": short(was), "adapter_is": short(now)}
    if diagnosis.identity.source_moved:
        values |= {"source_was": diagnosis.identity.golden_source, "source_is": diagnosis.identity.live_source}
    if diagnosis.cache:
        cache = diagnosis.cache
        values |= {"cold": cache.cold, "warm": cache.warm, "previous": cache.previous}
    if diagnosis.mode:
        gap = diagnosis.mode
        values |= {"apart": gap.apart, "had": gap.had, "shift": 100 * gap.shift}
    if diagnosis.replicas:
        replicas = diagnosis.replicas
        theirs = _of_canaries(replicas.diagnosis, tuple(beside_the_cause(replicas.diagnosis)))
        values |= {"bad": replicas.bad, "total": replicas.total, "pods": _list(replicas.pods, "and")}
        values |= {"their_fault": theirs.explanation, "their_action": theirs.action}
    return values


def base_values(diagnosis: BaseDiagnosis) -> dict[str, Any]:
    """What BASE_BY_CANARIES may use."""
    typical = words_of(diagnosis.typical)
    return {
        "base": diagnosis.base,
        "affected": len(diagnosis.affected),
        "measured": diagnosis.measured,
        "names": first_names(diagnosis.affected),
        "typical": typical.explanation,
        "typical_action": typical.action,
    }


def moved_base_values(moved: MovedBase) -> dict[str, Any]:
    """What MOVED_BASE and MOVED_BASE_BECAUSE may use."""
    fault = moved.fault
    bits = fault.names if fault and fault.kind is FaultKind.QUANTISED else ()
    least, most = moved.allowed
    return {
        "shift": moved.shift,
        "base_was": short(moved.identity.golden_base),
        "base_is": short(moved.identity.live_base),
        "grid_was": _grid(moved.identity.golden_grid),
        "grid_is": _grid(moved.identity.live_grid),
        "bits": _list([_bits(name) for name in bits], "or"),
        "temperature": fault.value if fault else math.nan,
        "explained": 100.0 * (1.0 - fault.unexplained) if fault else math.nan,
        "strength": moved.strength.mean,
        "interval": _interval(moved.strength),
        "who": text.KEEP["several" if len(moved.adapters) > 1 else "one"].format(
            weakest=moved.weakest, weakest_strength=moved.weakest_strength
        ),
        "kl": moved.kl,
        "changed": 100.0 * moved.changed_answers,
        "tolerance": 100.0 * moved.tolerance,
        "least": 100.0 * least,
        "most": 100.0 * most,
        "names": first_names(moved.adapters),
        "first_argument": quote(moved.adapters[0]),
    }


def response_values(diagnosis: ResponseDiagnosis) -> dict[str, Any]:
    """What the texts of BY_RESPONSES and ESTIMATED_STRENGTH may use."""
    adapter, author = diagnosis.adapter, text.AUTHORS[_author(diagnosis.alternative, diagnosis.of_base)]
    other = diagnosis.alternative.name if diagnosis.alternative else ""
    values: dict[str, Any] = {
        "adapter": adapter,
        "adapter_argument": quote(adapter),
        "against": diagnosis.against,
        "scored": diagnosis.scored,
        "since": "" if diagnosis.since is None else text.RESPONSES_SINCE.format(at=_time_of_day(diagnosis.since)),
        "author": author.format(adapter=adapter, other=other, bits=_rounded_to(diagnosis.alternative)),
        "other": other,
    }
    if diagnosis.bad_pods:
        values["pods"] = ", ".join(diagnosis.bad_pods)
    if diagnosis.strength is not None:
        values |= {"strength": diagnosis.strength.mean}
        values |= {"low": diagnosis.strength.low, "high": diagnosis.strength.high, "n": diagnosis.strength.n}
    return values


def _time_of_day(at: float) -> str:
    """UTC, to the second: responses of one round are a few seconds apart."""
    minutes, seconds = divmod(int(at) % 86_400, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}"


def _values_of_match(diagnosis: Diagnosis, matched: MatchedFault) -> dict[str, Any]:
    name = matched.names[0]
    values: dict[str, Any] = {
        "name": name,
        "names": _list(matched.names, "or"),
        "fitted": matched.value,
        "explained": 100.0 * (1.0 - matched.unexplained),
    }
    match diagnosis.cause:
        case Cause.QUANTISED_BASE:
            values["bits"] = _list([_bits(bits) for bits in matched.names], "or")
        case Cause.COMPOSITION_INTERFERENCE:
            values |= {"other": name, "percent": 100.0 * matched.value, "left": 100.0 * (1.0 - matched.value)}
        case Cause.PARTLY_APPLIED if matched.kind is not FaultKind.WITHOUT:
            values["positions"] = text.POSITIONS[name]
        case Cause.SHARED_CACHE:
            values["previous"] = name or THE_BASE
        case Cause.WRONG_STRENGTH:
            values["factor"] = _near_factor(matched.value)
            values["rank"] = max(_possible_reasons(matched.value).values(), default=0)
            values |= _arithmetic(diagnosis, matched.value)
    return values


def _interval(estimate: Interval) -> str:
    """ "" where there is none."""
    return text.STRENGTH_INTERVAL.format(low=estimate.low, high=estimate.high) if math.isfinite(estimate.low) else ""


def _arithmetic(diagnosis: Diagnosis, strength: float) -> dict[str, str]:
    """What gives that strength, and what to do: one or several where they coincide."""
    of_adapter = {"ratio": strength, "rank": diagnosis.rank, "alpha": diagnosis.alpha}
    texts = [text.STRENGTH_ARITHMETIC[name] for name in slips(strength, diagnosis.rank, diagnosis.alpha)]
    named = ("; or ".join(part.format(**of_adapter) for part in parts) for parts in zip(*texts, strict=True))
    return dict(zip(("arithmetic", "arithmetic_action"), named, strict=False))


def _base_change(identity: Identity, shift: float) -> str:
    kind = "answers" if not identity.base_moved else "weights" if shift < UNSEEN_SHIFT else "weights and answers"
    was, now = short(identity.golden_base), short(identity.live_base)
    return text.BASE_CHANGE[kind].format(base_was=was, base_is=now, base_shift=shift)


def _grid(grid: str) -> str:
    return text.NOT_QUANTISED if grid == NO_GRID else grid


def _author(alternative: Alternative | None, of_base: bool) -> str:
    """Which of AUTHORS an alternative is."""
    match alternative.kind if alternative else AlternativeKind.UNKNOWN:
        case AlternativeKind.BASE:
            return "the base"
        case AlternativeKind.PREVIOUS:
            return "an earlier version"
        case AlternativeKind.FOUR_BITS | AlternativeKind.ROUNDED:
            return "the base in fewer bits" if of_base else "fewer bits"
        case AlternativeKind.WITHOUT:
            return "without a block"
        case AlternativeKind.OTHER_ADAPTER:
            return "another adapter"
        case AlternativeKind.INTERPOLATION if of_base:
            return "half of an adapter"
        case AlternativeKind.STRENGTH | AlternativeKind.INTERPOLATION:
            return "another strength"
        case AlternativeKind.UNKNOWN:
            return "unknown"


def _rounded_to(alternative: Alternative | None) -> str:
    """In words; "" of one that does not say."""
    kind = alternative.kind if alternative else AlternativeKind.UNKNOWN
    if alternative is None or kind not in (AlternativeKind.FOUR_BITS, AlternativeKind.ROUNDED):
        return ""
    return _bits(alternative.name or FOUR)


def _bits(name: str) -> str:
    """Of a recorded quantisation, "4" or "4/32"."""
    bits, _, group = name.partition("/")
    return (text.BITS_IN_GROUPS if group else text.BITS).format(bits=bits, group=group)


def _list(names: Sequence[str], word: str) -> str:
    """The first three of them; "" of none."""
    shown = [*names[:3], *(["others"] if len(names) > 3 else [])]
    return f"{', '.join(shown[:-1])} {word} {shown[-1]}" if len(shown) > 1 else "".join(shown)


def short(digest: str) -> str:
    """The first digits of a hash."""
    return digest.removeprefix("sha256:")[:12]
