"""Reading ahead: an iterable's next items are made in a thread while the last one is in use."""

import contextlib
import queue
import threading

import torch


def ahead(iterable, depth=2):
    """Iterate in a thread, up to `depth` items ahead of their use."""
    items, stopped, end = queue.Queue(depth), threading.Event(), object()

    def put(item):
        # The main thread has ended where somebody left the generator open; the program then waits for this thread.
        while not stopped.is_set() and threading.main_thread().is_alive():
            with contextlib.suppress(queue.Full):
                return items.put(item, timeout=0.1)
        stopped.set()

    def produce():
        if stopped.is_set():  # Ctrl-C came within start(), where nobody could know yet that this thread would run
            return
        torch.set_num_threads(1)  # of this thread: the cores are the network's
        try:
            for item in iterable:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:  # raised again where the item would have been used
            put((end, error))

    # No daemon: a thread inside PyTorch while the interpreter goes down would bring it down with an abort.
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
        if thread.is_alive():
            thread.join()
