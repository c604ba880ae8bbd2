"""How far a long job is, on stderr: a bar on a terminal, a line every half minute elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

QUIET_INTERVAL_S = 30.0


class Progress:
    """Rows done, rows per second, time left. Counts rows kept from an earlier run as done, not as speed."""

    def __init__(self, stream=None):
        self.stream = stream or sys.stderr
        self.is_terminal = self.stream.isatty()
        self.bar: tqdm | None = None

    def start(self, total: int, done: int, teachers: list[str]) -> None:
        """Begin: `done` of `total` rows are there already."""
        self.total, self.done, self.kept = total, done, done
        self.began = self.said = time.monotonic()
        what = f"asking {', '.join(teachers)}"
        if self.is_terminal:
            self.bar = tqdm(total=total, initial=done, desc=what, unit=" rows", file=self.stream, dynamic_ncols=True)
        else:
            kept = f", {done:,} kept from an earlier run" if done else ""
            self._say(f"{what}: {total:,} rows{kept}")

    def advance(self, rows: int) -> None:
        """Count rows."""
        self.done += rows
        if self.bar is not None:
            self.bar.update(rows)
        elif time.monotonic() - self.said >= QUIET_INTERVAL_S:
            self.said = time.monotonic()
            speed = (self.done - self.kept) / (self.said - self.began)
            left = tqdm.format_interval((self.total - self.done) / speed)
            self._say(f"{self.done:,} of {self.total:,} rows, {speed:.1f} rows/s, {left} left")

    def close(self) -> None:
        """End, whether all rows are done or not."""
        if self.bar is not None:
            self.bar.close()

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


@contextmanager
def watched(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show how far a step is: a bar on a terminal once it takes a second, a line every half minute elsewhere."""
    stream, began = sys.stderr, time.monotonic()
    if stream.isatty():
        with tqdm(total=total, desc=what, file=stream, dynamic_ncols=True, delay=1.0, leave=False) as bar:
            yield bar.update
        return
    done, said = 0, began

    def count(number: int) -> None:
        nonlocal done, said
        done += number
        now = time.monotonic()
        if now - said >= QUIET_INTERVAL_S:
            said = now
            left = tqdm.format_interval((total - done) * (now - began) / max(done, 1))
            print(f"{what}: {done:,} of {total:,}, {left} left", file=stream, flush=True)

    yield count
