"""Data parallel training over torch.distributed: one run in P processes.

Every process holds the whole network and its part of each batch. Gradients are averaged and batch
normalisation is over the whole batch, so results do not depend on P but for rounding. On a CPU the
first process starts the others (--processes P), which exchange over Gloo. torchrun may start them
instead, on one machine or several; GPUs exchange over NCCL.

The first process (rank 0) prints and writes. Where one process ends, all end, and the first says
why.
"""

import atexit
import io
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from itertools import combinations
from multiprocessing.connection import wait

import torch
from torch import distributed, nn
from torch.nn import functional as F
from tqdm import tqdm

import cli
from cli import InputError
from training.kernels import replace_layers

GRACE = 5.0  # seconds in which another process should end, or say why it has
HOST = "127.0.0.1"
SMALL = 1 << 16  # bytes that the buffer of a socket holds
LOST = 75  # exit status of a process that ended because another had
RESUME = "so all end; the same command with --resume goes on from the last finished epoch"
WIDE = 128  # channels that `wide` makes at most of fewer


class Lost(Exception):
    """Another process of the run has ended."""


class World:
    """The processes of a run, `size` of them, as the one of number `rank` sees it.

    All processes call the same methods in the same order. links: {rank: socket} to the others, if
    all are on one machine. Small tensors go through these, as Gloo wakes four threads for each, and
    there are dozens in a step: 0.03 instead of 0.2 ms, and much more where the machine is busy.
    """

    def __init__(self, rank=0, size=1, links=None):
        self.rank, self.size, self.links = rank, size, links or {}
        self.flat = None  # memory for gradients, kept from step to step

    def sum(self, tensor):
        """The sum of the processes' tensors, of one shape, in all of them."""
        if self.size == 1:
            return tensor
        if self.links and tensor.nbytes <= SMALL:
            return self.stack(tensor).sum(0)
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self.exchange(distributed.all_reduce, total)
        return total

    def mean(self, tensor):
        """The mean of the processes' tensors, of one shape, in all of them."""
        return self.sum(tensor) / self.size

    def stack(self, tensor):
        """(...) -> (P, ...): the processes' tensors, of one shape, by rank, in all of them."""
        if self.size == 1:
            return tensor[None]
        every = tensor.new_empty(self.size, *tensor.shape)
        every[self.rank] = tensor.detach()
        if self.links and tensor.nbytes <= SMALL:
            self.exchange(self.swap, every.view(self.size, -1).view(torch.uint8).numpy())
        else:
            self.exchange(distributed.all_gather, list(every), every[self.rank].clone())
        return every

    def swap(self, rows):
        """Send this process's row of bytes to the others, and receive theirs."""
        for link in self.links.values():
            link.sendall(rows[self.rank])
        for rank, link in self.links.items():
            row = memoryview(rows[rank])
            while row:
                n = link.recv_into(row)
                if n == 0:
                    raise ConnectionError("a link was closed")
                row = row[n:]

    def gather(self, value):
        """Any value of each process -> a list of all, by rank, in all of them."""
        values = [value] * self.size
        if self.size > 1:
            self.exchange(distributed.all_gather_object, values, value)
        return values

    def broadcast(self, value):
        """Any value of the first process, in all of them."""
        values = [value]
        if self.size > 1:
            self.exchange(distributed.broadcast_object_list, values)
        return values[0]

    def barrier(self):
        """Wait until all processes are here."""
        if self.size > 1:
            self.exchange(distributed.barrier)

    def exchange(self, function, *args):
        """Call a function that fails where another process has ended."""
        try:
            function(*args)
        except (RuntimeError, ConnectionError) as error:
            raise Lost(str(error)) from None


ALONE = World()


# ---------------------------------------------------------------------------------------- processes


