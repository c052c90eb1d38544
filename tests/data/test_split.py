"""Near-duplicates and the split: hand-made hashes, hand-counted breeds, and many random
configurations."""

import numpy as np
import pytest
from PIL import Image

from data import split as data_split


def hashes_of(*set_bits):
    """Hashes (N, 32) with just the given bits set in each."""
    bits = np.zeros((len(set_bits), 256), np.uint8)
    for row, places in zip(bits, set_bits, strict=True):
        row[list(places)] = 1
    return np.packbits(bits, axis=1)


# ----------------------------------------------------------------------------------- hash and pairs


def test_hash_of_a_thumbnail_is_read_off_its_neighbours():
    grey = np.zeros((16, 17), np.uint8)
    grey[0] = np.arange(17)  # rises: 16 bits set
    grey[1] = np.arange(17)[::-1]  # falls: none
    grey[2] = [0, 9] * 8 + [0]  # rises at every other step: 8
    bits = np.unpackbits(data_split.difference_hash(Image.fromarray(grey))).reshape(16, 16)
    assert bits[0].tolist() == [1] * 16
    assert bits[1].tolist() == [0] * 16
    assert bits[2].tolist() == [1, 0] * 8
    assert not bits[3:].any()  # equal neighbours are not darker


def test_pairs_are_those_up_to_36_bits_apart_nearest_first():
    base = range(0, 100)
    hashes = hashes_of(base, range(0, 136), range(0, 137), [*range(0, 99), 200])
    assert data_split.near_duplicates(hashes) == [(1, 1, 2), (2, 0, 3), (36, 0, 1)]


def test_plain_pictures_are_not_compared():
    wall, nearly = range(0, 15), range(0, 16)
    ramp = range(0, 241)
    assert data_split.near_duplicates(hashes_of((), (), wall, wall, ramp, ramp)) == []
    assert data_split.near_duplicates(hashes_of(nearly, nearly)) == [(0, 0, 1)]
    assert data_split.near_duplicates(hashes_of(range(0, 240), range(0, 240))) == [(0, 0, 1)]


def test_copies_are_all_pairs_of_the_same_content():
    assert data_split.copies([b"a", b"b", b"a", b"c", b"a"]) == [(-1, 0, 2), (-1, 0, 4), (-1, 2, 4)]
    assert data_split.copies([b"a", b"b"]) == []


# ------------------------------------------------------------------------------------------- groups


def test_a_chain_does_not_grow():
    # 0 ~ 1 and 1 ~ 2, but 0 and 2 are no near-duplicates: the nearer pair wins.
    assert data_split.group_duplicates(3, [(5, 0, 1), (20, 1, 2)]) == [[0, 1], [2]]
    assert data_split.group_duplicates(3, [(5, 1, 2), (20, 0, 1)]) == [[0], [1, 2]]
    long = [(10, k, k + 1) for k in range(99)]
    groups = data_split.group_duplicates(100, long)
    assert max(map(len, groups)) == 2
    assert sorted(sum(groups, [])) == list(range(100))


# -------------------------------------------------------------------------------------------- split


def singles(n):
    return [[k] for k in range(n)]


def table(assignment, breeds):
    """Breed -> [train, val, test] counts."""
    breeds = np.asarray(breeds)
    return {
        b: np.bincount(assignment[breeds == b], minlength=3).tolist()
        for b in sorted(set(breeds.tolist()))
    }


def test_seed_decides_which_images_and_not_how_many():
    breeds = ["a"] * 40 + ["b"] * 20
    first, again, other = (
        data_split.split(singles(60), breeds, (80, 10, 10), seed) for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert table(first, breeds) == table(other, breeds) == {"a": [32, 4, 4], "b": [16, 2, 2]}


def random_configuration(seed):
    """Breeds of any size, one image in five or so with up to two near-duplicates of its breed."""
    rng = np.random.default_rng(seed)
    largest = 5 if seed % 3 == 0 else 60
    breeds = np.arange(rng.integers(1, 40))
    breeds = rng.permutation(np.repeat(breeds, rng.integers(1, largest, len(breeds))))
    groups = []
    for breed in set(breeds.tolist()):
        members = np.flatnonzero(breeds == breed).tolist()
        while members:
            count = int(rng.integers(2, 4)) if rng.random() < 0.2 else 1
            groups.append(members[:count])
            members = members[count:]
    fractions = [(80, 10, 10), (34, 33, 33), (0, 0, 100), (50, 50, 0), (90, 5, 5), (1, 1, 98)][
        rng.integers(6)
    ]
    return breeds, groups, np.array(fractions)


@pytest.mark.parametrize("seeds", [range(0, 100), range(100, 200), range(200, 300)])
def test_any_configuration_keeps_groups_breeds_and_totals(seeds):
    for seed in seeds:
        breeds, groups, fractions = random_configuration(seed)
        assignment = data_split.split(groups, breeds.tolist(), fractions, seed)
        for group in groups:
            assert len(set(assignment[group])) == 1
        totals = np.bincount(assignment, minlength=3)
        assert totals.sum() == len(breeds) and not totals[fractions == 0].any()
        assert np.abs(totals - len(breeds) * fractions / 100).max() <= 2, (seed, totals, fractions)
        single = data_split.split(singles(len(breeds)), breeds.tolist(), fractions, seed)
        for breed, counts in table(single, breeds).items():
            assert np.abs(counts - (breeds == breed).sum() * fractions / 100).max() < 1.5, (
                seed,
                breed,
                counts,
            )


# ------------------------------------------------------------------------------- around a test half


def test_around_a_test_half_what_shows_the_same_as_one_of_it_stays_out():
    is_test = np.array([False] * 8 + [True] * 4)
    #        copy of two of the half     near it      within trainval   within the half
    pairs = [(-1, 0, 8), (2, 0, 9), (5, 1, 10), (6, 2, 3), (7, 0, 4), (8, 8, 9)]
    groups, assignment, seen = data_split.split_around_test(
        pairs, is_test, ["a"] * 12, (50, 50), seed=0
    )
    assert seen == {0: 8, 1: 10}
    assert assignment[is_test].tolist() == [2] * 4 and assignment[:2].tolist() == [-1, -1]
    assert sorted(assignment[2:8].tolist()) == [0, 0, 0, 1, 1, 1] and assignment[2] == assignment[3]
    assert [group for group in groups if len(group) > 1] == [[2, 3], [8, 9]]


# ------------------------------------------------------------------------------------- given splits


def test_of_equal_images_in_given_splits_those_of_the_last_stay():
    contents, assignment = ["a", "b", "a", "c", "a", "b", "b"], [0, 0, 2, 1, 2, 1, 1]
    assert data_split.repeated(contents, assignment) == {0: 2, 1: 5}


def test_near_duplicates_of_given_splits_are_told_apart_by_where_they_lie():
    contents, assignment = list("abcdefa"), np.array([0, 0, 1, 1, 2, 2, 2])
    pairs = [(-1, 0, 6), (3, 0, 1), (5, 2, 3), (7, 1, 4), (9, 0, 5)]
    groups, apart, gone = data_split.look_at_given(pairs, contents, assignment)
    assert gone == {0: 6} and assignment.tolist() == [-1, 0, 1, 1, 2, 2, 2]
    assert [group for group in groups if len(group) > 1] == [[2, 3]] and apart == [(1, 4)]
