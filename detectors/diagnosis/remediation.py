"""What was seen, and the first thing the on-call person does: the words of every cause.

Numbers and names in, (what was seen, what to do) out. An action is imperative, names the file, setting or endpoint to
look at, and ends in the command that shows whether it helped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from shlex import quote

import numpy as np

from detectors.diagnosis.name_encoding import is_earlier_version
from detectors.records import Identity, Measurement

Words = tuple[str, str]

# A factor is named, and a rank is thought of, where the scale is within this share of it.
NEAR = 0.05
FACTORS = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)
RANKS = (4, 8, 16, 32, 64)
# Base shift below which a person would see no difference in what the base answers; words only, decides nothing.
QUIET = 1e-4
PUT_BACK = "put the accepted ones back (enrolment keeps a copy in adapters/ beside the golden records)"


def average(seen: Sequence[Measurement], figure: str) -> float:
    """Mean of one figure over canaries."""
    return float(np.mean([getattr(m, figure) for m in seen]))


def not_applied(adapter: str, seen: Sequence[Measurement]) -> Words:
    return (
        f"{adapter} answers as the bare base ({_left(seen)}); the base itself has not moved",
        f"check that the engine loads {adapter}: key names, target modules, requested name; then reload it and run "
        f"gapwatch probe {quote(adapter)}",
    )


def swapped_and_lost(adapter: str, seen: Sequence[Measurement], identity: Identity) -> Words:
    return (
        f"{adapter} answers as the bare base ({_left(seen)}), and the base {how_base_moved(seen, identity)}",
        f"put the former base back, or retrain {adapter} on the new one; until then do not serve it",
    )


def re_parameterised(adapter: str, seen: Sequence[Measurement], identity: Identity, left: str = "") -> Words:
    """left: the block whose loss the adapter's answers look like"""
    alike = f", as if without {left}" if left else ""
    return (
        f"the base under {adapter} {how_base_moved(seen, identity)}, and {adapter} lost its hold on it "
        f"({_left(seen)}{alike}): its matrices address other coordinates",
        f"put the former base back, or retrain {adapter} on the new one; until then do not serve it",
    )


def swapped(adapter: str, seen: Sequence[Measurement], identity: Identity, left: str = "", merged: str = "") -> Words:
    """left: the block whose loss the adapter's answers look like; merged: the adapter that the base answers as."""
    what = f"the base under {adapter} {how_base_moved(seen, identity)}; retention {average(seen, 'retention'):.2f}"
    do = (
        "compare revision, dtype and quantisation of the base with those of the last good release, put that one back, "
        f"or accept this one: gapwatch enrol {quote(adapter)} --replace --why TEXT"
    )
    if left:
        what += f", as if without {left}"
    if merged:
        what += f"; the base itself answers as {merged} does"
        do = (
            f"take {merged} out of the base: it was merged into its weights, or is left active on requests for the base"
        )
    return what, do


def quantised(adapter: str, bits: Sequence[str], seen: Sequence[Measurement], identity: Identity, left: float) -> Words:
    copies = _or([_bits(name) for name in bits])
    return (
        f"the base under {adapter} answers as its {copies} copy does ({_explained(left)}) and "
        f"{how_base_moved(seen, identity)}; retention {average(seen, 'retention'):.2f}",
        "compare dtype and quantisation in the engine's arguments and the base's config.json with those of the last "
        f"good release; serve the base as it was accepted, then run gapwatch probe {quote(adapter)}",
    )


def wrong_adapter(adapter: str, names: Sequence[str], left: float) -> Words:
    """names: the nearest first, then those that cannot be told from it; "NAME@HASH" is an earlier version of NAME."""
    who = _or(names)
    if all(is_earlier_version(name, adapter) for name in names):
        return (
            f"{adapter} answers as an earlier version of itself does, {who} ({_explained(left)})",
            f"unload {adapter} and load its present files again, restart the engine if that does not help (a load "
            f"under a name in use may be ignored), then run gapwatch probe {quote(adapter)}",
        )
    return (
        f"{adapter} answers as {who} does ({_explained(left)})",
        f"check what is mounted and routed under the name {adapter}: it is {who}. Stop that route until then: "
        "one tenant is being answered by another's adapter",
    )


