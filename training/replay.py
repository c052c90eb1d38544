"""A network's passes recorded as CUDA graphs and replayed: a GPU waits for each of hundreds of
small kernels otherwise, as Python is slower in asking for them than it is in computing them.

Every shape of a whole batch is recorded once, before the first epoch that has it; what a step
computes is the same. Losses stay as they are, since they may look at values. docs/training.md has
figures.
"""

import torch

import cli
from training.step import autocast
from utils import WeightedLoss

WARM_UP = 3  # passes before the recording, in which libraries choose their ways


def recorder(model, criterion, args, precision, team):
    """A Recorded of a network, or None where it is to be called as it is: on a CPU, in several
    processes, and where a step goes back through the network more than once or looks into it."""
    plain = (
        type(criterion).backward is WeightedLoss.backward
        and not args.conflicts
        and not model.keeps_trunk
    )
    is_alone = team.size == 1 and next(model.parameters()).device.type == "cuda"
    return Recorded(model, args.batch_size, precision) if plain and is_alone else None


class Recorded:
    """Called with images as the network is in training; batches of `size` of a side that was
    prepared are replayed, others computed as ever."""

    def __init__(self, model, size, precision):
        self.model, self.size, self.precision, self.passes = model, size, precision, {}

    def __call__(self, image):
        return self.passes.get(image.shape, self.model)(image)

    def prepare(self, side):
        """Record the passes of batches of images of a side. No other thread may ask for anything of
        the GPU meanwhile, so batches that are read ahead come after it."""
        shape = torch.Size((self.size, 3, side, side))
        if shape in self.passes:
            return
        try:
            self.passes[shape] = self._record(shape)
        except RuntimeError as error:
            self.passes[shape] = self.model
            cli.warn(
                f"the network cannot be recorded as CUDA graphs, which costs speed alone ({str(error).splitlines()[0]})"
            )

    def _record(self, shape):
        """The passes as a function. Nothing of the network is changed, and no random number used
        up."""
        device = next(self.model.parameters()).device
        image = torch.zeros(shape, dtype=torch.uint8, device=device).contiguous(
            memory_format=torch.channels_last
        )
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        drawn = torch.cuda.get_rng_state(device)
        # Gradients are added up in the stream of the recording and used in another; torch waits for
        # them, and warns that it does.
        getattr(
            torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", lambda value: None
        )(False)
        try:
            with autocast(
                device, self.precision, cache_enabled=False
            ):  # a recording cannot have a cache of weights
                torch.cuda.make_graphed_callables(self.model, (image,), num_warmup_iters=WARM_UP)
            return self.model.forward  # which it has put in the place of the class's
        finally:
            self.model.__dict__.pop("forward", None)
            for buffer, value in buffers:
                buffer.copy_(value)
            torch.cuda.set_rng_state(drawn, device)
