"""Several manifests as one: paths kept valid, each image once, leakage between splits reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.examining import examine_images
from fer_mlflow.data.manifest import Benchmark, read_benchmark, read_labels
from fer_mlflow.data.steps import Steps, unwatched
from fer_mlflow.data.writing import paths_from
from fer_mlflow.errors import ContractError, ImageError, ManifestError

_SHOWN = 10
_TRAINED_ON = ("train", "training")


@dataclass(frozen=True)
class Input:
    """One of the manifests to be merged.

    Attributes
    ----------
    split : take only these rows; None means all
    root : folder of its paths; None means its own
    source : text for its column `source`; None keeps what is there and fills gaps with the file's name
    """

    path: Path
    split: str | None = None
    root: Path | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        """The input as it is typed."""
        return f"{self.path}:{self.split}" if self.split else str(self.path)


@dataclass(frozen=True)
class Merged:
    """The rows of a merged manifest, and what was left out.

    Attributes
    ----------
    frame : str columns path (from the root), label, split, source, then extra ones
    rows : input -> rows that it had
    repeated : str columns kept, dropped, kept_split, dropped_split, kept_input, dropped_input: the same image again
    lacking : input -> classes that others have rows of and it has not
    """

    frame: pd.DataFrame
    rows: dict[str, int]
    repeated: pd.DataFrame
    lacking: dict[str, tuple[str, ...]]

    @property
    def leaked(self) -> pd.DataFrame:
        """The repeated images whose two splits differ."""
        kept, dropped = self.repeated["kept_split"], self.repeated["dropped_split"]
        return self.repeated[(kept != dropped) & (kept != "") & (dropped != "")]


def parse_input(text: str, root: Path | None = None, source: str | None = None) -> Input:
    """Return the input that `A.csv` or `A.csv:split` names; a file of the whole name comes first."""
    path, _, split = text.rpartition(":")
    if split and path and not Path(text).exists():
        return Input(Path(path), split, root, source)
    return Input(Path(text), None, root, source)


def merge(
    inputs: Sequence[Input], root: str | Path, classes: ClassOrder | None = None, *, steps: Steps = unwatched
) -> Merged:
    """Return the rows of all inputs, in their order, with each image once.

    Of an image that is there twice (by the bytes of its file), the row that is not in a training split is kept, so
    that a test set stays whole and nothing that it asks about is trained on; else the first.

    Parameters
    ----------
    root : folder that the merged paths start from
    classes : None means the usual seven, and that all inputs must be of them

    Raises
    ------
    ManifestError
        an input cannot be read, inputs have different classes, lie outside of the root, or give one image two labels
    ImageError
        an image cannot be read
    """
    if classes is None:
        _check_classes(inputs)
    benchmarks = [read_benchmark(each.path, classes or FER7, root=each.root, split=each.split) for each in inputs]
    frames = []
    for each, benchmark in zip(inputs, benchmarks, strict=True):
        frame = benchmark.frame.copy()
        frame["path"] = paths_from(root, benchmark.root, frame["path"])
        frame["source"] = each.source or frame["source"].where(frame["source"] != "", each.path.stem)
        frames.append(frame)
    together = pd.concat(frames, ignore_index=True).fillna("")
    origin = np.repeat([each.name for each in inputs], [len(frame) for frame in frames])
    hashes = _hash_all(benchmarks, steps)
    kept, repeated = _without_repeated(together, hashes, origin)
    return Merged(
        kept,
        {each.name: len(frame) for each, frame in zip(inputs, frames, strict=True)},
        repeated,
        _lacking_classes(inputs, frames),
    )


def _check_classes(inputs: Sequence[Input]) -> None:
    """Refuse inputs some of which have labels outside the usual seven classes, which others then lack."""
    odd = {}
    for each in inputs:
        labels = read_labels(each.path, each.split)
        found = sorted(label for label in labels if label and FER7.index_of(label) is None)
        if found:
            odd[each.name] = found
    plain = [each.name for each in inputs if each.name not in odd]
    if odd and plain:
        name, labels = next(iter(odd.items()))
        raise ManifestError(
            f"{name} has rows labelled {', '.join(labels[:_SHOWN])}, which {plain[0]} has no class for: the class sets "
            "differ; build both with the same --classes, or give the merged set's classes with --classes"
        )


def _hash_all(benchmarks: Sequence[Benchmark], steps: Steps) -> np.ndarray:
    """Return the SHA-256 of every row's image, (N,) bytes objects."""
    parts = []
    for benchmark in benchmarks:
        examined = examine_images(benchmark.root, benchmark.paths.tolist(), decode=False, steps=steps)
        if examined.problems:
            row, problem = next(iter(examined.problems.items()))
            raise ImageError(
                f"{benchmark.manifest_path}: {len(examined.problems):,} images cannot be read, first "
                f"{benchmark.root / benchmark.paths.iloc[row]}: {problem}"
            )
        parts.append(examined.sha256)
    return np.concatenate(parts)


