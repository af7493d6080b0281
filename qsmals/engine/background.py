"""Threads that a signal can leave behind."""

import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from qsmals.engine.signals import check_interrupted

LOOK_S = 1.0

Given = TypeVar("Given")
Made = TypeVar("Made")


def map_in_threads(function: Callable[[Given], Made], items: Sequence[Given], n_threads: int) -> list[Made]:
    """``[function(item) for item in items]``, several at a time; what ``function`` raises ends it.

    Whatever ends it, what has begun goes on, and the interpreter does not wait for it at its end, as it would for the
    threads of an executor.
    """
    todo: SimpleQueue[tuple[int, Given]] = SimpleQueue()
    done: SimpleQueue[tuple[int, Made | BaseException]] = SimpleQueue()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            try:
                place, item = todo.get_nowait()
            except Empty:
                return
            try:
                done.put((place, function(item)))
            except BaseException as error:
                done.put((place, error))

    for numbered in enumerate(items):
        todo.put(numbered)
    made: dict[int, Made] = {}
    try:
        for _ in range(min(n_threads, len(items))):
            threading.Thread(target=work, daemon=True).start()
        while len(made) < len(items):
            check_interrupted()
            try:
                place, result = done.get(timeout=LOOK_S)
            except Empty:
                continue
            if isinstance(result, BaseException):
                raise result
            made[place] = result
    finally:
        over.set()
    return [made[place] for place in range(len(items))]
