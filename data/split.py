"""Near-duplicate photographs, a split that keeps them together and spreads breeds evenly."""

import numpy as np
from PIL import Image

HASH_SIDE = 16
# Of 256 bits. On the 3,671 usable trainval photographs the pairs up to 36 bits apart are 16 in
# number and all show the
# same scene; unrelated photographs begin at 39.
NEAR_DUPLICATE_BITS = 36
# A picture with hardly any set or hardly any unset bits (a plain wall, a ramp) has nothing to
# compare.
MIN_STRUCTURE_BITS = 16
TURNS = tuple(Image.Transpose)  # mirrored and turned: with the image itself eight ways


def difference_hash(image):
    """Perceptual hash of a PIL image: is each cell of a 17 x 16 grey thumbnail darker than its
    right neighbour?

    Returns (32,) uint8, the 256 bits packed. Source: "dHash", N. Krawetz, "Kind of Like That",
    2013.
    """
    grey = np.asarray(
        image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BILINEAR)
    )
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def turned_hashes(image):
    """Hashes (7, 32) uint8 of a PIL image mirrored and turned, in the order of TURNS."""
    small = image.convert("L").resize((4 * HASH_SIDE,) * 2, Image.Resampling.BILINEAR)
    return np.stack([difference_hash(small.transpose(turn)) for turn in TURNS])


def near_duplicates(hashes, turned=None):
    """Pairs of near-duplicates, nearest first.

    hashes (N, 32) uint8; turned (N, 7, 32): hashes of the same images turned and mirrored, which
    are compared with those of the others as they are. Returns a list of (distance in bits, i, j)
    with i < j and distance <= NEAR_DUPLICATE_BITS.
    """
    hashes = np.ascontiguousarray(hashes).view(np.uint64)
    bits = np.bitwise_count(hashes).sum(axis=1)
    comparable = np.flatnonzero((bits >= MIN_STRUCTURE_BITS) & (bits <= 256 - MIN_STRUCTURE_BITS))
    ways = hashes[:, None] if turned is None else np.ascontiguousarray(turned).view(np.uint64)
    pairs = []
    for position, i in enumerate(comparable):
        others = comparable[position + 1 :]
        distance = np.full(len(others), 256)
        for way in ways[i]:
            new = np.bitwise_count(hashes[others] ^ way).sum(axis=1, dtype=int)
            distance = np.minimum(distance, new)
        for k in np.flatnonzero(distance <= NEAR_DUPLICATE_BITS):
            pairs.append((int(distance[k]), int(i), int(others[k])))
    return sorted(pairs)


def copies(contents):
    """Pairs of the same content, among them pictures too plain for near_duplicates to compare.

    contents: a digest of each image. Returns a list of (-1, i, j) with i < j: nearer than any
    near-duplicate.
    """
    places, pairs = {}, []
    for j, content in enumerate(contents):
        same = places.setdefault(content, [])
        pairs += [(-1, i, j) for i in same]
        same.append(j)
    return pairs


def group_duplicates(n, pairs):
    """Group n images so that every two members of a group are near-duplicates of each other.

    Demanding it of every two, not of neighbours only, keeps a chain of look-alikes from growing
    into one huge group; three copies of one photograph still stay together. `pairs` (distance, i,
    j), nearest first. Returns a list of sorted index lists, singles included.
    """
    near = {frozenset(pair[1:]) for pair in pairs}
    group_of = [[i] for i in range(n)]
    for _, i, j in pairs:
        a, b = group_of[i], group_of[j]
        if a is not b and all(frozenset((p, q)) in near for p in a for q in b):
            a += b
            for member in b:
                group_of[member] = a
    return [sorted(group) for i, group in enumerate(group_of) if min(group) == i]


def join(groups, names):
    """Groups of images joined where their members have a name in common.

    groups: lists of indices; names: of each image, "" where it has none. Returns a list of sorted
    index lists.
    """
    first, parent = {}, list(range(len(groups)))

    def root(k):
        while parent[k] != k:
            k = parent[k]
        return k

    for k, group in enumerate(groups):
        for name in {names[member] for member in group} - {""}:
            other = first.setdefault(name, k)
            low, high = sorted((root(other), root(k)))
            parent[high] = low
    joined = {}
    for k, group in enumerate(groups):
        joined.setdefault(root(k), []).extend(group)
    return [sorted(group) for group in joined.values()]