def _without_repeated(frame: pd.DataFrame, hashes: np.ndarray, origin: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with each image once, and a table of those left out; refuse an image with two labels."""
    image = pd.Series(pd.factorize(hashes)[0])
    labelled = frame["label"] != ""
    _check_labels(frame, image, labelled, origin)
    rank = frame["split"].str.casefold().isin(_TRAINED_ON).astype(int) + 2 * (~labelled).astype(int)
    best = pd.DataFrame({"image": image, "rank": rank}).sort_values(["image", "rank"], kind="stable")
    first = best.drop_duplicates("image").set_index("image").index
    keeper = pd.Series(best.drop_duplicates("image").index, index=first)  # image -> the row that is kept
    kept_row = keeper.loc[image].to_numpy()
    is_dropped = kept_row != np.arange(len(frame))
    kept, dropped = kept_row[is_dropped], np.flatnonzero(is_dropped)
    repeated = pd.DataFrame(
        {
            "kept": frame["path"].to_numpy()[kept],
            "dropped": frame["path"].to_numpy()[dropped],
            "kept_split": frame["split"].to_numpy()[kept],
            "dropped_split": frame["split"].to_numpy()[dropped],
            "kept_input": origin[kept],
            "dropped_input": origin[dropped],
        },
        dtype=str,
    )
    return frame[~is_dropped].reset_index(drop=True), repeated


def _check_labels(frame: pd.DataFrame, image: pd.Series, labelled: pd.Series, origin: np.ndarray) -> None:
    """Refuse images that two rows label differently, naming the first ten."""
    distinct = frame["label"][labelled].groupby(image[labelled]).nunique()
    torn = distinct.index[distinct > 1]
    if not len(torn):
        return
    shown = []
    for number in torn[:_SHOWN]:
        rows = np.flatnonzero((image == number) & labelled)
        each = zip(frame["label"].iloc[rows], frame["path"].iloc[rows], origin[rows], strict=True)
        shown.append(" and ".join(f'"{label}" for {path} ({name})' for label, path, name in each))
    more = f" and {len(torn) - _SHOWN:,} more" if len(torn) > _SHOWN else ""
    raise ManifestError(
        f"{len(torn):,} images have two labels: {'; '.join(shown)}{more}; mend or remove one of the rows"
    )


def _lacking_classes(inputs: Sequence[Input], frames: Sequence[pd.DataFrame]) -> dict[str, tuple[str, ...]]:
    """Return the classes that an input has no row of though another has: a sign of two class sets."""
    own = [set(frame["label"]) - {""} for frame in frames]
    everything = set().union(*own)
    return {
        each.name: tuple(sorted(everything - labels))
        for each, labels in zip(inputs, own, strict=True)
        if labels and everything - labels
    }


def check_inputs(inputs: Sequence[Input]) -> None:
    """Refuse one input alone, which there is nothing to merge with."""
    if len(inputs) < 2:
        raise ContractError("merge needs two or more manifests; `manifest split` and `check` take one")
