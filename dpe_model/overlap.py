"""Overlapping work with threads: read ahead of whoever takes, work behind whoever gives; bounded, in order.

What is worked on releases the interpreter (decoders, encoders, big array operations), so threads are enough. Every
wait is for one piece of work at most, so an interruption is obeyed after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

import torch

T = TypeVar("T")

_END = object()


def ahead(items: Generator[T, None, None], depth: int) -> Generator[T, None, None]:
    """The items of a generator, which runs in a thread, at most `depth` items ahead.

    Its exceptions come out here, at their place. Closing this generator closes the other.
    """
    mode = torch.is_inference_mode_enabled()
    pool = ThreadPoolExecutor(1, "dpe-read")

    def following() -> Any:
        with torch.inference_mode(mode):  # a thread does not inherit it
            return next(items, _END)

    pending: deque[Future[Any]] = deque()
    try:
        pending.extend(pool.submit(following) for _ in range(depth))
        while (item := pending.popleft().result()) is not _END:
            pending.append(pool.submit(following))
            yield item
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True)
        items.close()


class Behind:
    """Calls a function in a thread, in the order given, while the caller goes on; at most `depth` calls wait.

    Use as a context manager: leaving the block waits for all calls. What a call raises comes out of the next `add`, or
    of leaving the block, and no later call is made. A block left by an exception drops the calls that wait.

    Args:
        work: the function.
        depth: how many calls may wait, the one being made included; 0 makes each call at once, without a thread.
    """

    def __init__(self, work: Callable[..., object], depth: int) -> None:
        self._work, self._depth = work, depth
        self._mode = torch.is_inference_mode_enabled()
        self._failed = False
        self._pending: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, "dpe-write") if depth else None

    def add(self, *arguments: object) -> None:
        """One more call, with these arguments; waits while too many are to be made."""
        if self._pool is None:
            self._work(*arguments)
            return
        while len(self._pending) >= self._depth or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._call, arguments))

    def _call(self, arguments: tuple[object, ...]) -> None:
        if self._failed:
            return
        self._failed = True
        with torch.inference_mode(self._mode):
            self._work(*arguments)
        self._failed = False

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._pending:
                self._pending.popleft().result()
        finally:
            for future in self._pending:
                future.cancel()
            if self._pool is not None:
                self._pool.shutdown(wait=True)
