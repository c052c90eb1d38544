"""Reading ahead: an iterable's next items are made in a thread while the last one is in use."""

import contextlib
import queue
import threading

import torch


def ahead(iterable, depth=2):
    """Iterate in a thread, up to `depth` items ahead of their use."""
    items, end = queue.Queue(depth), object()
    began, stopped, ended = threading.Event(), threading.Event(), threading.Event()

    def put(item):
        # The main thread has ended where somebody left the generator open; the program then waits
        # for this thread.
        while not stopped.is_set() and threading.main_thread().is_alive():
            with contextlib.suppress(queue.Full):
                return items.put(item, timeout=0.1)
        stopped.set()

    def produce():
        began.set()
        try:
            if (
                stopped.is_set()
            ):  # Ctrl-C came within start(), where nobody could know yet that this thread would run
                return
            torch.set_num_threads(1)  # of this thread: the cores are the network's
            for item in iterable:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:  # raised again where the item would have been used
            put((end, error))
        finally:
            ended.set()

    # No daemon: a thread inside PyTorch while the interpreter goes down would bring it down with an
    # abort.
    thread = threading.Thread(target=produce)
    try:
        thread.start()
        while True:
            item, error = items.get()
            if error:
                raise error
            if item is end:
                return
            yield item
    finally:
        stopped.set()
        # Not join(): a Ctrl-C within it can make Python (3.11: Thread._wait_for_tstate_lock) take a
        # running thread for ended, and no longer wait for it at exit. Cut off inside HDF5, it would
        # leave a lock behind that the exit then waits for, for ever.
        if began.is_set():
            try:
                ended.wait()
            except BaseException:
                ended.wait()
                raise
            thread.join()  # in which it has nothing left to do
