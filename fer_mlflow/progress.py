"""Progress of long work: who does the work counts, who called it decides how that is shown.

A workflow takes a `Progress`: called with a description, the total and how much is done already, it opens a report and
gives the function that counts. `show_progress` draws bars on stderr, `no_progress` shows nothing.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm

QUIET_INTERVAL_S = 30.0
Item = TypeVar("Item")


class Progress(Protocol):
    """Opens a report: what is done, how many things there are, and how many of them were done before."""

    def __call__(
        self, description: str, total: int, done: int = 0
    ) -> AbstractContextManager[Callable[[int], object]]: ...


@contextmanager
def no_progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Show nothing."""
    yield lambda count: None


@contextmanager
def show_progress(description: str, total: int, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Show a bar on a terminal once the work takes a second, and a line every half minute elsewhere.

    What was done before is part of the total, and not of the speed.
    """
    stream, began = sys.stderr, time.monotonic()
    if stream.isatty():
        with tqdm(
            total=total, initial=done, desc=description, file=stream, dynamic_ncols=True, delay=1.0, leave=False
        ) as bar:
            yield bar.update
        return
    count, printed = 0, began

    def update(number: int) -> None:
        nonlocal count, printed
        count += number
        now = time.monotonic()
        if now - printed >= QUIET_INTERVAL_S and count:
            printed = now
            speed = count / (now - began)
            left = tqdm.format_interval((total - done - count) / speed)
            line = f"{description}: {done + count:,} of {total:,}, {speed:.1f}/s, {left} left"
            print(line, file=stream, flush=True)

    yield update


def track(items: Iterable[Item], description: str, total: int, progress: Progress) -> Iterator[Item]:
    """Yield items, each counted once the next one is requested."""
    with progress(description, total) as count:
        for item in items:
            yield item
            count(1)
