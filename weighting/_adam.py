"""Numbers that a weighting learns on its own, by Adam, beside the network's optimizer."""

import torch
from torch import nn


class AdamValues(nn.Module):
    """`values` (n,), on the CPU, and the Adam that changes them; both are kept in last.pt.

    They are no parameters: the network's optimizer leaves them alone, and their gradients do not
    count in the norm that is clipped. Every process of a run has the same.
    """

    def __init__(self, values, lr, weight_decay=0.0):
        super().__init__()
        self.values = values
        self.optimizer = torch.optim.Adam([values], lr, weight_decay=weight_decay)

    def step(self, gradient):
        self.values.grad = gradient.to(self.values)
        self.optimizer.step()

    def get_extra_state(self):
        return {"values": self.values, "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state):
        self.values.copy_(state["values"])
        self.optimizer.load_state_dict(state["optimizer"])
