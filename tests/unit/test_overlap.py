"""Reading ahead and writing behind: order, bounds, errors, and no thread left over."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from dpe_model.overlap import Behind, ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dpe-")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


class Counting:
    """A generator that notes how far it got and whether it was closed."""

    def __init__(self, stop: int, fail_at: int | None = None) -> None:
        self.made, self.closed, self.thread = 0, False, None
        self.items = self._run(stop, fail_at)

    def _run(self, stop, fail_at):
        try:
            for i in range(stop):
                self.thread = threading.current_thread().name
                if i == fail_at:
                    raise OSError("broken")
                self.made = i + 1
                yield i
        finally:
            self.closed = True


def test_items_come_in_order_from_another_thread():
    counting = Counting(20)
    assert list(ahead(counting.items, 3)) == list(range(20))
    assert counting.thread.startswith("dpe-read")
    assert counting.closed


def test_no_more_is_read_than_asked():
    counting = Counting(100)
    items = ahead(counting.items, 3)
    assert next(items) == 0
    time.sleep(0.1)
    assert counting.made == 4
    items.close()
    assert counting.closed


def test_a_reader_s_error_comes_at_its_place():
    items = ahead(Counting(9, fail_at=2).items, 4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(OSError, match="broken"):
        next(items)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_calls_are_made_in_order(depth):
    done = []

    def work(i):
        time.sleep(0.002 * (i % 3))
        done.append((i, threading.current_thread().name.startswith("dpe-write")))

    with Behind(work, depth) as behind:
        for i in range(12):
            behind.add(i)
    assert done == [(i, depth > 0) for i in range(12)]


def test_the_caller_waits_where_too_much_is_to_be_done():
    gate, started = threading.Event(), []

    def work(i):
        started.append(i)
        gate.wait(5)

    added = []
    with Behind(work, 2) as behind:

        def add():
            for i in range(5):
                behind.add(i)
                added.append(i)

        feeder = threading.Thread(target=add)
        feeder.start()
        time.sleep(0.1)
        assert added == [0, 1]
        gate.set()
        feeder.join(5)
    assert started == list(range(5))


def test_after_a_failure_nothing_more_is_done():
    done = []

    def work(i):
        if i == 1:
            raise OSError("disk full")
        done.append(i)

    with pytest.raises(OSError, match="disk full"), Behind(work, 3) as behind:
        for i in range(50):
            behind.add(i)
    assert done == [0]


def test_a_failure_of_the_last_call_is_not_lost():
    def work():
        raise OSError("at the end")

    with pytest.raises(OSError, match="at the end"), Behind(work, 2) as behind:
        behind.add()


def test_an_interrupted_block_drops_what_waits():
    gate, done = threading.Event(), []

    def work(i):
        gate.wait(5)
        done.append(i)

    with pytest.raises(KeyboardInterrupt), Behind(work, 4) as behind:
        for i in range(4):
            behind.add(i)
        threading.Timer(0.05, gate.set).start()
        raise KeyboardInterrupt
    assert done == [0]


def test_threads_work_in_the_caller_s_inference_mode():
    seen = []

    def items():
        yield torch.is_inference_mode_enabled()

    with torch.inference_mode():
        seen += list(ahead(items(), 1))
        with Behind(lambda: seen.append(torch.is_inference_mode_enabled()), 1) as behind:
            behind.add()
    assert seen == [True, True]
