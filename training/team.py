"""The processes of one run: how they start, exchange numbers and end together, and who tells of
what went wrong.

    Alone      one process: nothing to exchange. Local      P processes of this machine, started by
               the first (--processes P), which exchange through shared memory. Network    P
               processes that torchrun started, on one machine or several, which exchange through
               torch.distributed.

Of any team: `rank` is 0 in the process that writes and prints, `size` is P. All processes call the
same methods in the same order. Where one of them ends, none waits for it for ever: the others end
too, and the first says why.
"""

import contextlib
import io
import itertools
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import socket
import threading
import time
import traceback
from multiprocessing import reduction

import torch
from tqdm import tqdm

import cli
from cli import InputError
from data.shared import Shared, open_shared

SLOT = 16 << 20  # bytes that a process can hand over at once; more goes in turns
GRACE = 2.0  # seconds in which an ended process may still tell why
SPIN = 0.0003  # seconds of asking again before a process sleeps: waking one up takes a good part of that


class Lost(Exception):
    """Another process of the team has ended."""


class Alone:
    """A team of one.

    lengths   of each process's part of the batch; shares: the same over their sum, (P, 1, 1).
              by_image  names of the tasks whose loss of a fully labelled batch is the mean over its
              images; apart: those of them in which this
              batch is, whose losses each process computes for its part.
    """

    rank, size, lengths, shares, by_image, apart = 0, 1, (), None, (), ()

    def exchange(self, tensor):
        """A tensor of each process -> (P, ...) of all, by rank, in all of them; all are of the same
        shape and type. What is returned may last until the next but one exchange only."""
        return tensor[None]

    def meet(self):
        """Wait until all are here."""

    def gather(self, value):
        """Any value of each process -> a list of all, by rank, in all of them."""
        if self.size == 1:
            return [value]
        content = torch.frombuffer(bytearray(dumps(value)), dtype=torch.uint8)
        lengths = self.exchange(torch.tensor([len(content)])).flatten().tolist()
        padded = torch.cat([content, content.new_zeros(max(lengths) - len(content))])
        return [
            loads(part[:length].numpy().tobytes())
            for part, length in zip(self.exchange(padded), lengths)
        ]

    def whole(self, losses):
        """Losses by name -> the same, those that were computed apart for all parts together."""
        return {
            name: Mean.apply(self, loss) if name in self.apart else loss
            for name, loss in losses.items()
        }

    def call(self, function, *args):
        """Called in the first process: function(team, *args) in all of them; returns what it
        returns in the first."""
        return function(self, *args)

    def close(self):
        pass


ALONE = Alone()


class Mean(torch.autograd.Function):
    """A loss of each process's part, a scalar -> the mean over all images, in all of them. As
    gradients of parameters are averaged over the processes at the end, P times this part's share
    goes back."""

    @staticmethod
    def forward(ctx, team, loss):
        share = team.lengths[team.rank] / sum(team.lengths)
        ctx.factor = share * team.size
        return team.exchange(loss * share).sum(0)

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient * ctx.factor


class Bell:
    """One process rings, another waits, as often as it was rung."""

    def __init__(self):
        self.descriptor = os.eventfd(0, os.EFD_SEMAPHORE)

    def ring(self):
        os.eventfd_write(self.descriptor, 1)

    def recv(self, _):
        return os.eventfd_read(self.descriptor)

    def fileno(self):
        return self.descriptor

    def __getstate__(self):  # how multiprocessing hands it to a process that it starts
        return reduction.DupFd(self.descriptor)

    def __setstate__(self, duplicate):
        self.descriptor = duplicate.detach()

    def __del__(self):
        os.close(self.descriptor)


