"""Which images come in which batch; and where only a few masks are to be used, which images keep theirs."""

import itertools
import math

import numpy as np
from torch.utils.data import Sampler


class EpochBatches(Sampler):
    """Batches of keys (epoch, row) for the epoch that `epoch` says.

    Shuffled by (seed, epoch) unless seed is None. A last incomplete batch is left out when shuffled and there are others:
    batch normalisation over one or two images disturbs the network. Where `keeps` (n,) bool says which images have a mask,
    half of each batch are such images. part (k, P): the k-th of P processes' part of every shuffled batch, its images one after
    another; and of those in order every P-th batch, whole.
    """

    def __init__(self, n, batch_size, seed=None, keeps=None, part=(0, 1)):
        self.n, self.batch_size, self.seed, self.epoch, self.part = n, batch_size, seed, 0, part
        self.keeps = None if keeps is None or seed is None or keeps.all() else keeps

    def __len__(self):
        k, parts = self.part
        return self._batches() if self.seed is not None else len(range(k, self._batches(), parts))

    def __iter__(self):
        k, parts = self.part
        if self.seed is None:
            yield from itertools.islice(self._whole_batches(), k, None, parts)
            return
        for keys in self._whole_batches():
            yield keys[len(keys) * k // parts : len(keys) * (k + 1) // parts]

    def _whole_batches(self):
        if self.keeps is not None:
            yield from mixed_batches(self.keeps, self.batch_size, self.seed, self.epoch)
            return
        order = np.arange(self.n)
        if self.seed is not None:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        for k in range(self._batches()):
            yield [
                (self.epoch, int(row))
                for row in order[k * self.batch_size : (k + 1) * self.batch_size]
            ]

    def _batches(self):
        return (
            self.n // self.batch_size if self._drops_last() else math.ceil(self.n / self.batch_size)
        )

    def _drops_last(self):
        return self.seed is not None and self.n >= self.batch_size


def choose_masks(breeds, has_mask, n, seed):
    """(N,) bool: n of the images that have a mask, a nested choice by the seed (those of n = 50 are among those of n = 100),
    spread over the breeds.

    breeds: of every image, text; has_mask (N,) bool, at least n of them. The breeds take turns, in an order that is drawn anew
    in each round, so that n need not be a multiple of their number.
    """
    rng = np.random.default_rng(
        (seed, 0x6D61736B)
    )  # a stream of its own, apart from order and augmentation
    waiting = {}
    for row in rng.permutation(np.flatnonzero(has_mask)):
        waiting.setdefault(breeds[row], []).append(row)
    chosen = []
    while len(chosen) < n:
        names = sorted(breed for breed, rows in waiting.items() if rows)
        chosen += [waiting[names[k]].pop() for k in rng.permutation(len(names))]
    keeps = np.zeros(len(breeds), bool)
    keeps[chosen[:n]] = True
    return keeps


def mixed_batches(keeps, batch_size, seed, epoch):
    """Batches of keys (epoch, row, repeat): half of each, the larger half of an odd one, are images with a mask.

    There are as many batches as without the choice; whichever kind there are too few of is taken again in another order, as
    another repeat, which is augmented anew.
    """
    n, rng = len(keeps), np.random.default_rng((seed, epoch))
    steps, size = max(1, n // batch_size), min(batch_size, n)
    with_mask = _endless(np.flatnonzero(keeps), steps * math.ceil(size / 2), rng)
    without = _endless(np.flatnonzero(~keeps), steps * (size // 2), rng)
    for k in range(steps):
        keys = (
            with_mask[k * math.ceil(size / 2) :][: math.ceil(size / 2)]
            + without[k * (size // 2) :][: size // 2]
        )
        yield [(epoch, row, repeat) for row, repeat in keys]


def _endless(rows, n, rng):
    """n of (row, repeat): all rows in random order, then all again, and so on."""
    passes = [
        [(int(row), repeat) for row in rng.permutation(rows)]
        for repeat in range(math.ceil(n / len(rows)))
    ]
    return [key for one in passes for key in one][:n]