def split(groups, breeds, fractions, seed):
    """Assign images to splits by a seeded shuffle.

    groups     lists of indices that must stay together; none stands in two. What stands in none
               stays out (-1).
    breeds     the breed of every image.
    fractions  target sizes relative to each other, such as (80, 10, 10).
    Returns (N,) int, the split of each image. Near-duplicates stay together, then each breed is
    spread as the fractions
    say to within an image, then the totals are: what rounding leaves over in one breed is made up
    for in the next.
    """
    rng = np.random.default_rng(seed)
    fractions = np.asarray(fractions, dtype=float) / np.sum(fractions)
    by_breed = {}
    for group in groups:
        by_breed.setdefault(breeds[group[0]], []).append(group)
    assignment = np.full(len(breeds), -1)
    owed = np.zeros(len(fractions))
    for breed in sorted(by_breed):
        members = [by_breed[breed][k] for k in rng.permutation(len(by_breed[breed]))]
        # Groups first: while every split still has room for them.
        members.sort(key=len, reverse=True)
        size = sum(len(group) for group in members)
        owed += size * fractions
        room = apportion(size, owed)
        for group in members:
            chosen = int(np.argmax(np.where(room >= len(group), fractions, room - size)))
            room[chosen] -= len(group)
            owed[chosen] -= len(group)
            assignment[group] = chosen
    return assignment


def split_around_test(pairs, is_test, breeds, fractions, seed):
    """Keep a test half as it is, and share out the other images between train and val by split().

    pairs: near-duplicates among the images, nearest first; is_test: (N,) bool; fractions: of train
    and val. An image that shows what one of the test half does comes into no split (-1), so that
    the half stays whole and nothing of it is trained on. Returns (groups, assignment, {image in no
    split: the nearest of the test half}).
    """
    seen = {}
    for _, i, j in pairs:
        if is_test[i] != is_test[j]:
            seen.setdefault(*((j, i) if is_test[i] else (i, j)))
    groups = group_duplicates(
        len(is_test), [pair for pair in pairs if not seen.keys() & set(pair[1:])]
    )
    others = [group for group in groups if not is_test[group[0]] and group[0] not in seen]
    assignment = split(others, breeds, fractions, seed)
    assignment[np.asarray(is_test)] = len(fractions)
    return groups, assignment, seen


def repeated(contents, assignment):
    """Of images whose splits are given, those that are stored as the same bytes as one of a later
    split: they have to go, so that test, then val stay whole and nothing is measured that was
    trained on.

    contents: a digest of each image; assignment (N,) int, its split. Returns {image: the first of
    the last split}.
    """
    last = {}
    for k in np.argsort(-np.asarray(assignment), kind="stable").tolist():
        last.setdefault(contents[k], k)
    return {
        k: last[content]
        for k, content in enumerate(contents)
        if assignment[k] < assignment[last[content]]
    }


def look_at_given(pairs, contents, assignment):
    """Take what repeated() finds out of splits that are given (-1), and look for near-duplicates
    among the rest.

    pairs: near-duplicates among the images, nearest first. Returns (groups of near-duplicates
    within a split, pairs (i, j) of those in different splits, {image taken out: the one it
    repeats}).
    """
    gone = repeated(contents, assignment)
    assignment[list(gone)] = -1
    pairs = [pair for pair in pairs if not gone.keys() & set(pair[1:])]
    within = [(distance, i, j) for distance, i, j in pairs if assignment[i] == assignment[j]]
    apart = [(i, j) for _, i, j in pairs if assignment[i] != assignment[j]]
    return group_duplicates(len(assignment), within), apart, gone


def apportion(total, owed):
    """Share out `total` images as whole numbers near `owed` (largest remainder), none of them
    negative."""
    owed = np.maximum(owed, 0)
    share = owed * total / owed.sum()
    whole = np.floor(share).astype(int)
    for k in np.argsort(-(share - whole), kind="stable")[: total - whole.sum()]:
        whole[k] += 1
    return whole
