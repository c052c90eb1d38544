"""Which images come in which batch; and where not all masks are to be used, which images show
theirs."""

import itertools
import math

import numpy as np
from torch.utils.data import Sampler

from data.contract import UNLABELLED

CHOICE, HALF = 0x6D61736B, 0x68616C66  # random streams apart from order and augmentation


class EpochBatches(Sampler):
    """Batches of keys (epoch, row) for the epoch that `epoch` says.

    Shuffled by (seed, epoch) unless seed is None. A last incomplete batch is left out when shuffled
    and there are others: batch normalisation over one or two images disturbs the network. Where
    `shown`, a ShownMasks, says that not all images show a mask, half of each batch do. part (k, P):
    the k-th of P processes' part of every shuffled batch, its images one after another; and of
    those in order every P-th batch, whole."""

    def __init__(self, n, batch_size, seed=None, shown=None, part=(0, 1)):
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.shown, self.part, self.epoch = shown, part, 0

    def __len__(self):
        rank, size = self.part
        n = len(range(0, self.n, self.batch_size))
        if self.seed is None:
            return len(range(rank, n, size))
        return max(1, self.n // self.batch_size)

    def __iter__(self):
        rank, size = self.part
        if self.seed is None:
            yield from itertools.islice(self._whole_batches(), rank, None, size)
            return
        for keys in itertools.islice(self._whole_batches(), len(self)):
            yield keys[len(keys) * rank // size : len(keys) * (rank + 1) // size]

    def _whole_batches(self):
        order = np.arange(self.n)
        if self.seed is not None:
            shown = self.shown(self.epoch) if self.shown else None
            if shown is not None:
                yield from mixed_batches(shown, self.batch_size, self.seed, self.epoch)
                return
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for start in range(0, self.n, self.batch_size):
            yield [(self.epoch, int(row)) for row in order[start : start + self.batch_size]]


class ShownMasks:
    """Which images show their masks in an epoch.

    chosen (N,) bool: the images whose masks are used at all; None for all. half: in no epoch more
    than half of all images, drawn anew for each, so that every batch is of the same kind however
    many masks there are."""

    def __init__(self, chosen=None, half=False, seed=0):
        self.chosen, self.half, self.seed = chosen, half, seed

    def __call__(self, epoch=None):
        """(N,) bool; None where all images do. Without an epoch: those that ever do."""
        if self.chosen is None or self.chosen.all() and not self.half:
            return None
        rows, most = np.flatnonzero(self.chosen), math.ceil(len(self.chosen) / 2)
        if epoch is None or not self.half or len(rows) <= most:
            return self.chosen
        rng = np.random.default_rng((self.seed, HALF, epoch))
        return _places(rng.permutation(rows)[:most], len(self.chosen))

    def hide(self, pictures, rows, epoch=None):
        """Pictures of some rows, {kind: (B, ...)}, whose masks and trimaps are unlabelled where
        they are not shown."""
        shown = self(epoch)
        hidden = [] if shown is None else np.flatnonzero(~shown[rows])
        for kind, values in pictures.items():
            if kind != "images" and len(hidden):
                values[hidden] = UNLABELLED
        return pictures


def choose_masks(breeds, has_mask, n, seed):
    """(N,) bool: n of the images that have a mask, a nested choice by the seed (those of n = 50 are
    among those of n = 100), spread over the breeds.

    breeds: of every image, text; has_mask (N,) bool, at least n of them. The breeds take turns, in
    an order that is drawn anew in each round, so that n need not be a multiple of their number."""
    rng = np.random.default_rng((seed, CHOICE))
    waiting = {}
    for row in rng.permutation(np.flatnonzero(has_mask)):
        waiting.setdefault(breeds[row], []).append(row)
    chosen = []
    while len(chosen) < n:
        names = sorted(breed for breed, rows in waiting.items() if rows)
        for k in rng.permutation(len(names)):
            chosen.append(waiting[names[k]].pop())
    return _places(chosen[:n], len(breeds))


def mixed_batches(shown, batch_size, seed, epoch):
    """Batches of keys (epoch, row, repeat): half of each, the larger half of an odd one, are images
    that show a mask.

    There are as many batches as without the choice; whichever kind there are too few of is taken
    again in another order, as another repeat, which is augmented anew."""
    n, rng = len(shown), np.random.default_rng((seed, epoch))
    steps, size = max(1, n // batch_size), min(batch_size, n)
    half = math.ceil(size / 2)
    with_mask = _endless(np.flatnonzero(shown), steps * half, rng)
    without = _endless(np.flatnonzero(~shown), steps * (size - half), rng)
    for k in range(steps):
        batch = with_mask[k * half :][:half] + without[k * (size - half) :][: size - half]
        yield [(epoch, row, repeat) for row, repeat in batch]


def _endless(rows, n, rng):
    """n of (row, repeat): all rows in random order, then all again, and so on."""
    keys = []
    for repeat in range(math.ceil(n / len(rows))):
        for row in rng.permutation(rows):
            keys.append((int(row), repeat))
    return keys[:n]


def _places(rows, n):
    """(n,) bool, true at some rows."""
    found = np.zeros(n, bool)
    found[rows] = True
    return found