def wrong_strength(adapter: str, scale: float) -> Words:
    do = "compare alpha, r and use_rslora in adapter_config.json with the scale that the engine applies"
    return (
        f"{adapter} runs at x{scale:.2f} of its strength{_known_factor(scale)}; its direction is intact",
        do + _perhaps_forgotten(scale),
    )


def partly_applied(adapter: str, blocks: Sequence[str], seen: Sequence[Measurement], left: float) -> Words:
    return (
        f"{adapter} answers as it does without {_or(blocks)} ({_explained(left)}); "
        f"retention {average(seen, 'retention'):.2f}",
        f"look in the engine's load log for keys of {blocks[0]} that were skipped, and compare target_modules in "
        "adapter_config.json with the modules the engine can adapt; then reload it and run "
        f"gapwatch probe {quote(adapter)}",
    )


def applied_in_phases(adapter: str, missing: str, seen: Sequence[Measurement], left: float) -> Words:
    """missing: which positions are answered without the adapter."""
    return (
        f"{adapter} answers as it does without {missing} ({_explained(left)}); "
        f"retention {average(seen, 'retention'):.2f}",
        "switch off, one at a time, what treats prefill and decode apart: CUDA graphs captured before the adapter was "
        f"loaded, chunked prefill, prefix caching; after each run gapwatch probe {quote(adapter)}",
    )


def composition(
    adapter: str, other: str, averaged: bool, part: float, seen: Sequence[Measurement], left: float
) -> Words:
    """part: of the other adapter, its strength on top of this one, or its share of an average of both."""
    mixed = f"averaged with {100 * part:.0f} % of {other}" if averaged else f"with x{part:.2f} of {other} on top"
    return (
        f"{adapter} answers as it does {mixed} ({_explained(left)}); retention {average(seen, 'retention'):.2f}",
        f"check which adapters the engine has active on requests for {adapter}: switch {other} off there, and undo a "
        f"merge that holds both; then run gapwatch probe {quote(adapter)}",
    )


def sampling(adapter: str, whose: str, temperature: float, left: float) -> Words:
    return (
        f"{adapter} is served at temperature {temperature:.2f}: {whose} are the accepted ones divided by it "
        f"({_explained(left)}); the adapter itself is intact",
        "compare generation_config.json, the engine's default sampling parameters and logprobs_mode with those of the "
        f"last good release; then run gapwatch probe {quote(adapter)}",
    )


def template(adapter: str, changed: int, canaries: int, identity: Identity) -> Words:
    return (
        f"{changed} of {canaries} prompts of {adapter} render to other token ids, and from the accepted ids it answers "
        f"as accepted: {_of_words(identity)}, the adapter did not",
        "compare chat_template, tokenizer.json, tokenizer_config.json and special_tokens_map.json of the base with "
        f"those of the last good release, put them back, then run gapwatch probe {quote(adapter)}",
    )


def shared_cache(adapter: str, cold: float | None, warm: float, previous: str) -> Words:
    """cold, warm: mean retention, cold None where even a fresh prompt is answered so; previous: whose cache it looks
    like, "" where nobody's, "the base" for the base's."""
    whose = f" and goes towards {previous}" if previous else ""
    beside = "" if cold is None else f", {cold:.2f} on a cold one"
    return (
        f"{adapter} answers otherwise on a prompt that another request has warmed{whose}: retention {warm:.2f}{beside}",
        "switch prefix caching off (in vLLM --no-enable-prefix-caching) or salt it by adapter, and drop external "
        f"key-value stores; tenants may be reading each other's state. Then run gapwatch probe {quote(adapter)}",
    )


