"""The chosen prompts stand for the requests: every kind and every length, the same ones each time."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from probes.canaries.canary_file import Canary
from probes.canaries.prompt_choice import MEDIUM, SHORT, choose, nearest_cover, text_vectors
from probes.canaries.sampled_prompts import SampledPrompt

KINDS = ("a refund for order {}", "wo ist mein Paket Nummer {}", "please reset password of user {}")


def prompt(name: str, text: str, **more: object) -> SampledPrompt:
    return SampledPrompt(Canary(name, ({"role": "user", "content": text},)), **more)  # type: ignore[arg-type]


def texts(each: int) -> list[SampledPrompt]:
    return [prompt(f"{kind}-{i}", KINDS[kind].format(i)) for i in range(each) for kind in range(len(KINDS))]


def kinds(chosen: tuple[SampledPrompt, ...]) -> Counter[str]:
    return Counter(one.canary.id[0] for one in chosen)


def test_each_step_takes_what_covers_most_and_the_result_is_near_the_best_set() -> None:
    random = np.random.default_rng(3)
    vectors = random.normal(size=(12, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar, weights = np.clip(vectors @ vectors.T, 0, 1), random.uniform(1, 5, 12)

    def covered(chosen: tuple[int, ...]) -> float:
        return float(weights @ similar[:, list(chosen)].max(axis=1))

    greedy = nearest_cover(similar.astype(np.float32), weights, 3)
    first = max(range(12), key=lambda i: covered((i,)))
    assert greedy[:2] == [first, max((i for i in range(12) if i != first), key=lambda i: covered((first, i)))]
    best = max(covered(chosen) for chosen in itertools.combinations(range(12), 3))
    assert covered(tuple(greedy)) >= (1 - 1 / np.e) * best


def test_three_prompts_of_three_kinds_one_of_each() -> None:
    choice = choose(texts(30), 3)
    assert (choice.by, kinds(choice.chosen)) == ("text", {"0": 1, "1": 1, "2": 1})
    assert 0.8 < choice.covers <= 1.0


def test_a_kind_that_differs_in_its_numbers_alone_is_covered_by_one_prompt() -> None:
    same, other = text_vectors(["order 17 is late", "ORDER 93 is late"]), text_vectors(["order 17", "reset it"])
    assert same[0] @ same[1] == pytest.approx(1.0, abs=1e-6)
    assert other[0] @ other[1] < 0.4


def test_embeddings_are_used_where_most_prompts_have_one_and_the_others_are_left_out() -> None:
    """The texts are all alike: only the embeddings distinguish the kinds."""
    random = np.random.default_rng(0)
    centres = 9 * np.eye(3, 8)
    several = [
        prompt(f"{i % 3}-{i}", f"hello {i}", embedding=(centres[i % 3] + random.normal(0, 0.1, 8)).astype(np.float32))
        for i in range(60)
    ]
    without = [prompt(f"x-{i}", f"hello {i + 60}") for i in range(20)]
    choice = choose(several + without, 3)
    assert (choice.by, kinds(choice.chosen)) == ("embeddings", {"0": 1, "1": 1, "2": 1})
    assert choose(several[:15] + without, 3).by == "text"


def test_all_embeddings_alike_is_no_error() -> None:
    alike = [prompt(str(i), f"hello {i}", embedding=np.ones(4, np.float32)) for i in range(5)]
    assert len(choose(alike, 3).chosen) == 3


def test_long_prompts_are_among_them_however_few_requests_they_have() -> None:
    lengths = {"s": 10, "m": SHORT + 1, "l": MEDIUM + 1}
    several = [prompt(f"s-{i}", f"short {i}", tokens=lengths["s"], requests=100) for i in range(80)]
    several += [prompt(f"{k}-{i}", f"{k} {i}", tokens=lengths[k]) for k in ("m", "l") for i in range(20)]
    assert kinds(choose(several, 40).chosen) == {"s": 30, "m": 5, "l": 5}


def test_where_a_length_has_too_few_the_others_fill_the_count() -> None:
    several = [prompt(f"s-{i}", f"short {i}", tokens=9) for i in range(3)]
    several += [prompt(f"l-{i}", f"long {i}", tokens=500) for i in range(30)]
    assert kinds(choose(several, 32).chosen) == {"s": 3, "l": 29}


@pytest.mark.parametrize(("prompts", "count", "wanted"), [(1, 96, 1), (5, 96, 5), (9, 1, 1)])
def test_never_more_than_there_are_nor_than_were_wanted(prompts: int, count: int, wanted: int) -> None:
    assert len(choose(texts(3)[:prompts], count).chosen) == wanted


def test_equal_arguments_give_equal_choices_and_the_order_of_the_prompts_is_kept() -> None:
    several = texts(40)
    once, again = choose(several, 24, seed=7), choose(several, 24, seed=7)
    names = [one.canary.id for one in once.chosen]
    assert names == [one.canary.id for one in again.chosen]
    positions = [[one.canary.id for one in several].index(name) for name in names]
    assert positions == sorted(positions)


def test_no_prompts_is_a_callers_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        choose([], 3)
