"""CUDA graphs: a network's passes are recorded once and replayed.

A GPU waits for each of hundreds of small kernels otherwise, as Python is slower in asking for them
than it is in computing them. Every shape of a whole batch is recorded before the first epoch that
has it; what a step computes is the same. Losses are not recorded, since they may look at values.
"""

import torch

import cli
from training.precision import autocast
from utils import WeightedLoss

WARM_UP = 3  # passes before the recording, in which libraries choose their algorithms


def make_graphs(model, criterion, config, world):
    """A Graphs of a network, or None where it cannot be recorded.

    That is on a CPU, in several processes, and where a step goes back through the network more than
    once or looks into it. config.precision: fp32 or bf16.
    """
    is_plain = type(criterion).backward is WeightedLoss.backward
    is_plain = is_plain and not config.conflicts and not model.record_features
    is_alone = world.size == 1 and next(model.parameters()).is_cuda
    return Graphs(model, config.batch_size, config.precision) if is_plain and is_alone else None


class Graphs:
    """Called with images (B, 3, H, W) while the network trains: its outputs.

    Batches of `size` images of a side that was prepared are replayed, others computed as usual.
    """

    def __init__(self, model, size, precision):
        self.model, self.size, self.precision = model, size, precision
        self.passes = {}

    def __call__(self, image):
        return self.passes.get(image.shape, self.model)(image)

    def prepare(self, side):
        """Record the passes of batches of images of a side.

        No other thread may use the GPU meanwhile, so batches are read ahead later.
        """
        shape = torch.Size((self.size, 3, side, side))
        if shape in self.passes:
            return
        try:
            self.passes[shape] = self._record(shape)
        except RuntimeError as error:
            self.passes[shape] = self.model
            reason = str(error).splitlines()[0]
            cli.warn(f"the network cannot be recorded as CUDA graphs and trains slower ({reason})")

    def _record(self, shape):
        """The passes as a function; the network and random numbers stay as they were."""
        device = next(self.model.parameters()).device
        image = torch.zeros(shape, dtype=torch.uint8, device=device)
        image = image.contiguous(memory_format=torch.channels_last)
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        random_state = torch.cuda.get_rng_state(device)
        # Gradients are added up in the recording's stream and used in another one; torch waits for
        # them, and warns that it does.
        warns = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if warns:  # not in torch 2.6
            warns(False)
        try:
            # A recording cannot have a cache of weights.
            with autocast(device, self.precision, cache_enabled=False):
                torch.cuda.make_graphed_callables(self.model, (image,), num_warmup_iters=WARM_UP)
            return self.model.forward  # it lies on the object now, before the class's own
        finally:
            self.model.__dict__.pop("forward", None)
            for buffer, value in buffers:
                buffer.copy_(value)
            torch.cuda.set_rng_state(random_state, device)
