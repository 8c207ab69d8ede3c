"""Work done ahead of its use, in threads: reading and decoding overlap training."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made in a thread up to ``depth`` before they are asked for.

    Arrow and NumPy release the interpreter's lock while they decode, so a thread is enough and nothing is pickled. An
    error is raised where its item would have come. When the iterator is closed or dropped, the thread ends.

    Args:
        items: Made one after the other, in the thread.
        depth: Items that may wait; 0 makes each when it is asked for, without a thread.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.Queue[tuple[Item | object, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | object, error: BaseException | None = None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_END)
        except BaseException as error:  # whatever it is, it belongs to who asks for the item
            put(_END, error)

    thread = threading.Thread(target=work, name="torchrec-mtl-reader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item  # type: ignore[misc]  # only _END is no item
    finally:
        stopped.set()
        thread.join()


def in_order(work: Callable[[int], Result], numbers: Iterable[int], workers: int) -> Iterator[Result]:
    """``work(n)`` for each number, in order, by ``workers`` threads that are at most ``workers`` results ahead.

    So never more than ``workers`` calls run, and call ``i`` has ended before call ``i + workers`` begins. With 0
    workers each is done when it is asked for.
    """
    if workers == 0:
        yield from map(work, numbers)
        return
    with ThreadPoolExecutor(workers, "torchrec-mtl-worker") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for number in numbers:
                first = waiting.popleft().result() if len(waiting) == workers else None
                waiting.append(pool.submit(work, number))  # before its predecessor is used: that is the overlap
                if first is not None:
                    yield first
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
