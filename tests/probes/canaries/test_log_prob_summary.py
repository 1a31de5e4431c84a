"""The numpy formula against hand-made cases, and the torch version against the numpy formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.records import Floats, Ints
from probes.canaries.log_prob_summary import keep, stacked, summarise, summarise_torch, summary_tensors


def random_case(seed: int, positions: int = 7, vocabulary: int = 300, sharpness: float = 3.0) -> tuple[Floats, Ints]:
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((positions, vocabulary))
    full = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    kept = np.stack([rng.choice(vocabulary, min(12, vocabulary), replace=False) for _ in range(positions)]).astype(
        np.int32
    )
    kept[1 % positions, 5:] = kept[2 % positions, :] = -1
    return full, kept


def test_kept_and_rest_hold_all_the_mass() -> None:
    full, kept = random_case(0)
    summary = summarise(full, kept)
    mass = np.exp(summary.log_probs).sum(axis=1) + np.exp(summary.rest)
    assert np.allclose(mass, 1.0, atol=1e-5)
    assert summary.log_probs[0, 3] == full[0, kept[0, 3]]
    assert np.isneginf(summary.log_probs[2]).all() and abs(summary.rest[2]) < 1e-5
    assert np.array_equal(summary.top1, full.argmax(axis=1))


def test_rest_keeps_its_digits_where_the_kept_tokens_hold_nearly_everything() -> None:
    full = np.log(np.array([[1.0 - 3e-12, 1e-12, 2e-12]], dtype=np.float64)).astype(np.float32)
    summary = summarise(full, np.array([[0]], dtype=np.int32))
    assert summary.rest[0] == pytest.approx(np.log(3e-12), abs=1e-4)


def test_rest_is_minus_infinity_when_the_whole_vocabulary_is_kept() -> None:
    full, _ = random_case(1, positions=2, vocabulary=5)
    summary = summarise(full, np.tile(np.arange(5, dtype=np.int32), (2, 1)))
    assert np.isneginf(summary.rest).all()


def test_nan_stays_nan() -> None:
    full, kept = random_case(2)
    full[3] = np.nan
    summary = summarise(full, kept)
    assert np.isnan(summary.rest[3]) and np.isnan(summary.log_probs[3]).all() and np.isfinite(summary.rest[4])


@pytest.mark.parametrize("seed", range(5))
def test_the_torch_version_equals_the_numpy_formula(seed: int) -> None:
    full, kept = random_case(seed, sharpness=1.0 + 3 * seed)
    plain, twin = summarise(full, kept), summarise_torch(torch.from_numpy(full), kept)
    assert np.allclose(plain.log_probs, twin.log_probs, atol=1e-5)
    assert np.allclose(plain.rest, twin.rest, atol=1e-5)
    assert np.array_equal(plain.top1, twin.top1)
    assert [a.dtype.name for a in (twin.log_probs, twin.rest, twin.top1)] == ["float32", "float32", "int32"]


def test_logits_give_the_same_as_their_log_probabilities_and_the_widest_table_fits_all() -> None:
    cases = [random_case(seed) for seed in (0, 1)]
    narrow = cases[1][1][:, :5]
    ids = torch.from_numpy(stacked([cases[0][1], narrow]))
    assert ids.shape == (14, 12) and (ids[7:, 5:] == -1).all()
    logits = torch.from_numpy(np.concatenate([full for full, _ in cases])) + 3.0
    both = summary_tensors(logits, ids).on_host()
    for at, (full, kept) in ((0, cases[0]), (7, (cases[1][0], narrow))):
        wanted, part = summarise(full, kept), both.part(slice(at, at + 7), kept.shape[1])
        assert np.allclose(wanted.log_probs, part.log_probs, atol=1e-5) and np.allclose(
            wanted.rest, part.rest, atol=1e-5
        )
        assert np.array_equal(wanted.top1, part.top1)


def test_no_positions_give_an_empty_summary() -> None:
    full, kept = np.zeros((0, 9), np.float32), np.zeros((0, 4), np.int32)
    for summary in (summarise(full, kept), summarise_torch(torch.from_numpy(full), kept)):
        assert summary.log_probs.shape == (0, 4) and summary.rest.shape == (0,) and summary.top1.shape == (0,)


def test_keep_holds_the_tops_of_both_and_the_reference_token() -> None:
    adapter, _ = random_case(3)
    base, _ = random_case(4)
    forced = np.arange(7, dtype=np.int32)
    kept = keep(adapter, base, forced, k=6)
    assert kept.shape == (7, 13) and kept.dtype == np.int32
    for row in range(7):
        wanted = {*np.argsort(-adapter[row])[:6], *np.argsort(-base[row])[:6], forced[row]}
        ids = kept[row][kept[row] >= 0]
        assert set(ids.tolist()) == {int(token) for token in wanted}
        assert list(ids) == sorted(ids) and (kept[row, len(ids) :] == -1).all()


def test_keep_of_a_vocabulary_smaller_than_k_is_the_whole_of_it() -> None:
    full, _ = random_case(5, positions=1, vocabulary=8)
    kept = keep(full, full, np.array([3], dtype=np.int32), k=20)
    assert kept[0, :8].tolist() == list(range(8)) and (kept[0, 8:] == -1).all()
