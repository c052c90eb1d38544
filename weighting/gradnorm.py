"""GradNorm: weights with which all tasks train at similar rates, learned from gradients' lengths.

`gradnorm` or `gradnorm:0.5`: alpha, 1.5 unless it is said; the larger it is, the more a task weighs
that has learned less than the others. With L_i the loss of task i, g_i the length of its gradient
in the parameters that tasks share, and weights w_i that sum to the number of tasks,

    G_i = w_i g_i      r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0))

and w descends along the gradient of sum_i |G_i - mean(G) r_i^alpha|, mean(G) and r being constants,
that is sign(G_i - mean(G) r_i^alpha) g_i, by Adam at 0.025; then w is scaled to its sum again. A
task of which a batch has no label takes no part in that step.

Three things differ from the paper: g_i is over all shared parameters, not one layer's, as decoders
here see five maps; weights stay above a hundredth; and losses weigh w_i / n, as `equal` has 1 / n.

Source: Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive
Loss Balancing in Deep Multitask Networks", 2018.
"""

import math

import torch

from cli import InputError
from weighting import Weighting
from weighting._adam import AdamValues

ALPHA, LR, LEAST = 1.5, 0.025, 0.01


class Gradnorm(Weighting):
    def __init__(self, name, argument, tasks):
        super().__init__(name, None, tasks)
        try:
            self.alpha = ALPHA if argument is None else float(argument)
        except ValueError:
            self.alpha = math.nan
        if not 0 <= self.alpha < math.inf:
            raise InputError(
                f"alpha is a number from 0 on, as in gradnorm:1.5; it was {name[:60]!r}"
            )
        self.learned = AdamValues(torch.ones(len(self.tasks)), LR)
        self.register_buffer("first", torch.full((len(self.tasks),), math.nan))  # L(0)

    def prepare(self, model):
        if not model.shared_parameters():
            raise InputError(
                f"{self.spec} compares the tasks' gradients in the parameters that they share, and "
                f"with --sharing {model.sharing.name} they share none; use another weighting"
            )

    def begin_step(self, epoch, step, history):
        self.set_weights(self.learned.values.tolist())

    def backward(self, losses, model):
        """One pass for each task; what they add up to is the gradient of the weighted sum."""
        shared, rows = model.shared_parameters(), []
        total = [torch.zeros_like(p) for p in shared]
        for task in self.tasks:
            for p in shared:
                p.grad = None
            (self.fixed[task] * losses[task]).backward(retain_graph=True)
            for p, whole in zip(shared, total, strict=True):
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                whole += p.grad
            rows.append(torch.cat([p.grad.flatten() for p in shared]))
        for p, whole in zip(shared, total, strict=True):
            p.grad = whole
        lengths = self.across(torch.stack(rows)).norm(dim=1)
        shares = torch.tensor([self.fixed[task] for task in self.tasks])
        self.learn(lengths.cpu() / shares, self.global_losses(losses))
        return self.total(losses).detach()

    def learn(self, lengths, losses):
        """Change the weights by the lengths of the tasks' unweighted gradients and their losses."""
        is_known = self.has_labels()
        if not is_known.any():
            return
        is_new = is_known & self.first.isnan().cpu()
        self.first.copy_(torch.where(is_new, losses, self.first.cpu()))
        rate = losses / self.first.cpu().clamp(min=1e-12)
        rate = rate / rate[is_known].mean().clamp(min=1e-12)
        weights = self.learned.values
        weighted = weights * lengths
        wanted = weighted[is_known].mean() * rate**self.alpha
        gradient = (weighted - wanted).sign() * lengths
        self.learned.step(torch.where(is_known, gradient, 0))
        weights.clamp_(min=LEAST).mul_(len(weights) / weights.sum())