def one_replica(adapter: str, bad: int, of: int, pods: Sequence[str], of_bad: Words) -> Words:
    """bad, of: canaries; pods: names of the bad ones, empty where pods have no names; of_bad: words on their cause."""
    what, do = of_bad
    if pods:
        return (
            f"only {_or(pods, 'and')} of {adapter}'s replicas: {what}",
            f"take {_or(pods, 'and')} out of rotation; {do}",
        )
    return (
        f"{bad} of {of} canaries answer otherwise, the rest as accepted: one of several replicas is at fault: {what}",
        f"probe each pod by itself (kubectl get pods -o wide), take the odd one out of rotation; {do}",
    )


def replaced(adapter: str, seen: Sequence[Measurement]) -> Words:
    return (
        f"{adapter} is made of other files than were accepted, on the same base, and left what was accepted in no "
        f"recorded way: {_how_far(seen)}",
        f"find out who put these files there: {PUT_BACK}, or accept them: gapwatch enrol {quote(adapter)} --replace "
        f"--why TEXT; then run gapwatch probe {quote(adapter)}",
    )


def unknown(adapter: str, seen: Sequence[Measurement]) -> Words:
    return (
        f"{adapter} left what was accepted in no recorded way: {_how_far(seen)}",
        f"compare the flipped canaries, then roll {adapter} or the engine back to the last good release",
    )


def _how_far(seen: Sequence[Measurement]) -> str:
    away = math.sqrt(average(seen, "distortion"))
    return (
        f"retention {average(seen, 'retention'):.2f}, scale {average(seen, 'scale'):.2f}, off its direction {away:.2f}"
    )


def _of_words(identity: Identity) -> str:
    """Which of the two changed, as far as their files tell."""
    if identity.template_moved and not identity.tokenizer_moved:
        return "the chat template changed, the tokenizer did not"
    if identity.tokenizer_moved and not identity.template_moved:
        return "the tokenizer's files changed, the chat template did not"
    return "the chat template or the tokenizer changed"


def how_base_moved(seen: Sequence[Measurement], identity: Identity) -> str:
    shift = average(seen, "base_shift")
    if not identity.base_moved:
        return f"answers differently (base shift {shift:.3f})"
    quiet = ", though it answers as before" if shift < QUIET else ""
    was, now = short(identity.golden_base), short(identity.live_base)
    return f"has other weights{quiet} (was {was}, is {now}; base shift {shift:.3f})"


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _known_factor(scale: float) -> str:
    near = [f", near x{factor:g}" for factor in FACTORS if abs(scale / factor - 1.0) <= NEAR]
    return near[0] if near else ""


def _perhaps_forgotten(scale: float) -> str:
    """The rank is not known here, so that these are possibilities and no findings."""
    weak = [r for r in RANKS if abs(scale * math.sqrt(r) - 1.0) <= NEAR]
    strong = [r for r in RANKS if abs(scale / r - 1.0) <= NEAR]
    if weak:
        return f"; if the adapter uses rsLoRA with r = {weak[0]} (1/s^2), the engine may be ignoring use_rslora"
    if strong:
        return f"; if r = {strong[0]}, the engine may be applying alpha where alpha / r is meant"
    if abs(scale / 2.0 - 1.0) <= NEAR:
        return "; at twice the strength the adapter may be merged into the base and applied once more"
    if abs(scale / 0.5 - 1.0) <= NEAR:
        return "; if alpha = 2 r, the engine may have lost alpha and be applying 1"
    return ""


def _bits(name: str) -> str:
    """ "4" and "4/32": rounded by whole rows, and in groups of 32 weights."""
    bits, _, group = name.partition("/")
    return f"{bits}-bit (groups of {group})" if group else f"{bits}-bit"


def _left(seen: Sequence[Measurement]) -> str:
    return f"retention {average(seen, 'retention'):.2f}, gap {average(seen, 'gap_ratio'):.2f} of the healthy one"


def _explained(left: float) -> str:
    return f"{100 * (1 - left):.0f} % of the difference explained"


def _or(names: Sequence[str], word: str = "or") -> str:
    shown = [*names[:3], *(["others"] if len(names) > 3 else [])]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}"
