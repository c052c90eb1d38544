"""FAMO, fast adaptive multitask optimization: all losses fall at a similar rate, from losses alone.

With z = softmax(xi), xi from 0, a step descends along sum_i z_i grad log L_i, scaled so that the
losses' weights sum to one: L_i weighs its share of z_i / L_i. After the step the batch's losses L'
are measured again, which costs one more pass forward, and xi takes a step of Adam at 0.025 along

    J^T (log L - log L'),    J = d z / d xi,    plus 0.001 xi

so that a task whose loss fell least weighs more in the next step. A task of which a batch has no
label takes no part in that step.

Source: Liu, Feng, Stone and Liu, "FAMO: Fast Adaptive Multitask Optimization", 2023.
"""

import torch

from weighting import Weighting
from weighting._adam import AdamValues

LR, DECAY, EPSILON = 0.025, 0.001, 1e-8


class Famo(Weighting):
    def __init__(self, name, argument, tasks):
        super().__init__(name, argument, tasks)
        self.learned = AdamValues(torch.zeros(len(self.tasks)), LR, DECAY)

    def backward(self, losses, model):
        self.before = self.global_losses(losses) + EPSILON
        is_known = self.has_labels()
        if is_known.any():
            z = self.learned.values.softmax(dim=0)
            self.set_weights(torch.where(is_known, z / self.before, 0).tolist())
        return super().backward(losses, model)

    def end_step(self, measure):
        after = self.global_losses(measure()) + EPSILON
        fall = torch.where(self.has_labels(), self.before.log() - after.log(), 0)
        z = self.learned.values.softmax(dim=0)
        self.learned.step(z * (fall - (z * fall).sum()))
