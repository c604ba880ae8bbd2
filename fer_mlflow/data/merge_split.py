"""New rows from manifests: several merged, each image once; and one split, stratified by label and source."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import Benchmark, read_benchmark, read_labels, rebase_paths
from fer_mlflow.data.scan import scan_images
from fer_mlflow.errors import ContractError, ImageError, ManifestError, listed
from fer_mlflow.progress import Progress, no_progress

_TRAINED_ON = ("train", "training")


@dataclass(frozen=True)
class ManifestInput:
    """A manifest as it is named on the command line, or one of those to be merged."""

    path: Path
    split: str | None = None  # take only these rows; None means all
    root: str | None = None  # folder of its paths; None means its own
    source: str | None = None  # for its column `source`; None keeps what is there, and the file's name fills gaps

    @property
    def name(self) -> str:
        """The input as it is typed."""
        return f"{self.path}:{self.split}" if self.split else str(self.path)


@dataclass(frozen=True)
class Merged:
    """The rows of a merged manifest, and what was left out."""

    frame: pd.DataFrame  # str columns path (from the root), label, split, source, then extra ones
    rows: dict[str, int]  # input -> rows that it had
    duplicates: pd.DataFrame  # str columns kept and dropped, and of both `_split` and `_input`: the same image again
    lacking: dict[str, tuple[str, ...]]  # input -> classes that others have rows of and it has not

    @property
    def leaked(self) -> pd.DataFrame:
        """The duplicates whose two splits differ."""
        kept, dropped = self.duplicates["kept_split"], self.duplicates["dropped_split"]
        return self.duplicates[(kept != dropped) & (kept != "") & (dropped != "")]


def parse_input(text: str, root: str | None = None, source: str | None = None) -> ManifestInput:
    """Return the input that `A.csv` or `A.csv:split` names; a file of the whole name comes first."""
    path, _, split = text.rpartition(":")
    if split and path and not Path(text).exists():
        return ManifestInput(Path(path), split, root, source)
    return ManifestInput(Path(text), None, root, source)


def merge(
    inputs: Sequence[ManifestInput],
    root: str | Path,
    classes: ClassOrder | None = None,
    *,
    progress: Progress = no_progress,
) -> Merged:
    """Return the rows of all inputs, in their order, with each image once.

    Of an image that is there twice (by the bytes of its file), the row that is not in a training split is kept, so
    that a test set stays whole and none of its images is trained on; else the first. Merged paths start from `root`.
    Classes of None are the usual seven, and then all inputs must be of them.

    Raises ContractError: there is one input alone. ManifestError: an input cannot be read, inputs have different
    classes, lie outside of the root, or give one image two labels. ImageError: an image cannot be read.
    """
    if len(inputs) < 2:
        raise ContractError("merge needs two or more manifests; `manifest split` and `check` take one")
    if classes is None:
        _check_classes(inputs)
    benchmarks = [read_benchmark(each.path, classes or FER7, root=each.root, split=each.split) for each in inputs]
    frames = []
    for each, benchmark in zip(inputs, benchmarks, strict=True):
        paths, own = rebase_paths(root, benchmark.root, benchmark.paths), benchmark.frame["source"]
        frames.append(benchmark.frame.assign(path=paths, source=each.source or own.where(own != "", each.path.stem)))
    rows = {each.name: len(frame) for each, frame in zip(inputs, frames, strict=True)}
    origin = np.repeat([each.name for each in inputs], [len(frame) for frame in frames])
    hashes = np.concatenate([_hash_images(benchmark, progress) for benchmark in benchmarks])
    kept, duplicates = _drop_duplicates(pd.concat(frames, ignore_index=True).fillna(""), hashes, origin)
    labels = {each.name: set(frame["label"]) - {""} for each, frame in zip(inputs, frames, strict=True)}
    everything = set().union(*labels.values())
    lacking = {name: tuple(sorted(everything - own)) for name, own in labels.items() if own and everything - own}
    return Merged(kept, rows, duplicates, lacking)


def _check_classes(inputs: Sequence[ManifestInput]) -> None:
    """Refuse inputs some of which have labels outside the usual seven classes, which others then lack."""
    labels = {each.name: read_labels(each.path, each.split) for each in inputs}
    unknown = {
        name: sorted(each for each in own if each and FER7.index_of(each) is None) for name, own in labels.items()
    }
    odd, plain = [name for name in labels if unknown[name]], [name for name in labels if not unknown[name]]
    if odd and plain:
        raise ManifestError(
            f"{odd[0]} has rows labelled {listed(unknown[odd[0]])}, which {plain[0]} has no class for: the class sets "
            "differ; build both with the same --classes, or give the merged set's classes with --classes"
        )


def _hash_images(benchmark: Benchmark, progress: Progress) -> np.ndarray:
    """Return the SHA-256 of every row's image, (N,) bytes objects."""
    scan = scan_images(benchmark.root, benchmark.paths.tolist(), decode=False, progress=progress)
    for row, problem in scan.problems.items():
        raise ImageError(
            f"{benchmark.manifest_path}: {len(scan.problems):,} images cannot be read, first "
            f"{benchmark.root}/{benchmark.paths.iloc[row]}: {problem}"
        )
    return scan.sha256


