"""The sentences of a diagnosis: the right text, filled with the right values."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from detectors.diagnosis.record import CacheReplay, Diagnosis, FaultyReplicas
from detectors.diagnosis.wording import words_of
from detectors.records import Cause, FaultKind, Identity, NamedCause
from tests.detectors.diagnosis.examples import (
    MEANS,
    OTHER_FILES,
    OTHER_TEMPLATE,
    OTHER_TOKENIZER,
    OTHER_WEIGHTS,
    SAME,
    match,
    of_bases,
    of_canaries,
    of_responses,
)

UNKNOWN = of_canaries()[0]
LOST = replace(UNKNOWN, cause=Cause.ADAPTER_NOT_APPLIED, nothing_left=True)


def strength(scale: float) -> NamedCause:
    return words_of(replace(UNKNOWN, cause=Cause.WRONG_STRENGTH, match=match("one strength", value=scale)))


def test_figures_of_a_lost_adapter_are_in_the_sentence_with_what_they_mean() -> None:
    words = words_of(replace(LOST, means=replace(MEANS, retention=-0.001, gap_ratio=0.012)))
    assert words.cause is Cause.ADAPTER_NOT_APPLIED
    assert words.explanation == (
        "router answers like the base model: retention 0.00 (1 is intact, 0 is the base model), and its distance from "
        "the base's answers is 0.01 of the accepted one; the base itself has not changed"
    )
    assert words.action.endswith("then reload it and run gapwatch probe router")


def test_no_recorded_fault_gives_the_figures_alone() -> None:
    assert words_of(UNKNOWN).explanation.endswith(
        "retention 0.40, effective LoRA scale 0.45, and a change in other directions of 0.12 times its accepted effect"
    )
    assert words_of(replace(UNKNOWN, means=None)).explanation == "no canary of router was measured"


@pytest.mark.parametrize(
    ("moved", "shift", "sentence"),
    [
        (False, 0.02, "the base under router answers differently than accepted (base shift 0.020)"),
        (True, 0.02, "has other weights than accepted (hash was aaaa, is bbbb; base shift 0.020)"),
        (True, 0.00005, "has other weights than accepted, though it answers as before (hash was aaaa, is bbbb; base"),
    ],
)
def test_how_the_base_changed(moved: bool, shift: float, sentence: str) -> None:
    identity, means = OTHER_WEIGHTS if moved else SAME, replace(MEANS, base_shift=shift)
    diagnosis = replace(UNKNOWN, cause=Cause.BASE_SWAPPED, base_moved=True, identity=identity, means=means)
    assert sentence in words_of(diagnosis).explanation and "--replace" in words_of(diagnosis).action


def test_a_base_that_moved_too_is_said_once_beside_a_fault_of_the_adapter() -> None:
    moved = replace(UNKNOWN, base_moved=True, identity=OTHER_WEIGHTS, match=match("4"))
    beside = "in addition, the base has other weights than accepted"
    for cause, times in ((Cause.WRONG_STRENGTH, 1), (Cause.QUANTISED_BASE, 0), (Cause.BASE_SWAPPED, 0)):
        matched = match("one strength", value=0.6) if cause is Cause.WRONG_STRENGTH else moved.match
        diagnosis = replace(moved, cause=cause, match=None if cause is Cause.BASE_SWAPPED else matched)
        explanation = words_of(diagnosis).explanation
        assert explanation.count(beside) == times and explanation.count("has other weights") == 1


def test_what_is_left_of_an_adapter_on_another_base_may_look_like_a_missing_block() -> None:
    lost = replace(UNKNOWN, cause=Cause.BASE_SWAPPED_AND_ADAPTER_LOST, identity=OTHER_WEIGHTS, missing_block="mlp")
    assert words_of(lost).explanation.endswith("what is left of router looks as if mlp were missing from it")
    assert "router has lost most of its effect: retention 0.40" in words_of(lost).explanation


def test_another_adapter_in_the_base_is_to_be_taken_out_of_it() -> None:
    words = words_of(replace(UNKNOWN, cause=Cause.BASE_SWAPPED, base_moved=True, merged_adapter="rewriter"))
    assert "requests for the base model itself are answered like rewriter" in words.explanation
    assert words.action.startswith("take rewriter out of the base")


@pytest.mark.parametrize(
    ("strength", "rank", "alpha", "named", "action"),
    [
        (2.83, 8, 20.0, "that is x2.83 = sqrt(8): the engine scales by alpha / sqrt(r) (rsLoRA), and the adapter was "
         "accepted with alpha / r", "set use_rslora to false"),
        (0.3537, 8, 20.0, "that is x0.354 = 1 / sqrt(8): the engine scales by alpha / r, and the adapter was accepted "
         "with alpha / sqrt(r) (rsLoRA)", "set use_rslora to true"),
        (16.1, 16, 8.0, "that is x16.1 = r: the engine scales by alpha, and the adapter was accepted with alpha / r",
         "divides lora_alpha by r = 16"),
        (0.25, 8, 32.0, "that is x0.25 = 8 / 32: the engine scales by 1, and the adapter was accepted with "
         "alpha / r = 32 / 8", "reads lora_alpha and r"),
    ],
)  # fmt: skip
def test_a_strength_has_the_name_of_the_arithmetic_that_gives_it(
    strength: float, rank: int, alpha: float, named: str, action: str
) -> None:
    matched = match("one strength", value=strength)
    words = words_of(replace(UNKNOWN, cause=Cause.WRONG_STRENGTH, match=matched, rank=rank, alpha=alpha))
    assert named in words.explanation and action in words.action
    assert "close to" not in words.explanation and "; or " not in words.explanation


def test_two_slips_that_coincide_for_an_adapter_are_both_said() -> None:
    matched = match("one strength", value=2.0)
    words = words_of(replace(UNKNOWN, cause=Cause.WRONG_STRENGTH, match=matched, rank=4, alpha=12.0))
    assert "x2 = sqrt(4): the engine scales" in words.explanation
    assert "; or x2: the adapter is applied twice" in words.explanation
    assert "use_rslora" in words.action and "merged" in words.action


def test_a_strength_without_a_name_is_a_figure_alone_where_the_rank_is_known() -> None:
    matched = match("one strength", value=0.6)
    words = words_of(replace(UNKNOWN, cause=Cause.WRONG_STRENGTH, match=matched, rank=8, alpha=20.0))
    assert "x0.60" in words.explanation and "that is" not in words.explanation and "perhaps" not in words.action


@pytest.mark.parametrize(
    ("scale", "near", "hint"),
    [
        (0.5, "0.5", "r = 4,"),
        (0.25, "0.25", "r = 16,"),
        (0.354, "", "r = 8,"),
        (8.0, "8", "applying alpha where"),
        (2.0, "2", "applied once more"),
        (0.65, "", ""),
    ],
)
def test_a_strength_is_a_plain_factor_and_its_reason_a_possibility_to_check(scale: float, near: str, hint: str) -> None:
    words = strength(scale)
    assert f"router is applied at x{scale:.2f} of its accepted strength" in words.explanation
    assert (
        words.explanation.endswith(f"that is close to x{near}, as a wrong lora_alpha or r gives")
        if near
        else "close to" not in words.explanation
    )
    assert hint in words.action and ("; check " in words.action) == bool(hint)
    assert ("the engine may have lost it" in words.action) == (scale == 0.5)


def test_copies_that_cannot_be_distinguished_are_all_named_and_at_most_three() -> None:
    wrong = replace(UNKNOWN, cause=Cause.WRONG_ADAPTER, match=match("a", "b", kind=FaultKind.OTHER_ADAPTER))
    assert "answers like a or b, which explains 97 % of the difference" in words_of(wrong).explanation
    assert "they are those of a or b" in words_of(wrong).action
    part = match("q_proj", "mlp", "layers.0", "layers.1", kind=FaultKind.WITHOUT)
    partly = words_of(replace(UNKNOWN, cause=Cause.PARTLY_APPLIED, match=part))
    assert "as if q_proj, mlp, layers.0 or others were missing" in partly.explanation
    assert "keys of q_proj that were skipped" in partly.action
    bits = words_of(replace(UNKNOWN, cause=Cause.QUANTISED_BASE, match=match("4", "4/32")))
    assert "like a 4-bit or 4-bit (groups of 32) quantised copy of itself" in bits.explanation


def test_a_neighbour_whose_name_begins_alike_is_a_neighbour_and_not_an_earlier_version() -> None:
    def wrong(name: str) -> NamedCause:
        matched = match(name, kind=FaultKind.OTHER_ADAPTER)
        return words_of(replace(UNKNOWN, adapter="a", cause=Cause.WRONG_ADAPTER, match=matched))

    assert "a answers like an earlier version of itself, a@0123456789ab" in wrong("a@0123456789ab").explanation
    assert "a answers like a@v2" in wrong("a@v2").explanation
    assert "answered by another's adapter" in wrong("a@v2").action


def test_mixtures_are_said_with_how_much_of_the_other_adapter() -> None:
    stacked = match("rewriter", kind=FaultKind.STACKED, value=0.8)
    averaged = match("rewriter", kind=FaultKind.AVERAGED, value=0.4)
    top, mean = (
        words_of(replace(UNKNOWN, cause=Cause.COMPOSITION_INTERFERENCE, match=matched)).explanation
        for matched in (stacked, averaged)
    )
    assert "as if rewriter were applied on top of it at x0.80 of its strength" in top
    assert "as if averaged with rewriter (40 % of the average is rewriter)" in mean


def test_what_a_composition_lacks_is_said_of_its_members() -> None:
    def said(kind: FaultKind, value: float = float("nan")) -> NamedCause:
        matched = match("tone", kind=kind, value=value)
        return words_of(replace(UNKNOWN, cause=Cause.COMPOSITION_INTERFERENCE, match=matched))

    assert "as if tone were missing from the composition" in said(FaultKind.TAKEN_AWAY, 0.97).explanation
    assert "as if tone had 48 % of its weight in the composition" in said(FaultKind.TAKEN_AWAY, 0.52).explanation
    assert "answers as tone alone does" in said(FaultKind.OTHER_ADAPTER).explanation
    assert "put tone back, with the weight that was accepted" in said(FaultKind.TAKEN_AWAY, 0.97).action


def test_changed_adapter_files_are_said_beside_the_cause_and_once() -> None:
    beside = words_of(replace(LOST, identity=OTHER_FILES))
    assert "the files of router changed (hash was 0123456789ab, is fedcba987654)" in beside.explanation
    assert beside.action.endswith(
        "put the accepted files of router back (enrolment keeps a copy in adapters/ beside the golden records)"
    )
    cause = words_of(replace(UNKNOWN, cause=Cause.ADAPTER_REPLACED, identity=OTHER_FILES))
    assert "was 0123456789ab, is fedcba987654" in cause.explanation
    assert cause.action.count("keeps a copy") == 1 and "gapwatch enrol router --replace" in cause.action


@pytest.mark.parametrize(
    ("identity", "sentence"),
    [
        (OTHER_TEMPLATE, "the chat template changed; the tokenizer and the adapter did not"),
        (OTHER_TOKENIZER, "the tokenizer's files changed; the chat template and the adapter did not"),
        (
            replace(OTHER_TOKENIZER, scheme=1),
            "the tokenizer's files changed; the chat template and the adapter did not",
        ),
        (replace(OTHER_TEMPLATE, scheme=1), "the chat template or the tokenizer changed; the adapter did not"),
        (SAME, "the chat template or the tokenizer changed; the adapter did not"),
    ],
)
def test_which_of_template_and_tokenizer_changed_is_said_where_it_is_known(identity: Identity, sentence: str) -> None:
    words = words_of(Diagnosis(Cause.TEMPLATE_CHANGED, "router", identity, changed_prompts=15, canaries=16))
    assert words.explanation.startswith("15 of 16 prompts of router now render to other token ids")
    assert words.explanation.endswith(sentence)
    assert ("tokenizer.json" in words.action) == ("tokenizer's" in sentence or "or the tokenizer" in sentence)


def test_a_cache_is_said_with_both_retentions_and_whose_answers_it_gives() -> None:
    cached = Diagnosis(Cause.SHARED_CACHE, "router", SAME, cache=CacheReplay(1.0, 0.6, "rewriter"))
    words = words_of(cached)
    assert "retention 0.60 there, 1.00 on a cold cache; those answers move towards what rewriter" in words.explanation
    assert "towards" not in words_of(replace(cached, cache=CacheReplay(1.0, 0.6, ""))).explanation
    always = replace(UNKNOWN, cause=Cause.SHARED_CACHE, match=match("", kind=FaultKind.WARMED))
    assert "as if a request for the base had left its prompt in the cache" in words_of(always).explanation
    assert "cold" not in words_of(always).explanation and "prefix caching" in words_of(always).action


def test_prompts_that_render_differently_are_said_beside_the_cause() -> None:
    words = words_of(replace(LOST, changed_prompts=15, canaries=16))
    assert words.explanation.endswith("prompts that render to other token ids: 15")


def test_a_replica_has_the_text_of_its_own_fault_and_the_round_is_said_once() -> None:
    replicas = FaultyReplicas(6, 24, (), replace(LOST, identity=OTHER_FILES))
    by_canaries = replace(UNKNOWN, cause=Cause.ONE_REPLICA, identity=OTHER_FILES, means=None, replicas=replicas)
    words = words_of(by_canaries)
    assert "6 of 24 canaries are answered wrongly" in words.explanation
    assert "router answers like the base model" in words.explanation and "gapwatch probe router" in words.action
    assert words.explanation.count("the files of router changed") == 1 and words.action.count("keeps a copy") == 1
    by_pod = words_of(replace(by_canaries, replicas=replace(replicas, pods=("pod-0", "pod-3"))))
    assert "the fault is on pod-0 and pod-3 only" in by_pod.explanation
    assert by_pod.action.startswith("take pod-0 and pod-3 out of rotation; check that the engine loads router")


def test_a_base_is_said_with_its_adapters_and_the_text_of_the_first() -> None:
    base = of_bases()[0]
    words, typical = words_of(base), words_of(base.typical)
    affected = "affected: 2 of 3 adapters of smol (router, rewriter)"
    assert words.explanation == f"{affected}; for example, {typical.explanation}"
    assert words.cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert words.action == f"{typical.action}; likewise for every adapter that is affected"


def test_responses_are_said_to_fit_what_explains_them_best() -> None:
    said = {
        (one.cause, one.alternative.text if one.alternative else "", one.bad_pods): words_of(one)
        for one in of_responses()
        if one.strength
    }
    base = said[Cause.ADAPTER_NOT_APPLIED, "base", ()].explanation
    assert base == (
        "sampled responses of router fit the accepted base model better than the accepted adapter (12 of 30 are "
        "clearly not from the accepted adapter); estimated strength 0.40 of the accepted one, between 0.30 and 0.50 "
        "with 95 % confidence, from 30 responses"
    )
    earlier = said[Cause.WRONG_ADAPTER, "previous", ()]
    assert "fit the previously accepted version of router better" in earlier.explanation
    assert "load its present files again" in earlier.action and "strength" not in earlier.explanation
    assert "fit rewriter better" in said[Cause.WRONG_ADAPTER, "adapter:rewriter", ()].explanation
    assert "router on a base of 4-bit weights" in said[Cause.QUANTISED_BASE, "4 bits", ()].explanation
    assert "router at another strength" in said[Cause.WRONG_STRENGTH, "path 0.5", ()].explanation
    assert "all from pod-0; the others are as accepted" in said[Cause.ONE_REPLICA, "base", ("pod-0",)].explanation
    assert "something that is not router" in said[Cause.UNKNOWN, "", ()].explanation


@pytest.mark.parametrize("name", ["a b", "it's #1"])
def test_every_command_can_be_pasted_whatever_an_adapter_is_called(name: str) -> None:
    quoted = {"a b": "'a b'", "it's #1": "'it'\"'\"'s #1'"}[name]
    actions = [words_of(one).action for one in of_canaries(name)] + [words_of(one).action for one in of_responses(name)]
    for action in actions:
        commands = re.findall(r"gapwatch (?:probe|enrol|query \w+ -p) .*", action)
        for command in commands:
            assert re.match(rf"gapwatch (probe |enrol |query \w+ -p subject=){re.escape(quoted)}", command), command
