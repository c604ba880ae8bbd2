"""The merge of several manifests: paths kept valid, each image once, leakage between splits reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import Benchmark, read_benchmark, read_labels
from fer_mlflow.data.paths import rebase_paths
from fer_mlflow.data.scan import scan_images
from fer_mlflow.errors import ContractError, ImageError, ManifestError
from fer_mlflow.progress import Progress, no_progress

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
    duplicates : str columns kept, dropped, kept_split, dropped_split, kept_input, dropped_input: the same image again
    lacking : input -> classes that others have rows of and it has not
    """

    frame: pd.DataFrame
    rows: dict[str, int]
    duplicates: pd.DataFrame
    lacking: dict[str, tuple[str, ...]]

    @property
    def leaked(self) -> pd.DataFrame:
        """The duplicates whose two splits differ."""
        kept, dropped = self.duplicates["kept_split"], self.duplicates["dropped_split"]
        return self.duplicates[(kept != dropped) & (kept != "") & (dropped != "")]


def parse_input(text: str, root: Path | None = None, source: str | None = None) -> Input:
    """Return the input that `A.csv` or `A.csv:split` names; a file of the whole name comes first."""
    path, _, split = text.rpartition(":")
    if split and path and not Path(text).exists():
        return Input(Path(path), split, root, source)
    return Input(Path(text), None, root, source)


def merge(
    inputs: Sequence[Input], root: str | Path, classes: ClassOrder | None = None, *, progress: Progress = no_progress
) -> Merged:
    """Return the rows of all inputs, in their order, with each image once.

    Of an image that is there twice (by the bytes of its file), the row that is not in a training split is kept, so
    that a test set stays whole and none of its images is trained on; else the first.

    Parameters
    ----------
    root : folder that the merged paths start from
    classes : None means the usual seven, and that all inputs must be of them

    Raises
    ------
    ContractError
        there is one input alone
    ManifestError
        an input cannot be read, inputs have different classes, lie outside of the root, or give one image two labels
    ImageError
        an image cannot be read
    """
    if len(inputs) < 2:
        raise ContractError("merge needs two or more manifests; `manifest split` and `check` take one")
    if classes is None:
        _check_classes(inputs)
    benchmarks = [read_benchmark(each.path, classes or FER7, root=each.root, split=each.split) for each in inputs]
    frames = []
    for each, benchmark in zip(inputs, benchmarks, strict=True):
        frame = benchmark.frame.copy()
        frame["path"] = rebase_paths(root, benchmark.root, frame["path"])
        frame["source"] = each.source or frame["source"].where(frame["source"] != "", each.path.stem)
        frames.append(frame)
    together = pd.concat(frames, ignore_index=True).fillna("")
    origin = np.repeat([each.name for each in inputs], [len(frame) for frame in frames])
    hashes = np.concatenate([_hash_images(benchmark, progress) for benchmark in benchmarks])
    kept, duplicates = _drop_duplicates(together, hashes, origin)
    labels = {each.name: set(frame["label"]) - {""} for each, frame in zip(inputs, frames, strict=True)}
    everything = set().union(*labels.values())
    lacking = {name: tuple(sorted(everything - own)) for name, own in labels.items() if own and everything - own}
    return Merged(
        kept, {each.name: len(frame) for each, frame in zip(inputs, frames, strict=True)}, duplicates, lacking
    )


def _check_classes(inputs: Sequence[Input]) -> None:
    """Refuse inputs some of which have labels outside the usual seven classes, which others then lack."""
    odd = {}
    for each in inputs:
        labels = read_labels(each.path, each.split)
        unknown = sorted(label for label in labels if label and FER7.index_of(label) is None)
        if unknown:
            odd[each.name] = unknown
    plain = [each.name for each in inputs if each.name not in odd]
    if odd and plain:
        name, labels = next(iter(odd.items()))
        raise ManifestError(
            f"{name} has rows labelled {', '.join(labels[:_SHOWN])}, which {plain[0]} has no class for: the class sets "
            "differ; build both with the same --classes, or give the merged set's classes with --classes"
        )


def _hash_images(benchmark: Benchmark, progress: Progress) -> np.ndarray:
    """Return the SHA-256 of every row's image, (N,) bytes objects."""
    scan = scan_images(benchmark.root, benchmark.paths.tolist(), decode=False, progress=progress)
    for row, problem in scan.problems.items():
        raise ImageError(
            f"{benchmark.manifest_path}: {len(scan.problems):,} images cannot be read, first "
            f"{benchmark.root / benchmark.paths.iloc[row]}: {problem}"
        )
    return scan.sha256


def _drop_duplicates(frame: pd.DataFrame, hashes: np.ndarray, origin: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with each image once, and a table of those left out; refuse an image with two labels."""
    image = pd.Series(pd.factorize(hashes)[0])
    is_labelled = frame["label"] != ""
    _check_labels(frame[is_labelled], image[is_labelled], origin)
    rank = frame["split"].str.casefold().isin(_TRAINED_ON).astype(int) + 2 * (~is_labelled).astype(int)
    best = pd.DataFrame({"image": image, "rank": rank}).sort_values(["image", "rank"], kind="stable")
    best = best.drop_duplicates("image")
    keeper = pd.Series(best.index, index=best["image"])  # image -> the row that is kept
    kept = keeper.loc[image].to_numpy()
    is_dropped = kept != np.arange(len(frame))
    columns = {"": frame["path"].to_numpy(), "_split": frame["split"].to_numpy(), "_input": origin}
    duplicates = {
        f"{name}{suffix}": values[rows]
        for suffix, values in columns.items()
        for name, rows in (("kept", kept[is_dropped]), ("dropped", is_dropped))
    }
    return frame[~is_dropped].reset_index(drop=True), pd.DataFrame(duplicates, dtype=str)


def _check_labels(labelled: pd.DataFrame, image: pd.Series, origin: np.ndarray) -> None:
    """Refuse images that two rows label differently, naming the first ten."""
    distinct = labelled["label"].groupby(image).nunique()
    wrong = distinct.index[distinct > 1]
    if not len(wrong):
        return
    shown = []
    for number in wrong[:_SHOWN]:
        rows = labelled[image == number]
        each = zip(rows["label"], rows["path"], origin[rows.index], strict=True)
        shown.append(" and ".join(f'"{label}" for {path} ({name})' for label, path, name in each))
    more = f" and {len(wrong) - _SHOWN:,} more" if len(wrong) > _SHOWN else ""
    raise ManifestError(
        f"{len(wrong):,} images have two labels: {'; '.join(shown)}{more}; correct or remove one of the rows"
    )
