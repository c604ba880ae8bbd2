"""Long jobs in steps, each of which counts what it has done for whoever wants to watch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

# Opens a step: what is done, to how many things; gives what counts them.
Steps = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]
Item = TypeVar("Item")


@contextmanager
def unwatched(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Count nothing."""
    yield lambda count: None


def counted(items: Iterable[Item], what: str, total: int, steps: Steps) -> Iterator[Item]:
    """Yield items, each counted once whoever took it asks for the next."""
    with steps(what, total) as count:
        for item in items:
            yield item
            count(1)
