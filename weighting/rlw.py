"""Random loss weighting: in every step each task weighs its share of the softmax of standard normal
numbers.

Source: Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness of Random Weighting", 2022.
"""

import torch

from weighting import Weighting


class Rlw(Weighting):
    def begin_step(self, epoch, step, history):
        self.set_weights(torch.randn(len(self.tasks)).softmax(dim=0).tolist())
