"""Micro-batches: no replay is lost, limits hold, and rows of one adapter are adjacent."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.records import Fault, FaultKind
from probes.errors import Unreplayable
from probes.model.packing import WORTH_SHARING, ForwardPass, aligned, lay_out, pack, pack_prompts, pack_texts, padded
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
