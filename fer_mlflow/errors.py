"""The exceptions that a user may see; the command line turns each into one line and an exit status."""

from collections.abc import Collection

SHOWN = 10  # rows, names or files that a message lists


def listed(texts: Collection[str], separator: str = ", ") -> str:
    """Return the first ten texts, and how many more there are.

    >>> listed(["a"] * 12, "")
    'aaaaaaaaaa and 2 more'
    """
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return separator.join(list(texts)[:SHOWN]) + more


class FerError(Exception):
    """Something a user can mend: bad input, found before work starts. Exit status 2."""

    exit_status = 2


class ContractError(FerError, ValueError):
    """Arrays that do not fit together: shapes, ranges, values that are not finite."""


class ManifestError(FerError):
    """A manifest, a class file or a path in them that cannot be used."""


class ImageError(FerError):
    """A file that is not an image that can be decoded."""


class TeacherError(FerError):
    """A teacher description or a checkpoint that cannot be used."""


class BundleError(FerError):
    """A soft-label bundle that does not verify."""


class RunError(FerError):
    """A run that is unknown, was deleted, or lacks what is needed of it."""


class JobError(FerError):
    """A job that was sound and failed all the same. Exit status 1."""

    exit_status = 1


class TrackingError(JobError):
    """The tracking server refused, or went away."""


class Interrupted(BaseException):
    """A signal stopped the command. Exit status 128 + its number, as shells have it."""

    def __init__(self, signum: int, name: str):
        super().__init__(f"stopped by {name}")
        self.exit_status = 128 + signum
