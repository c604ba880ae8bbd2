"""What a benchmark holds: every figure beside its limit, and an exit status that says whether all were kept."""

import sys

_missed: list[str] = []


def verdict(measured: float, limit: float, *, at_least: bool = False) -> str:
    """Return the limit and whether it was kept, as a line ends with it."""
    wanted = f"{'>=' if at_least else '<='} {limit:g}"
    return f"{wanted}  {judged(measured >= limit if at_least else measured <= limit, f'{measured:g} is not {wanted}')}"


def judged(holds: bool, otherwise: str) -> str:
    """Return `ok`, or MISSED, which `finish` remembers."""
    if not holds:
        _missed.append(otherwise)
    return "ok" if holds else "MISSED"


def finish() -> None:
    """End the process, with status 1 where something was missed."""
    if _missed:
        sys.exit(f"missed: {'; '.join(_missed)}")
