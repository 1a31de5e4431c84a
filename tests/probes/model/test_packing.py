"""Micro-batches: no replay is lost, limits hold, and rows of one adapter are adjacent."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.records import Fault, FaultKind
from probes.errors import Unreplayable
from probes.model.packing import (
    ENOUGH_ROWS,
    WORTH_SHARING,
    ForwardPass,
    aligned,
    common_beginning,
    lay_out,
    pack,
    pack_prompts,
    pack_texts,
    padded,
    read_length,
    tokens_of_pass,
)
from probes.runner import BatchShape, Replay, Target


def replays(count: int, seed: int = 0) -> list[Replay]:
    rng = np.random.default_rng(seed)
    names = [None, "b", "a"]
    return [
        Replay(str(i), (1,) * int(rng.integers(1, 60)), (2,) * int(rng.integers(1, 30)), Target(names[i % 3]))
        for i in range(count)
    ]


def test_every_replay_is_in_exactly_one_batch_and_limits_are_kept() -> None:
    given = replays(50)
    batches = pack(given, BatchShape(rows=6), max_tokens=300)
    assert sorted(replay.canary for batch in batches for replay in batch) == sorted(replay.canary for replay in given)
    for batch in batches:
        longest = max(len(replay.prompt) + len(replay.forced) - 1 for replay in batch)
        assert len(batch) <= 6
        assert len(batch) * longest <= 300
    assert max(map(len, batches)) == 6


def test_rows_of_one_adapter_lie_together_after_the_base() -> None:
    (batch,) = pack(replays(12), BatchShape(rows=12), max_tokens=10_000)
    assert [replay.target.adapter for replay in batch] == [None] * 4 + ["a"] * 4 + ["b"] * 4


def test_rows_of_one_adapter_fill_batches_before_the_next_one_begins() -> None:
    names = [None, "a", "b"]
    given = [Replay(str(i), (1,) * (3 + i % 7), (2, 3), Target(names[i % 3])) for i in range(96)]
    batches = pack(given, BatchShape(rows=16), max_tokens=10_000)
    assert [len(batch) for batch in batches] == [16] * 6
    assert all(len({replay.target.adapter for replay in batch}) == 1 for batch in batches)


def test_adapters_of_few_canaries_share_a_batch() -> None:
    given = [Replay(str(i), (1, 5, 6), (2, 3), Target(f"a{i // 2}")) for i in range(16)]
    (batch,) = pack(given, BatchShape(rows=16), max_tokens=10_000)
    assert [replay.target.adapter for replay in batch] == [f"a{i // 2}" for i in range(16)]


def test_neighbours_are_alike_in_length_where_one_adapter_ends_and_the_next_begins() -> None:
    given = [Replay(str(i), (9,) * (16 + i // 2), (2,), Target("ab"[i % 2])) for i in range(40)]
    batches = pack(given, BatchShape(rows=12), max_tokens=10_000)
    mixed = [batch for batch in batches if len({replay.target.adapter for replay in batch}) == 2]
    assert mixed and all(max(map(read_length, batch)) - min(map(read_length, batch)) <= 10 for batch in mixed)


def with_system_prompt(tokens: int, count: int, name: str | None = "a", first: int = 7) -> list[Replay]:
    head = tuple((first + at) % 50 for at in range(tokens))
    return [Replay(f"{name} {row}", (*head, 60 + row % 5, row), (4, 5, 6), Target(name)) for row in range(count)]


def test_a_shared_beginning_counts_once_so_that_many_rows_fit() -> None:
    given = with_system_prompt(100, 20)
    (batch,) = pack(given, BatchShape(), max_tokens=400, continues=True)
    assert len(batch) == 20
    for shape, continues in ((BatchShape(), False), (BatchShape(left_pad=True), True), (BatchShape(chunk=9), True)):
        assert max(map(len, pack(given, shape, 400, continues))) == 3
    rows, (beginning, rest) = lay_out(batch, BatchShape())
    assert (beginning.stop, rest.stop - rest.start) == (100, rows.ids.shape[1] - 100)


def test_what_every_row_looks_back_at_is_bounded_too() -> None:
    assert tokens_of_pass(32, 1080, 1000) == 32 * 1080 // 8 > 32 * 80
    assert tokens_of_pass(4, 1080, 1000) == 1000 == tokens_of_pass(4, 1080, 1000, readers=1)
    assert tokens_of_pass(4, 80, 0) == 320
    assert max(map(len, pack(with_system_prompt(1000, 40), BatchShape(), 2048, continues=True))) == 16


def test_texts_that_begin_otherwise_do_not_end_the_sharing_of_many() -> None:
    given = [*with_system_prompt(60, ENOUGH_ROWS), *with_system_prompt(60, ENOUGH_ROWS, first=20)]
    assert sorted(map(len, pack(given, BatchShape(), 4096, continues=True))) == [ENOUGH_ROWS, ENOUGH_ROWS]


def test_the_largest_batch_comes_first() -> None:
    batches = pack(replays(80), BatchShape(rows=6), max_tokens=300)
    sizes = [len(batch) * max(map(read_length, batch)) for batch in batches]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("first", "second", "most", "wanted"),
    [((1, 2, 3), (1, 2, 4), 3, 2), ((1, 2), (1, 2, 3), 9, 2), ((1, 2, 3), (1, 2, 3), 2, 2), ((5,), (6,), 1, 0)],
)
def test_how_many_tokens_two_texts_begin_with(
    first: tuple[int, ...], second: tuple[int, ...], most: int, wanted: int
) -> None:
    assert common_beginning(first, second, most) == wanted == common_beginning(second, first, most)


def test_a_text_longer_than_the_limit_runs_alone() -> None:
    long = Replay("long", (1,) * 100, (2,), Target(None))
    batches = pack([*replays(3), long], BatchShape(), max_tokens=50)
    assert [long] in batches


def test_a_replay_without_a_prompt_is_refused() -> None:
    with pytest.raises(Unreplayable, match="prompt is empty"):
        pack([Replay("c", (), (1,), Target(None))], BatchShape(), 100)


@pytest.mark.parametrize("left", [False, True])
def test_padding_says_where_each_text_lies_and_counts_positions_from_it(left: bool) -> None:
    rows = padded([(5, 6, 7), (8,)], left)
    for row, text in enumerate([(5, 6, 7), (8,)]):
        here = slice(int(rows.starts[row]), int(rows.starts[row]) + len(text))
        assert tuple(rows.ids[row, here]) == text
        assert tuple(rows.positions[row, here]) == tuple(range(len(text)))
        assert rows.mask[row, here].all() and rows.mask[row].sum() == len(text)
    assert rows.starts[1] == (2 if left else 0)


def test_texts_keep_their_order_so_that_a_stop_leaves_a_prefix() -> None:
    texts = [((1,) * n, (2,) * n) for n in (3, 40, 2, 9, 9, 1)]
    batches = list(pack_texts(texts, max_tokens=40, rows=2))
    assert [text for batch in batches for text in batch] == texts
    assert [len(batch) for batch in batches] == [1, 1, 2, 2]


def test_aligned_rows_meet_at_their_cuts() -> None:
    rows = aligned([(5, 6, 7, 8), (9,), (1, 2)], [3, 0, 1])
    assert rows.starts.tolist() == [0, 3, 2]
    assert rows.ids.tolist() == [[5, 6, 7, 8], [0, 0, 0, 9], [0, 0, 1, 2]]
    assert rows.mask.tolist() == [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]]
    assert rows.positions.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("chunk", "wanted"), [(0, [(0, 5)]), (2, [(0, 2), (2, 4), (4, 5)]), (5, [(0, 5)]), (9, [(0, 5)])]
)
def test_chunks_cover_every_column_once(chunk: int, wanted: list[tuple[int, int]]) -> None:
    batch = [Replay("c", (1, 2, 3), (4, 5, 6), Target("a", scale=0.5)), Replay("d", (1,), (4,), Target(None))]
    rows, stretches = lay_out(batch, BatchShape(chunk=chunk))
    assert rows.ids.shape == (2, 5)
    assert stretches == [ForwardPass(*span, (("a", 0.5), (None, 1.0))) for span in wanted]


def test_a_beginning_that_all_prompts_share_is_read_once_for_each_adapter() -> None:
    head = tuple(range(10, 70))
    targets = [Target(None), Target("a"), Target("a", scale=0.5), Target("a")]
    tails: list[tuple[int, ...]] = [(1, 2), (1,), (3,), ()]
    batch = [Replay("c", (*head, *tail), (4, 5), target) for tail, target in zip(tails, targets, strict=True)]
    rows, passes = lay_out(batch, BatchShape())
    readers = tuple((target.adapter, target.scale) for target in targets)
    # The last token of the shortest prompt predicts a forced one, so that it is not shared.
    assert passes == [ForwardPass(0, 59, readers[:3], (0, 1, 2, 1)), ForwardPass(59, rows.ids.shape[1], readers)]
    assert passes[0].first_rows == (0, 1, 2)
    assert [passes[0].adapter_of(row) for row in range(4)] == list(readers)
    assert [passes[1].adapter_of(row) for row in range(4)] == list(readers)
    for shape in (BatchShape(left_pad=True), BatchShape(chunk=16)):
        assert not any(each.shared for each in lay_out(batch, shape)[1])
    assert len(lay_out(batch, BatchShape(), continues=False)[1]) == 1


def test_a_beginning_is_shared_only_where_that_saves_much() -> None:
    def passes(count: int, beginning: int) -> int:
        texts = [((9,) * beginning + (row, 5), (4, 5)) for row in range(count)]
        return len(lay_out([Replay("c", *text, Target("a")) for text in texts], BatchShape())[1])

    assert passes(1, 500) == 1
    assert passes(5, WORTH_SHARING // 4) == 2 and passes(5, WORTH_SHARING // 4 - 1) == 1
    assert passes(2, WORTH_SHARING) == 2 and passes(2, WORTH_SHARING - 1) == 1


@pytest.mark.parametrize(
    ("kind", "starts", "spans"),
    [(FaultKind.WARMED, [0, 2], [(0, 2), (2, 5)]), (FaultKind.PREFILLED, [0, 2], [(0, 3), (3, 5)])],
)
def test_the_prompts_end_where_another_one_stops_reading(
    kind: FaultKind, starts: list[int], spans: list[tuple[int, int]]
) -> None:
    target = Target("a", scale=0.5, fault=Fault(kind, "b"))
    batch = [Replay("c", (1, 2, 3), (4, 5, 6), target), Replay("d", (1,), (4,), target)]
    rows, stretches = lay_out(batch, BatchShape(left_pad=True, chunk=2))
    assert rows.starts.tolist() == starts
    voices = [(("b", 1.0),) * 2, (("a", 0.5),) * 2]
    assert stretches == [ForwardPass(*span, who) for span, who in zip(spans, voices, strict=True)]


def test_a_model_that_takes_one_token_at_a_time_is_given_no_chunks() -> None:
    batch = [Replay("c", (1, 2, 3), (4, 5, 6), Target("a"))]
    assert lay_out(batch, BatchShape(chunk=2), continues=False)[1] == [ForwardPass(0, 5, (("a", 1.0),))]
    warmed = [Replay("c", (1, 2, 3), (4, 5, 6), Target("a", fault=Fault(FaultKind.WARMED, "b")))]
    first, *rest = lay_out(warmed, BatchShape(), continues=False)[1]
    assert first == ForwardPass(0, 2, (("b", 1.0),))
    assert rest == [ForwardPass(at, at + 1, (("a", 1.0),)) for at in (2, 3, 4)]


def test_a_pass_over_nothing_is_left_out() -> None:
    warmed = Target("a", fault=Fault(FaultKind.WARMED, ""))
    assert len(lay_out([Replay("c", (1,), (2, 3), warmed)], BatchShape())[1]) == 1, "one token: no cache to share"
    bare = Target("a", fault=Fault(FaultKind.PREFILLED, ""))
    assert lay_out([Replay("c", (1, 2), (3,), bare)], BatchShape())[1] == [ForwardPass(0, 2, ((None, 1.0),))]


def test_prompts_are_packed_with_room_to_grow() -> None:
    prompts = [(1,) * size for size in (3, 50, 7, 7, 200, 1)]
    batches = pack_prompts(prompts, limit=10, max_tokens=60, rows=3)
    assert sorted(number for batch in batches for number in batch) == list(range(6))
    assert batches == [[4], [1], [2, 3, 0], [5]]
    assert pack_prompts([], 10, 60) == []