class Local(Alone):
    """What one process sees of a team on this machine.

    sockets  {rank: a socket to it}, whose end says that a process has ended, however that came.
    bells    bells[a][b] is what a rings for b on Linux. Elsewhere it is None, and a byte over the
    socket does it: whom that
             wakes, Linux likes to put on the core of who sent it, and then two processes share a
             core beside an idle one.
    place    of the shared memory: two slots for each process, used in turn: who is at the second
             exchange has read the
             first.
    """

    def __init__(self, rank, sockets, bells, place):
        self.rank, self.size, self.sockets, self.bells, self.turn = (
            rank,
            len(sockets) + 1,
            sockets,
            bells,
            0,
        )
        self.views = {}  # {(turn, type, shape): the slots so seen}, as making views takes longer than the exchange
        self.slots = torch.from_numpy(open_shared(place, (2, self.size, SLOT)))

    def meet(self):
        try:
            for rank, other in self.sockets.items():
                self.bells[self.rank][rank].ring() if self.bells else other.send(b".")
            for rank, other in self.sockets.items():
                bell = self.bells[rank][self.rank] if self.bells else other
                ready, until = [], time.perf_counter() + SPIN
                while not ready and time.perf_counter() < until:
                    ready = select.select([bell, other], [], [], 0)[0]
                if bell not in (ready or select.select([bell, other], [], [])[0]) or not bell.recv(
                    1
                ):
                    raise Lost
        except OSError:
            raise Lost from None

    def exchange(self, tensor):
        if tensor.nbytes > SLOT:
            flat = tensor.detach().contiguous().flatten().split(SLOT // tensor.itemsize)
            return torch.cat([self.exchange(part).clone() for part in flat], 1).view(
                self.size, *tensor.shape
            )
        self.turn = 1 - self.turn
        kind = self.turn, tensor.dtype, tensor.shape
        if kind not in self.views:
            every = (
                self.slots[self.turn, :, : tensor.nbytes]
                .view(tensor.dtype)
                .view(self.size, *tensor.shape)
            )
            self.views[kind] = every, every[self.rank]
        every, own = self.views[kind]
        own.copy_(tensor.detach())
        self.meet()
        return every

    def close(self):
        for other in self.sockets.values():
            other.close()


class Started(Local):
    """A Local team in the process that starts the others. They begin at once to import what they
    need, and wait for `call`."""

    def __init__(self, size, threads):
        self.memory, self.threads_before = Shared(2 * size * SLOT), torch.get_num_threads()
        context, sockets = multiprocessing.get_context("spawn"), {rank: {} for rank in range(size)}
        bells = (
            [[Bell() for _ in range(size)] for _ in range(size)] if hasattr(os, "eventfd") else None
        )
        for a, b in itertools.combinations(range(size), 2):
            sockets[a][b], sockets[b][a] = socket.socketpair()
        self.others, self.is_done = [], False
        for rank in range(1, size):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, sockets[rank], bells, self.memory.place, theirs, threads)
            )
            process.start()
            theirs.close()
            self.others.append((process, mine))
        for rank in range(1, size):
            for end in sockets[rank].values():  # or nobody would notice that a process has ended
                end.close()
        super().__init__(0, sockets[0], bells, self.memory.place)
        torch.set_num_threads(threads)

    def call(self, function, *args):
        content = dumps((function, args))
        try:
            for _, pipe in self.others:
                pipe.send_bytes(content)
            return function(self, *args)
        except (Lost, BrokenPipeError):
            self.explain()
        finally:
            self.is_done = True

    def explain(self):
        """Raise what ended another process of the team."""
        multiprocessing.connection.wait(
            [part for process, pipe in self.others for part in (pipe, process.sentinel)], GRACE
        )
        time.sleep(0.1)  # a signal that ends all of them may have come to another one first
        for process, pipe in self.others:
            with contextlib.suppress(EOFError, OSError):
                if pipe.poll():
                    kind, text = pipe.recv()
                    raise (
                        InputError(text)
                        if kind == "input"
                        else RuntimeError(f"in process {process.pid}: {text}")
                    )
        ended = [process for process, _ in self.others if process.exitcode is not None]
        status = ended[0].exitcode if ended else 0
        how = (
            f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"
        )
        who = (
            f"process {ended[0].pid}, one of the {self.size} of this run, {how}"
            if ended
            else "a process of the run is gone"
        )
        cli.fail(
            f"{who}, so all have ended; the same command with --resume goes on from the last finished epoch",
            1,
        )

    def close(self):
        super().close()
        for process, pipe in self.others:
            pipe.close()
            if self.is_done:
                process.join(GRACE)
            process.kill()  # one that still imports would notice its end much later
            process.join()
        self.memory.close()
        torch.set_num_threads(self.threads_before)


def serve(rank, sockets, bells, place, pipe, threads):
    """In a started process: wait for the call, and do it."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # the first process answers them, and the others end with it
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    # Its own is one between processes, and what a killed process leaves of such is warned of.
    tqdm.set_lock(threading.RLock())
    try:
        team = Local(rank, sockets, bells, place)
    except OSError:  # the first process has ended already
        os._exit(1)
    try:
        import training.engine  # noqa: F401  (what the call will need, imported while it is awaited)

        function, args = loads(pipe.recv_bytes())
        with quiet():
            function(team, *args)
    except (Lost, EOFError, ConnectionError):
        os._exit(1)  # the first process has ended, or knows who has
    except Exception as error:
        is_input = isinstance(error, InputError)
        with contextlib.suppress(OSError):  # the first process has ended of the same
            pipe.send(("input", str(error)) if is_input else ("fault", traceback.format_exc()))


class Network(Alone):
    """A team that torchrun started. GPUs exchange through NCCL, which was never tried here,
    processors through Gloo."""

    def __init__(self, device):
        from torch import distributed

        self.distributed, self.device, self.called = distributed, device, False
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def exchange(self, tensor):
        tensor = tensor.detach().contiguous()
        # Bytes, as not every library exchanges every type.
        content = tensor.to(self.device).flatten().view(torch.uint8)
        parts = [torch.empty_like(content) for _ in range(self.size)]
        with self.told():
            self.distributed.all_gather(parts, content)
        return (
            torch.stack(parts).view(tensor.dtype).view(self.size, *tensor.shape).to(tensor.device)
        )

    def sum(self, tensor):
        """Add up a tensor of each process in all of them, in its place."""
        with self.told():
            self.distributed.all_reduce(tensor)

    def meet(self):
        with self.told():
            self.distributed.barrier()

    def call(self, function, *args):
        self._send(dumps((function, args)))
        try:
            return function(self, *args)
        except Lost:
            cli.fail(
                f"another of the {self.size} processes of this run has ended, so all do; the same command with --resume "
                "goes on from the last finished epoch",
                1,
            )

    def follow(self):
        """In all processes but the first: do what the first calls, if it does."""
        try:
            content = self._send(None)
            if content is not None:
                function, args = loads(content, self.device)
                with quiet():
                    function(self, *args)
        except Lost:
            os._exit(1)  # the first process tells

    def close(self):
        if not self.called and self.rank == 0:
            with contextlib.suppress(Lost):
                self._send(None)  # the others wait for a call

    def _send(self, content):
        """Bytes, or None, of the first process in all of them."""
        self.called, box = True, [content]
        with self.told():
            self.distributed.broadcast_object_list(box, 0)
        return box[0]

    @contextlib.contextmanager
    def told(self):
        """What torch.distributed raises where a process has ended is Lost."""
        try:
            yield
        except RuntimeError as error:
            raise Lost from error


@contextlib.contextmanager
def quiet():
    """Nothing is printed: the first process says it."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def dumps(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def loads(content, device="cpu"):
    return torch.load(io.BytesIO(content), device, weights_only=False)
