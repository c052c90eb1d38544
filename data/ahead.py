"""Reading ahead: an iterable's next items are made in a thread while the last one is in use."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait

import torch


def ahead(iterable, depth=2):
    """Iterate in a thread, up to `depth` items ahead of their use."""
    iterator, end, pending = iter(iterable), object(), deque()
    # One thread for all that it computes: the cores are the network's.
    pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for _ in range(depth):
            pending.append(pool.submit(next, iterator, end))
        while (item := pending[0].result()) is not end:
            pending.popleft()
            pending.append(pool.submit(next, iterator, end))
            yield item
    finally:
        # What has begun is waited for, also where a signal comes meanwhile: a thread that is within
        # HDF5 when the program ends would leave a lock behind that the exit waits for, for ever.
        # Not by join(), after which Python 3.11 may take a running thread for ended.
        pool.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in pending if not future.cancelled()]
        try:
            wait(begun)
        except BaseException:
            wait(begun)
            raise
        pool.shutdown()
