"""One run in several processes: what the network sees is what it sees in one, but for rounding.

Each process loads, augments and computes its part of every batch, by image. In between they
exchange: the sums of batch normalisation, which is over the whole batch; outputs and targets, so
that each computes the losses of the whole batch, whatever these are, but for those that are known
to be means over images (tasks.Task.by_image), of which the values alone; and gradients. Each then
updates its share of the parameters, which lie in memory that all see.

Normalisation of each process's images for themselves would need no exchange and be an eighth faster
(benchmarks/README.md). It is over the whole batch because only then does a run not depend on the
number of processes.
"""

import os
import socket

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

from cli import InputError
from data.shared import Shared, open_shared
from training.devices import choose_device
from training.others import key_of
from training.step import gradient_norm
from training.team import ALONE, Network, Started
from utils import UNLABELLED

LAYERS = {nn.BatchNorm1d, nn.BatchNorm2d}
WIDE = 128  # channels that `wide` makes at most of fewer
ALIGNED = 16  # numbers: where a parameter begins in shared memory


# --------------------------------------------------------------------------------------------------
# ----- the processes


def choose_processes(args, earlier, device, n, model, network):
    """(processes, threads in each, or None: as it is) of a run.

    earlier: processes of the run that is resumed, or None; n: training images; network: the team
    that torchrun started, or None. "auto" on a CPU is one process for each core that torch would
    use: threads of one process wait for each other hundreds of times a step, so that whatever else
    runs on the machine slows them down many times over.
    """
    most, cores, processes = min(args.batch_size, n), torch.get_num_threads(), args.processes
    if network:
        processes = network.size
    elif processes == "auto":
        one = args.threads or device.type != "cpu" or strange_layers(model)
        processes = earlier or (1 if one else min(cores, most))
    if earlier and processes != earlier:
        raise InputError(
            f"the run was begun in {earlier} processes and cannot be resumed in {processes}; leave --processes "
            "out, or use another --runs"
        )
    if processes > most:
        raise InputError(
            f"--processes {processes} are more than the {most} images of a batch; use at most {most}"
        )
    if processes == 1 or network:
        return processes, args.threads
    if device.type != "cpu":
        raise InputError(
            f"--processes {processes} is for a CPU, and this run computes on {device.type}; for several GPUs "
            f"start it with torchrun --nproc-per-node {processes}"
        )
    return processes, args.threads or max(1, cores // processes)


def from_torchrun(args):
    """The team of this process where torchrun started it, else None."""
    if (
        "WORLD_SIZE" not in os.environ
        or "RANK" not in os.environ
        or int(os.environ["WORLD_SIZE"]) == 1
    ):
        return None
    if args.processes not in ("auto", int(os.environ["WORLD_SIZE"])):
        raise InputError(
            f"--processes {args.processes} beside torchrun, which has started {os.environ['WORLD_SIZE']}; leave "
            "it out"
        )
    device = choose_device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return Network(device)


def start(processes, threads):
    """A team of so many processes on this machine."""
    return Started(processes, threads) if processes > 1 else ALONE


def strange_layers(model):
    """Names of the layers that normalise over a batch in a way that is not known here."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not is_plain(layer)
    ]


def is_plain(layer):
    """Whether a layer is a batch normalisation as `WholeBatchNorm` is one."""
    return (
        type(layer) in LAYERS
        and layer.affine
        and layer.track_running_stats
        and layer.momentum is not None
    )


def share_images(team, dataset):
    """Let the processes of one machine hold a dataset's images together."""
    if team.size == 1 or not dataset.fits_in_memory():
        return
    hosts = team.gather(socket.gethostname())
    is_first = hosts.index(hosts[team.rank]) == team.rank
    memory = Shared(dataset.store.shared_bytes()) if is_first else None
    places = team.gather(memory.place if memory else None)
    dataset.store.share(places[hosts.index(hosts[team.rank])])
    team.meet()
    if memory:
        memory.close()


# --------------------------------------------------------------------------------------------------
# ---------- the batch


def join(team, model):
    """Make a network one of the team's: its outputs in training are those of the whole batch, as
    its normalisation is over it."""
    if team.size == 1:
        return
    model.team = team
    strange = strange_layers(model)
    if strange:
        raise InputError(
            f"{strange[0]} normalises over a batch in a way that cannot be split ({len(strange)} such layers); "
            "use --processes 1"
        )
    model.team, team.by_image = (
        team,
        tuple(name for name, task in model.task.items() if task.by_image),
    )
    for layer in model.modules():
        if is_plain(layer):
            layer.__class__, layer.team = WholeBatchNorm, team

    def whole(model, inputs, outputs):
        apart = team.apart if model.training else outputs
        return {
            name: output if name in apart else Whole.apply(team, output)
            for name, output in outputs.items()
        }

    model.register_forward_hook(whole)


def whole_batch(team, batch):
    """A batch with the targets of all processes, beside the images of this one; but for targets
    that the losses need of this one's images alone."""
    if team.size == 1:
        return batch
    known = [bool((batch[name] != UNLABELLED).all()) for name in team.by_image]
    team.lengths, *known = team.exchange(torch.tensor([len(batch["image"]), *known])).T.tolist()
    team.shares = (torch.tensor(team.lengths) / sum(team.lengths)).view(-1, 1, 1)
    team.apart = {name for name, everywhere in zip(team.by_image, known) if all(everywhere)}
    own = {"image", *team.apart, *map(key_of, team.apart)}
    return {
        name: value if name in own else Whole.apply(team, value) for name, value in batch.items()
    }


class Whole(torch.autograd.Function):
    """The parts of all processes, one after another: (b, ...) -> (B, ...); parts may differ in
    length.

    Each process has the gradient of the whole batch's losses, of which its part goes back.
    Gradients of parameters are averaged over the processes at the end, so P times its part goes:
    what does not come by way of the outputs then counts once.
    """

    @staticmethod
    def forward(ctx, team, part):
        ctx.team, lengths = team, team.lengths
        more = max(lengths) - len(part)
        parts = team.exchange(
            torch.cat([part, part.new_zeros(more, *part.shape[1:])]) if more else part
        )
        return torch.cat([part[:length] for part, length in zip(parts, lengths)])

    @staticmethod
    def backward(ctx, gradient):
        start = sum(ctx.team.lengths[: ctx.team.rank])
        return None, gradient[start : start + ctx.team.lengths[ctx.team.rank]] * ctx.team.size


class WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes together (torch's own SyncBatchNorm is
    for GPUs alone)."""

    def forward(self, x):
        if not self.training:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        y, mean, var = Normalise.apply(self.team, x, self.weight, self.bias, self.eps)
        n = values_a_channel(self.team, x)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        return y


class Normalise(torch.autograd.Function):
    """x (b, C, ...) -> (x normalised by the statistics of all processes' x, their mean (C,) and
    variance (C,)).

    There are many of these a step, and of small maps the time is that of asking for operations, so
    they are few.
    """

    @staticmethod
    def forward(ctx, team, x, weight, bias, eps):
        rows, k = wide(x)
        nothing = (
            weight.new_zeros(k * len(weight)),
            weight.new_ones(k * len(weight)),
        )  # float, and so are the statistics of bf16
        every = team.exchange(torch.stack(torch.batch_norm_update_stats(rows, *nothing, 0.0)))
        # Of each process's k parts, which weigh as many as its images.
        means, variances = every.view(team.size, 2, k, -1).unbind(1)
        weights = team.shares.to(every.device) / k
        mean = (means * weights).sum((0, 1))
        off = means - mean
        var = torch.addcmul(variances, off, off).mul_(weights).sum((0, 1))
        of_rows = repeated(k, torch.stack([mean, var, weight, bias]))
        ctx.save_for_backward(x, weight, var, *of_rows[:3])
        ctx.team, ctx.eps = team, eps
        ctx.mark_non_differentiable(mean, var)
        return narrow(normalise(rows, *of_rows, eps), k), mean, var

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, var, *of_rows, weight_of_rows = ctx.saved_tensors
        (rows, k), low = wide(x), gradient.dtype != weight.dtype
        its_rows = (
            wide(gradient.contiguous(memory_format=torch.channels_last))[0] if k > 1 else gradient
        )
        # With normed = (x - mean) / deviation: gradient weight / deviation, where asked for; the
        # sums of gradient normed and of gradient over this part's values.
        scaled, *sums = torch.ops.aten.native_batch_norm_backward(
            its_rows, rows, weight_of_rows, *of_rows, None, None, False, ctx.eps, [low, True, True]
        )
        sums = torch.stack(sums).view(2, k, -1).sum(1)
        scale = weight * (var + ctx.eps).rsqrt()
        # scale (gradient - normed mean(gradient normed) - mean(gradient)), the latter two as
        # another normalisation of x.
        factors = (ctx.team.exchange(sums).sum(0) * scale).div_(-values_a_channel(ctx.team, x))
        rest = normalise(rows, *of_rows, *repeated(k, factors), ctx.eps)
        # bf16 times a number by channel would round that number, too. Sums in place would be
        # slower.
        of_x = (
            narrow(rest + scaled, k)
            if low
            else torch.addcmul(narrow(rest, k), gradient, scale.view(-1, *[1] * (x.ndim - 2)))
        )
        return None, of_x, *sums, None


def values_a_channel(team, x):
    """How many values of a channel the processes' x (b, C, ...) have together."""
    return sum(team.lengths) * (x.numel() // (len(x) * x.shape[1]))


def wide(x):
    """(x (B, C, H, W) as (B, k C, H, W / k), k): pixels side by side as channels, where these are
    few. What goes along channels is then quicker by up to a half."""
    k = 1
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        while 2 * k * x.shape[1] <= WIDE and x.shape[3] % (2 * k) == 0:
            k *= 2
    return seen_as(x, len(x), k * x.shape[1], x.shape[2], x.shape[3] // k) if k > 1 else x, k


def narrow(rows, k):
    """What `wide` has made of x -> x."""
    return (
        seen_as(rows, len(rows), rows.shape[1] // k, rows.shape[2], rows.shape[3] * k)
        if k > 1
        else rows
    )


def seen_as(x, b, c, h, w):
    """The numbers of a tensor in channels_last as (b, c, h, w), in the same layout."""
    return x.contiguous(memory_format=torch.channels_last).as_strided(
        (b, c, h, w), (h * w * c, 1, w * c, c)
    )


def repeated(k, values):
    """Rows of numbers by channel, (n, C) -> n times (k C,) of `wide`."""
    return (torch.cat([values] * k, 1) if k > 1 else values).unbind()


def normalise(rows, mean, var, weight, bias, eps):
    """weight (x - mean) / deviation + bias of `wide` values, by numbers that are as wide."""
    return F.batch_norm(rows, mean, var, weight, bias, False, 0.0, eps)


# --------------------------------------------------------------------------------------------------
# ----- the parameters


class Update:
    """What a process does with the gradients of parameters, {name: parameter}: `average` before the
    update, `end` after it.

    In a team of one machine the parameters move into shared memory, each process averages and
    updates its share, and the optimizer keeps what it remembers of that share only, until
    `collect`. Elsewhere every process updates all.
    """

    def __init__(self, team, parameters, optimizer):
        self.team, self.parameters, self.optimizer = team, parameters, optimizer
        self.trained = [p for p in parameters.values() if p.requires_grad]
        self.is_shared = team.size > 1 and not isinstance(team, Network)
        if not self.is_shared:
            return
        # The processes' shares one after another, in each its parameters one after another.
        self.shares = split_evenly([p.numel() for p in self.trained], team.size)
        self.bounds, self.places, end = [0], {}, 0
        for share in self.shares:
            for k in share:
                self.places[k], end = end, end + -(-self.trained[k].numel() // ALIGNED) * ALIGNED
            self.bounds.append(end)
        memory = Shared(4 * end * (team.size + 1)) if team.rank == 0 else None
        place = team.gather(memory.place if memory else None)[0]
        values, *self.gradients = torch.from_numpy(
            open_shared(place, (team.size + 1, end), "float32")
        )
        for k, p in enumerate(self.trained):
            view = self._view(values, k)
            if team.rank == 0:
                view.copy_(p.data)
            p.data = view
        team.meet()
        if memory:
            memory.close()

    def _view(self, flat, k):
        """The k-th parameter's place in flat memory, laid out as the parameter."""
        p, start = self.trained[k], self.places[k]
        return flat[start : start + p.numel()].as_strided(p.size(), p.stride())

    def average(self):
        """Put the mean over the processes in the place of each gradient, where this process needs
        it; returns the norm of all."""
        for p in self.trained:
            # AdamW in one pass takes gradients for laid out as their parameters, and updates
            # others' places if they are not. Backward lays them out so; a weighting that makes
            # gradients of its own need not.
            if p.grad is not None and p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p).copy_(p.grad)
        if self.team.size == 1:
            return gradient_norm(self.parameters)
        if not self.is_shared:
            flat = torch.cat([p.grad.flatten() for p in self.trained])
            self.team.sum(flat)
            flat /= self.team.size
            for p, part in zip(self.trained, flat.split([p.numel() for p in self.trained])):
                p.grad.copy_(
                    part.view(p.shape)
                )  # in its layout, as AdamW in one pass relies on that
            return gradient_norm(self.parameters)
        mine = self.gradients[self.team.rank]
        torch._foreach_copy_(
            [self._view(mine, k) for k in range(len(self.trained))], [p.grad for p in self.trained]
        )
        self.team.meet()
        self._take(self.team.rank)
        own = [p.grad for p in self.trained if p.grad is not None]
        norm = get_total_norm(
            self.team.exchange(get_total_norm(own) if own else torch.zeros(())).unbind()
        )
        if not norm.isfinite():  # whoever says which ones are not, has to see all
            for rank in range(self.team.size):
                self._take(rank, keeps_others=True)
        return norm

    def _take(self, rank, keeps_others=False):
        """Average the gradients of a process's share; the others' are none."""
        start, end = self.bounds[rank : rank + 2]
        flat = self.gradients[0][start:end] + self.gradients[1][start:end]
        for more in self.gradients[2:]:
            flat += more[start:end]
        flat /= self.team.size
        for p in self.trained if not keeps_others else ():
            p.grad = None
        for k in self.shares[rank]:
            p = self.trained[k]
            p.grad = flat[self.places[k] - start :][: p.numel()].as_strided(p.size(), p.stride())

    def end(self):
        """After the update: wait until all parameters are what they will be."""
        if self.is_shared:
            self.team.meet()

    def collect(self):
        """Let the first process's optimizer know what the others' remember."""
        if not self.is_shared:
            return
        found = self.team.gather(
            {k: self.optimizer.state[self.trained[k]] for k in self.shares[self.team.rank]}
        )
        for states in found if self.team.rank == 0 else ():
            for k, state in states.items():
                self.optimizer.state[self.trained[k]] = state


def split_evenly(sizes, parts):
    """Numbers of things of given sizes in so many lists, about as much in each: the largest first,
    each to where least is."""
    lists, sums = [[] for _ in range(parts)], [0] * parts
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        least = sums.index(min(sums))
        lists[least].append(k)
        sums[least] += sizes[k]
    return lists


def align(team, model):
    """Give every process the values of the first one's network: parameters and statistics."""
    if team.size > 1:
        for value in model.state_dict().values():
            value.copy_(team.exchange(value)[0])
