"""Several manifests: their merge (each image once, leakage between splits reported), and the relation of two."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import HEADERS, Benchmark, read_benchmark, read_labels
from fer_mlflow.data.paths import rebase_paths
from fer_mlflow.data.scan import scan_images
from fer_mlflow.errors import ContractError, ImageError, ManifestError, listed
from fer_mlflow.progress import Progress, no_progress

SAME, PERMUTED, SUBSET, SUPERSET, DIFFERENT = "same", "permuted", "subset", "superset", "different"
_EXAMPLES = 5
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
            f"{name} has rows labelled {listed(labels)}, which {plain[0]} has no class for: the class sets "
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
    where = labelled.assign(origin=origin[labelled.index])[image.isin(wrong)].groupby(image, sort=False)
    texts = [
        " and ".join(f'"{label}" for {path} ({name})' for label, path, name in zip(*rows, strict=True))
        for rows in ((each["label"], each["path"], each["origin"]) for _, each in where)
    ]
    raise ManifestError(
        f"{len(wrong):,} images have two labels: {listed(texts, '; ')}; correct or remove one of the rows"
    )


@dataclass(frozen=True)
class Relation:
    """How a manifest stands to another one.

    Attributes
    ----------
    verdict : by rows of path, label, split and source: same benchmark, the same rows permuted, a subset, a
        superset, or different
    only_here, only_there : rows that the other has not
    changed : column -> rows with the same path and another value
    examples : where they differ
    images_here, images_there, shared_images : different images by content; None where they were not hashed
    shared : index split here, columns split there; images by content that both have
    other_labels : shared images whose labels differ
    other_label_examples : the first of them
    """

    verdict: str
    only_here: int
    only_there: int
    changed: dict[str, int]
    examples: tuple[str, ...]
    images_here: int | None = None
    images_there: int | None = None
    shared_images: int | None = None
    shared: pd.DataFrame | None = None
    other_labels: int = 0
    other_label_examples: tuple[str, ...] = ()


def relate(
    here: Benchmark, there: Benchmark, hashes_here: np.ndarray | None, hashes_there: np.ndarray | None
) -> Relation:
    """Compare two benchmarks by their rows, and by the content of their images where both were hashed.

    Parameters
    ----------
    hashes_here, hashes_there : (N,) and (M,) bytes objects, zeros where a file cannot be read
    """
    own, other = (set(zip(*(each.frame[name] for name in HEADERS), strict=True)) for each in (here, there))
    only_here, only_there = len(own - other), len(other - own)
    if here.selection_sha256 == there.selection_sha256:
        verdict = SAME
    elif only_here and only_there:
        verdict = DIFFERENT
    else:
        verdict = SUPERSET if only_here else SUBSET if only_there else PERMUTED
    changed, examples = _changes(here.frame, there.frame)
    relation = Relation(verdict, only_here, only_there, changed, tuple(examples))
    if hashes_here is None or hashes_there is None:
        return relation
    return _with_images(relation, _by_image(here.frame, hashes_here), _by_image(there.frame, hashes_there))


def _changes(here: pd.DataFrame, there: pd.DataFrame) -> tuple[dict[str, int], list[str]]:
    """Count the rows with one path and two values per column, and describe the first differences."""
    both = here[list(HEADERS)].merge(there[list(HEADERS)], on="path", suffixes=("", "_there"))
    changed, examples = {}, []
    for name in ("label", "split", "source"):
        differs = both[both[name] != both[f"{name}_there"]]
        if len(differs):
            changed[name] = len(differs)
            for row in differs.head(_EXAMPLES).to_dict("records"):
                examples.append(f'{row["path"]}: {name} "{row[name]}" here, "{row[f"{name}_there"]}" there')
    for own, other, where in ((here, there, "here"), (there, here, "there")):
        alone = own["path"][~own["path"].isin(other["path"])]
        examples += [f"{path}: only {where}" for path in alone.head(_EXAMPLES)]
    return changed, examples


def _by_image(frame: pd.DataFrame, hashes: np.ndarray) -> pd.DataFrame:
    """Return the rows that could be read, with their image's hash."""
    return frame[["path", "label", "split"]].assign(image=hashes)[hashes != bytes(32)]


def _with_images(relation: Relation, own: pd.DataFrame, other: pd.DataFrame) -> Relation:
    """Return the relation with what the images' content shows."""
    both = own.merge(other, on="image", suffixes=("", "_there"))
    pairs = both[["image", "split", "split_there"]].drop_duplicates()
    is_labelled = (both["label"] != "") & (both["label_there"] != "")
    relabelled = both[is_labelled & (both["label"] != both["label_there"])]
    return replace(
        relation,
        images_here=own["image"].nunique(),
        images_there=other["image"].nunique(),
        shared_images=both["image"].nunique(),
        shared=pd.crosstab(pairs["split"], pairs["split_there"]),
        other_labels=relabelled["image"].nunique(),
        other_label_examples=tuple(
            f'{row["path"]} "{row["label"]}" here, {row["path_there"]} "{row["label_there"]}" there'
            for row in relabelled.head(_EXAMPLES).to_dict("records")
        ),
    )