def choose_processes(processes, threads, device, model, images):
    """(processes, threads of each, or None for torch's own number) of a run.

    processes, threads: as asked for, by default 1 and None; images: of the smallest batch. Raises
    InputError where the network cannot be trained in several processes, or the device.
    """
    started = torchrun_processes()
    processes = started if started > 1 else processes
    if processes == 1:
        return 1, threads
    if processes > images:
        raise InputError(
            f"--processes {processes} are more than the {images} images of a batch; use fewer"
        )
    refuse_strange(model)
    if started > 1:
        return processes, threads
    if device.type != "cpu":
        raise InputError(
            f"--processes {processes} is for a CPU, and this run computes on {device.type}; for "
            f"several GPUs start it with torchrun --nproc-per-node {processes}"
        )
    return processes, threads or max(1, torch.get_num_threads() // processes)


def torchrun_processes():
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def launch(function, trainer, processes, threads):
    """Call function(world, trainer) in all processes of a run; returns the first one's result.

    The other processes get a pickled copy of the trainer; torchrun's wait for it in `follow`.
    """
    if threads:
        torch.set_num_threads(threads)
    if torchrun_processes() > 1:
        world = World(distributed.get_rank(), distributed.get_world_size())
        try:
            return lead(world, function, trainer)
        except Lost:
            cli.fail(f"another process of this run has ended, {RESUME}", 1)
    if processes > 1:
        return launch_local(function, trainer, processes)
    return function(ALONE, trainer)


def launch_local(function, trainer, processes):
    """`launch` in processes that this one starts, and ends in any case."""
    listener = socket.create_server((HOST, 0))
    port, context = listener.getsockname()[1], multiprocessing.get_context("spawn")
    store = distributed.TCPStore(
        HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    others, links = [], {rank: {} for rank in range(processes)}
    for a, b in combinations(links, 2):
        links[a][b], links[b][a] = socket.socketpair()
    try:
        for rank in range(1, processes):
            args = World(rank, processes, links[rank]), port, torch.get_num_threads()
            others.append(context.Process(target=serve, args=args))
            others[-1].start()
        for rank in range(1, processes):
            for link in links[rank].values():  # or nobody would notice that a process has ended
                link.close()
        while store.add("ready", 0) < len(others):
            if wait([process.sentinel for process in others], 0.02):
                raise Lost("it has not begun")
        world = World(0, processes, links[0])
        join_local(world, store)
        result = lead(world, function, trainer)
        for process in others:
            process.join(GRACE)
        return result
    except Lost as error:
        explain(others, store, error)
    finally:
        for process in others:
            process.kill()
            process.join()
        for link in links[0].values():
            link.close()
        leave()


def serve(world, port, threads):
    """In a started process: do what the first one launches."""
    cli.follow_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the first process answers them
    tqdm.set_lock(threading.RLock())  # its own one is reported as leaked where a process is killed
    torch.set_num_threads(threads)
    store = distributed.TCPStore(HOST, port, is_master=False)
    store.add("ready", 1)
    try:
        join_local(world, store)
        obey(world)
    except Lost:
        os._exit(LOST)
    except Exception as error:
        if not isinstance(error, InputError):
            error = RuntimeError(f"in another process:\n{traceback.format_exc()}")
        store.set("error", pickle.dumps(error))
        os._exit(LOST)


def join_local(world, store):
    """Make this process one of the group that exchanges over the loopback device."""
    device = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
    if device:
        os.environ["GLOO_SOCKET_IFNAME"] = device
    distributed.init_process_group("gloo", store=store, rank=world.rank, world_size=world.size)


def leave():
    """Leave the group of processes, if this one is in it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def explain(others, store, error):
    """Raise what ended one of the other processes, or end with a sentence that says it.

    error: how this process noticed.
    """
    wait([process.sentinel for process in others], GRACE)
    time.sleep(0.1)  # a signal that ends all of them may have come to another one first
    if store.check(["error"]):
        raise pickle.loads(store.get("error")) from None
    who, how = "another process", f"cannot be reached ({error})"
    for process in others:
        status = process.exitcode
        if status not in (None, LOST):
            who = f"process {process.pid}"
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    cli.fail(f"{who}, one of the {len(others) + 1} of this run, {how}, {RESUME}", 1)


def follow(device):
    """Under torchrun: in all processes but the first, do what that one launches, and return True.

    False in the first process and without torchrun, which go on to `launch`.
    """
    if torchrun_processes() == 1:
        return False
    is_cuda = device.type == "cuda"
    if is_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if is_cuda else "gloo")
    atexit.register(leave)
    world = World(distributed.get_rank(), distributed.get_world_size())
    if world.rank == 0:
        return False
    try:
        obey(world, device)
    except Lost:  # the first process says why
        os._exit(0)
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    return True


def lead(world, function, trainer):
    """Send the function and the trainer to the other processes, and call it."""
    buffer = io.BytesIO()  # with the tensors in it, so that none has to lie in shared memory
    torch.save((function, trainer), buffer)
    world.broadcast(buffer.getvalue())
    world.barrier()  # until all have it
    return function(world, trainer)


def obey(world, device="cpu"):
    """Call the function that the first process sends; print nothing, as that one prints it."""
    import torch._dynamo  # noqa: F401  (as the first step does; its seconds are none of training)

    content = io.BytesIO(world.broadcast(None))
    function, trainer = torch.load(content, device, weights_only=False)
    world.barrier()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    function(world, trainer)
    leave()


# ---------------------------------------------------------------------------------------- gradients


def average_gradients(parameters, world):
    """Put the mean over the processes in the place of the gradient of each trained parameter.

    Its memory is used again in the next step.
    """
    trained = [p for p in parameters if p.requires_grad]
    for p in trained:
        # Backward lays gradients out as their parameters, a weighting that makes its own need not;
        # fused AdamW takes for granted that they are.
        if p.grad is not None and p.grad.stride() != p.stride():
            p.grad = torch.empty_like(p).copy_(p.grad)
    if world.size == 1:
        return
    length = sum(p.numel() for p in trained)
    if world.flat is None or len(world.flat) != length:
        world.flat = trained[0].new_empty(length)
    parts = world.flat.split([p.numel() for p in trained])
    for p, part in zip(trained, parts, strict=True):
        mean = part.as_strided(p.size(), p.stride())
        if p.grad is None:
            mean.zero_()
        else:
            mean.copy_(p.grad)
        p.grad = mean
    world.exchange(distributed.all_reduce, world.flat)
    world.flat /= world.size


# ------------------------------------------------------------------------------ batch normalisation


def sync_batchnorm(model, world):
    """Let a network's batch normalisation be over the batches of all processes together.

    Its layers are replaced, and keep their parameters and names.
    """
    if world.size == 1:
        return
    refuse_strange(model)
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        replace_layers(model, lambda layer: SyncBatchNorm(layer, world) if is_norm(layer) else None)


def is_norm(layer):
    """Whether a layer is a batch normalisation."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def refuse_strange(model):
    """Refuse a network with batch normalisation that SyncBatchNorm does not compute."""
    for name, layer in model.named_modules():
        is_plain = type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, SyncBatchNorm)
        is_plain = is_plain and layer.affine and layer.track_running_stats and layer.momentum
        if is_norm(layer) and not is_plain:
            raise InputError(
                f"{name} is batch normalisation of a kind that cannot be split; use --processes 1"
            )


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes (PyTorch's own is for GPUs alone)."""

    def __init__(self, layer, world):
        super().__init__(layer.num_features, layer.eps, layer.momentum, device="meta")
        self.world = world
        for name, value in [*layer.named_parameters(), *layer.named_buffers()]:
            setattr(self, name, value)

    def forward(self, x):
        if not self.training:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(x, *statistics, self.weight, self.bias, False, 0.0, self.eps)
        options = self.world, self.eps
        y, mean, var, n = Normalise.apply(x, self.weight, self.bias, options)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (n / (n - 1)), self.momentum)
        return y


class Normalise(torch.autograd.Function):
    """x (b, C, ...) -> (normalised x, mean (C,), variance (C,), values a channel).

    Of the x of all processes. options: (world, eps).
    There are many of these a step, and of small maps the time is that of asking for operations, so
    they are few.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, options):
        world, eps = ctx.options = options
        rows, k = wide(x)
        zeros = weight.new_zeros(k * len(weight))  # float32, as are the statistics of bf16
        own = torch.stack(torch.batch_norm_update_stats(rows, zeros, zeros + 1, 0.0))
        n = own.new_full((2, 1), x.numel() // x.shape[1])
        every = world.stack(torch.cat([own, n], 1))  # (P, 2, k C + 1)
        counts = every[:, :1, -1:]  # (P, 1, 1)
        n = counts.sum()
        # Of each process's k parts of a map, all of one size.
        means, variances = every[..., :-1].unflatten(2, (k, -1)).unbind(1)
        shares = counts / (n * k)
        mean = (means * shares).sum((0, 1))
        off = means - mean
        var = torch.addcmul(variances, off, off).mul_(shares).sum((0, 1))
        of_rows = repeated(k, torch.stack([mean, var, weight, bias]))
        ctx.save_for_backward(x, weight, var, n, *of_rows[:3])
        ctx.mark_non_differentiable(mean, var, n)
        return narrow(normalise(rows, of_rows, eps), k), mean, var, n

    @staticmethod
    def backward(ctx, gradient, *_):
        x, weight, var, n, *of_rows, weight_of_rows = ctx.saved_tensors
        (rows, k), (world, eps) = wide(x), ctx.options
        is_low = gradient.dtype != weight.dtype
        gradient_rows = gradient
        if k > 1:
            gradient_rows, _ = wide(gradient.contiguous(memory_format=torch.channels_last))
        # With normed = (x - mean) / deviation: gradient weight / deviation, where asked for; the
        # sums of gradient normed and of gradient over this process's values.
        wanted = [is_low, True, True]
        scaled, *sums = torch.ops.aten.native_batch_norm_backward(
            gradient_rows, rows, weight_of_rows, *of_rows, None, None, False, eps, wanted
        )
        sums = torch.stack(sums).view(2, k, -1).sum(1)
        scale = weight * (var + eps).rsqrt()
        # scale (gradient - normed mean(gradient normed) - mean(gradient)), the latter two as
        # another normalisation of x.
        factors = (world.sum(sums) * scale).div_(-n)
        rest = normalise(rows, (*of_rows, *repeated(k, factors)), eps)
        # bf16 times a number by channel would round that number, too. Sums in place would be
        # slower.
        if is_low:
            of_x = narrow(rest + scaled, k)
        else:
            scale = scale.view(-1, *[1] * (x.ndim - 2))
            of_x = torch.addcmul(narrow(rest, k), gradient, scale)
        return of_x, *sums, None


def wide(x):
    """(x (B, C, H, W) as (B, k C, H, W / k), k): where channels are few, pixels as channels.

    What goes along channels is then quicker by up to a half.
    """
    k = 1
    if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return x, k
    while 2 * k * x.shape[1] <= WIDE and x.shape[3] % (2 * k) == 0:
        k *= 2
    n, channels, height, width = x.shape
    return seen_as(x, (n, k * channels, height, width // k)), k


def narrow(rows, k):
    """What `wide` has made of x -> x."""
    if k == 1:
        return rows
    n, channels, height, width = rows.shape
    return seen_as(rows, (n, channels // k, height, width * k))


def seen_as(x, shape):
    """The numbers of a tensor in channels_last as another shape in channels_last."""
    _, c, h, w = shape
    x = x.contiguous(memory_format=torch.channels_last)
    return x.as_strided(shape, (h * w * c, 1, w * c, c))


def repeated(k, values):
    """Rows of numbers by channel, (n, C) -> n times (k C,), for `wide`."""
    return values.repeat(1, k).unbind()


def normalise(rows, numbers, eps):
    """weight (x - mean) / deviation + bias; numbers: mean, var, weight and bias, of `wide`."""
    return F.batch_norm(rows, *numbers, False, 0.0, eps)