def _drop_duplicates(frame: pd.DataFrame, hashes: np.ndarray, origin: np.ndarray) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with each image once, and a table of those left out; refuse an image with two labels."""
    image = pd.Series(pd.factorize(hashes)[0])
    is_labelled = frame["label"] != ""
    _check_labels(frame[is_labelled], image[is_labelled], origin)
    rank = frame["split"].str.casefold().isin(_TRAINED_ON).astype(int) + 2 * (~is_labelled).astype(int)
    best = rank.groupby(image).idxmin()  # image -> the row that is kept
    kept = best.loc[image].to_numpy()
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
    is_wrong = labelled["label"].groupby(image).transform("nunique") > 1
    if not is_wrong.any():
        return
    rows = labelled.assign(origin=origin[labelled.index])[is_wrong]
    named = '"' + rows["label"] + '" for ' + rows["path"] + " (" + rows["origin"] + ")"
    texts = named.groupby(image, sort=False).agg(" and ".join).tolist()
    raise ManifestError(
        f"{len(texts):,} images have two labels: {listed(texts, '; ')}; correct or remove one of the rows"
    )


def split_rows(frame: pd.DataFrame, shares: Mapping[str, float], seed: int, group: str | None = None) -> np.ndarray:
    """Return the split of each row, (N,) str objects.

    Within each label of each source, rows come in an order that hashes of seed and path give; a split gets its
    share of them, and what rounding leaves over is corrected in the next stratum. The order of the rows and the
    global random state do not matter. With groups, the largest go first, each to where it brings the counts of its
    strata closest to the shares.

    The N rows have str columns path, label and source; shares sum to 1. Equal values of the column `group` stay in one
    split; rows with an empty value are groups of their own.
    """
    strata = frame.groupby(["label", "source"], sort=True).ngroup().to_numpy()
    names, parts = np.array(list(shares), object), np.array(list(shares.values()))
    if group is None:
        return names[_split_alone(frame["path"], strata, parts, seed)]
    if group not in frame:
        raise ManifestError(f"no column {group} for --group; there are {', '.join(frame.columns)}")
    own = frame[group].str.strip()
    keys = own.where(own != "", "\0" + frame["path"])  # no value holds a NUL
    codes, distinct = pd.factorize(keys)
    if len(distinct) < len(shares):
        raise ManifestError(f"column {group} has {len(distinct)} values, too few for {len(shares)} splits")
    return names[_split_groups(codes, distinct, strata, parts, seed)]


def _draw_lots(seed: int, texts: Sequence[str] | pd.Series | pd.Index) -> np.ndarray:
    """Return what rows or groups are ordered by, (N,) bytes."""
    return np.array([hashlib.blake2b(f"{seed}\0{text}".encode(), digest_size=8).digest() for text in texts], dtype="S8")


def _split_alone(paths: pd.Series, strata: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return each row's split by number, (N,) int64."""
    order = np.lexsort((_draw_lots(seed, paths), strata))
    chosen = np.empty(len(paths), np.int64)
    owed = np.zeros(len(shares))  # rows that each split should have had so far and has not
    bounds = np.flatnonzero(np.r_[True, np.diff(strata[order]) != 0, True])
    for start, stop in pairwise(bounds):
        owed += shares * (stop - start)
        counts = np.maximum(np.floor(owed), 0).astype(np.int64)
        while counts.sum() > stop - start:  # what earlier strata left over may be more than there is
            counts[np.argmax(counts / shares)] -= 1
        for _ in range(stop - start - counts.sum()):
            counts[np.argmax(owed - counts)] += 1
        owed -= counts
        chosen[order[start:stop]] = np.repeat(np.arange(len(shares)), counts)
    return chosen


def _split_groups(codes: np.ndarray, names: pd.Index, strata: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    """Return each row's split by number, (N,) int64; rows of one code in one split."""
    sizes = np.bincount(codes, minlength=len(names))
    by_group = np.split(strata[np.argsort(codes, kind="stable")], np.cumsum(sizes)[:-1])
    wanted = np.outer(shares, np.bincount(strata)).astype(float)
    have = np.zeros_like(wanted)
    chosen = np.empty(len(names), np.int64)
    for group in np.lexsort((_draw_lots(seed, names), -sizes)):
        own, counts = np.unique(by_group[group], return_counts=True)
        # what the sum of squared deviations, each relative to its target, grows by when the group goes to a split
        cost = ((2 * (have[:, own] - wanted[:, own]) + counts) * counts / np.maximum(wanted[:, own], 1e-9)).sum(axis=1)
        best = int(np.argmin(cost))
        chosen[group] = best
        have[best, own] += counts
    for split in range(len(shares)):
        if not (chosen == split).any():  # it takes the smallest group of a split that has several
            chosen[next(g for g in np.argsort(sizes, kind="stable") if (chosen == chosen[g]).sum() > 1)] = split
    return chosen[codes]
