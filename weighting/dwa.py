"""Dynamic weight average: the slower a task's loss falls, the more it weighs.

A task's weight in an epoch is its share of softmax(r / T), r = its loss in the epoch before over
that in the one before that, means over the training batches that hold a label of it, T = 2; equal
weights in the first two epochs, and r = 1 where an epoch had no label. The paper's weights sum to
the number of tasks, these to one, as `equal` does here.

Source: Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", 2019.
"""

import torch

from weighting import Weighting

TEMPERATURE = 2.0


class Dwa(Weighting):
    def begin_step(self, epoch, step, history):
        # The log's rows travel with last.pt, so a resumed run has the same.
        if step > 0 or epoch < 2:
            return
        before, last = history[epoch - 2 : epoch]
        rates = []
        for task in self.tasks:
            a, b = before[f"train_loss_{task}"], last[f"train_loss_{task}"]
            rates.append(b / a if a and b is not None else 1.0)
        self.set_weights((torch.tensor(rates) / TEMPERATURE).softmax(dim=0).tolist())
