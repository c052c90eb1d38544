"""Which images come in which batch, and which show their masks: nested, spread, half of each batch,
by the seed alone."""

from collections import Counter

import numpy as np
import pytest

from data.order import EpochBatches, ShownMasks, choose_masks, mixed_batches

BREEDS = ["pug"] * 30 + ["boxer"] * 12 + ["siamese"] * 3 + [""] * 5


def keeps(n, seed=0, has_mask=None, breeds=BREEDS):
    has_mask = np.ones(len(breeds), bool) if has_mask is None else has_mask
    return choose_masks(breeds, has_mask, n, seed)


# --------------------------------------------------------------------------------------- the choice


def test_so_many_are_chosen_and_a_smaller_choice_lies_in_a_larger_one():
    before = np.zeros(len(BREEDS), bool)
    for n in range(1, len(BREEDS) + 1):
        chosen = keeps(n)
        assert chosen.sum() == n and chosen[before].all()
        before = chosen


@pytest.mark.parametrize("n", [4, 7, 12, 20])
def test_the_choice_is_spread_over_the_breeds(n):
    """Breeds take turns: none has two more than another that has images left; what has no breed is
    one of its own."""
    counts = Counter(np.array(BREEDS)[keeps(n)].tolist())
    left = {breed: BREEDS.count(breed) - counts[breed] for breed in set(BREEDS)}
    for breed in set(BREEDS):
        assert all(counts[breed] <= counts[other] + 1 for other in set(BREEDS) if left[other])


def test_another_seed_chooses_others_and_the_same_seed_the_same():
    assert np.array_equal(keeps(10, 3), keeps(10, 3)) and not np.array_equal(
        keeps(10, 3), keeps(10, 4)
    )


def test_only_images_that_have_a_mask_are_chosen():
    has_mask = np.arange(len(BREEDS)) % 2 == 0
    assert (
        not keeps(25, has_mask=has_mask)[~has_mask].any()
        and keeps(25, has_mask=has_mask).sum() == 25
    )


def test_without_breeds_any_image_may_be_chosen():
    chosen = sum(keeps(10, seed, breeds=[""] * 20).astype(int) for seed in range(40))
    assert chosen.sum() == 400 and chosen.min() > 5


# -------------------------------------------------------------------------------------- the batches


def kept(n, of):
    result = np.zeros(of, bool)
    result[np.random.default_rng(0).choice(of, n, replace=False)] = True
    return result


@pytest.mark.parametrize(
    "n, of, batch_size",
    [(3, 40, 8), (20, 40, 8), (39, 40, 8), (5, 40, 7), (1, 40, 16), (5, 6, 16), (30, 41, 10)],
)
def test_half_of_every_batch_has_a_mask_and_the_number_of_steps_is_as_without(n, of, batch_size):
    has = kept(n, of)
    for epoch in range(3):
        batches = list(mixed_batches(has, batch_size, 0, epoch))
        assert (
            len(batches)
            == len(EpochBatches(of, batch_size, 0))
            == len(EpochBatches(of, batch_size, 0, ShownMasks(has)))
        )
        for batch in batches:
            size = min(batch_size, of)
            assert len(batch) == size and {key[0] for key in batch} == {epoch}
            assert sum(has[row] for _, row, _ in batch) == -(-size // 2)
        keys = [key for batch in batches for key in batch]
        assert len(set(keys)) == len(keys)  # what comes again is another repeat, so augmented anew


@pytest.mark.parametrize("n", [3, 37])
def test_what_there_is_enough_of_comes_at_most_once_and_what_there_is_not_equally_often(n):
    has = kept(n, 40)
    rows = [row for batch in mixed_batches(has, 8, 0, 0) for _, row, _ in batch]
    for few in (True, False):
        counts = Counter({int(row): 0 for row in np.flatnonzero(has == few)})
        counts.update(row for row in rows if has[row] == few)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_epoch_and_the_seed_alone_say_the_order():
    has = kept(10, 40)

    def batches(seed, epoch):
        sampler = EpochBatches(40, 8, seed, ShownMasks(has))
        sampler.epoch = epoch
        return list(sampler)

    assert batches(0, 1) == batches(0, 1) != batches(0, 2) and batches(0, 1) != batches(1, 1)


def test_with_all_masks_nothing_changes_and_neither_does_it_in_validation():
    everything, some = ShownMasks(np.ones(40, bool)), ShownMasks(kept(10, 40))
    assert list(EpochBatches(40, 8, 0, everything)) == list(EpochBatches(40, 8, 0))
    assert list(EpochBatches(40, 8, None, some)) == list(EpochBatches(40, 8))
    assert all(len(key) == 2 for batch in EpochBatches(40, 8, 0) for key in batch)


# ----------------------------------------------------------- half of each batch, however many masks


def test_at_most_half_show_their_masks_in_an_epoch_and_other_ones_in_another():
    shown = ShownMasks(np.ones(41, bool), half=True, seed=3)
    first, second = shown(0), shown(1)
    assert first.sum() == second.sum() == 21 and not np.array_equal(first, second)
    assert np.array_equal(first, ShownMasks(np.ones(41, bool), half=True, seed=3)(0))
    assert sum(shown(epoch).astype(int) for epoch in range(12)).min() > 0  # in the end all do
    assert shown().all()


@pytest.mark.parametrize("n", [40, 30])
def test_half_of_every_batch_shows_a_mask_and_no_image_comes_twice(n):
    chosen = kept(n, 40)
    shown = ShownMasks(chosen, half=True)
    sampler = EpochBatches(40, 8, 0, shown)
    for sampler.epoch in range(3):
        now = shown(sampler.epoch)
        assert now.sum() == 20 and not (now & ~chosen).any()
        batches = list(sampler)
        assert [sum(now[row] for _, row, _ in batch) for batch in batches] == [4] * 5
        assert sorted(row for batch in batches for _, row, _ in batch) == list(range(40))


def test_where_less_than_half_have_a_mask_half_changes_nothing():
    chosen = kept(10, 40)
    assert np.array_equal(ShownMasks(chosen, half=True)(5), chosen)


def test_hidden_masks_and_trimaps_are_unlabelled_and_images_stay():
    shown = ShownMasks(np.array([True, False, True]))
    pictures = {kind: np.ones((2, 1, 2, 2), np.uint8) for kind in ("images", "masks", "trimaps")}
    shown.hide(pictures, [1, 2])
    assert (pictures["images"] == 1).all()
    for kind in ("masks", "trimaps"):
        assert (pictures[kind][0] == 255).all() and (pictures[kind][1] == 1).all()
