"""Checks of a manifest: all that `export` refuses, and what makes its scores mean something else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import HEADERS, Benchmark, read_benchmark
from fer_mlflow.data.published import Support, compare_support, dataset_called
from fer_mlflow.data.scan import Scan, near_duplicate_pairs, scan_images
from fer_mlflow.errors import ManifestError
from fer_mlflow.progress import Progress, no_progress

ERROR, WARNING, NOTE = "error", "warning", "note"
TINY = 20  # pixels along a side, below which an image shows no expression
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One result of a check: its level (an error means exit status 2), a sentence, and the first rows concerned."""

    level: str
    name: str
    text: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class ManifestCheck:
    """What a manifest holds, and what is wrong with it."""

    benchmark: Benchmark  # the rows that `export` would take
    refused: int  # rows that it would not
    findings: tuple[Finding, ...]
    counts: pd.DataFrame  # index source, label; a column of rows for each split
    supports: tuple[Support, ...]
    scan: Scan

    def count(self, level: str) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def run_checks(
    manifest: str | Path,
    classes: ClassOrder,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    dataset: str | None = None,
    decode: bool = True,
    near: int | None = None,
    progress: Progress = no_progress,
) -> ManifestCheck:
    """Check a manifest and its images, which are hashed only where they are not decoded.

    All rows are compared with the published counts of `dataset`; None goes by their sources, or by the file's name
    where they have none. The perceptual hashes of near-duplicates differ in at most `near` bits; None skips the search.
    """
    refused: list[tuple[ManifestError, int]] = []
    benchmark = read_benchmark(
        manifest, classes, root=root, split=split, on_refused=lambda error, rows: refused.append((error, rows))
    )
    frame, paths = benchmark.frame, benchmark.paths
    scan = scan_images(benchmark.root, paths.tolist(), decode=decode, perceptual=near is not None, progress=progress)
    supports = tuple(_supports(benchmark, dataset))
    findings = [
        *(Finding(ERROR, "refused", str(error)) for error, _ in refused),
        *_image_findings(paths, scan, decode),
        *_path_clashes(paths),
        *_duplicates(frame, scan),
        *([] if near is None else _near_duplicates(frame, scan, near, progress)),
        *_support_findings(supports),
        *_gaps(frame),
    ]
    counts = pd.crosstab([frame["source"], frame["label"]], frame["split"])
    return ManifestCheck(benchmark, sum(rows for _, rows in refused), tuple(findings), counts, supports, scan)


def _image_findings(paths: pd.Series, scan: Scan, decoded: bool) -> Iterable[Finding]:
    """Find images that cannot be decoded, are too small, or are of one colour."""
    if scan.problems:
        examples = tuple(f"{paths.iloc[row]}: {problem}" for row, problem in scan.problems.items())
        text = f"{len(examples):,} images cannot be {'decoded' if decoded else 'read'}; export stops at them"
        yield Finding(ERROR, "unreadable", text, examples[:_SHOWN])
    tiny = np.flatnonzero((scan.sides > 0).all(axis=1) & (scan.sides < TINY).any(axis=1))
    if len(tiny):
        examples = tuple(f"{paths.iloc[row]}: {scan.sides[row, 1]}x{scan.sides[row, 0]}" for row in tiny[:_SHOWN])
        yield Finding(WARNING, "tiny", f"{len(tiny):,} images have a side under {TINY} pixels", examples)
    constant = np.flatnonzero(scan.is_constant)
    if len(constant):
        text = f"{len(constant):,} images are of one colour"
        yield Finding(WARNING, "constant", text, tuple(paths.iloc[constant[:_SHOWN]]))


def _path_clashes(paths: pd.Series) -> Iterable[Finding]:
    """Find paths that are equal on a file system that ignores case or Unicode form."""
    folded = paths.str.normalize("NFC").str.casefold()
    clashing = folded.duplicated(keep=False)
    if clashing.any():
        groups = paths[clashing].groupby(folded[clashing], sort=False).agg(" = ".join)
        text = f"{int(clashing.sum()):,} paths differ from another only in case or Unicode form"
        yield Finding(WARNING, "path clash", f"{text}; other systems have one file for them", tuple(groups[:_SHOWN]))


def _duplicates(frame: pd.DataFrame, scan: Scan) -> Iterable[Finding]:
    """Find images that are there twice, by the bytes of their files."""
    rows = np.flatnonzero(scan.sha256 != bytes(32))
    image = pd.Series(pd.factorize(scan.sha256[rows])[0], rows)
    again = image[image.duplicated(keep=False)]
    groups = [list(members) for members in again.groupby(again, sort=False).groups.values()]
    yield from _by_kind(frame, groups, "an image", "same bytes")


def _near_duplicates(frame: pd.DataFrame, scan: Scan, distance: int, progress: Progress) -> Iterable[Finding]:
    """Find images with close perceptual hashes that are not the same file.

    Of images with the same hash, split and label one stands for all: many equal frames make no more pairs.
    """
    usable = (scan.sides[:, 0] > 0) & ~scan.is_constant
    keys = pd.DataFrame({"hash": scan.hashes, "split": frame["split"], "label": frame["label"]})[usable]
    stand_in = keys.drop_duplicates().index.to_numpy()
    pairs = stand_in[near_duplicate_pairs(scan.hashes[stand_in], distance, progress)].tolist()
    firsts = stand_in[keys.groupby(["hash", "split", "label"], sort=False).ngroup().to_numpy()]
    pairs += [[a, b] for a, b in zip(firsts.tolist(), keys.index.tolist(), strict=True) if a != b]
    groups = [[a, b] for a, b in pairs if scan.sha256[a] != scan.sha256[b]]
    yield from _by_kind(frame, groups, "a pair of near-duplicates", f"at most {distance} of 64 bits apart")


def _by_kind(frame: pd.DataFrame, groups: Sequence[Sequence[int]], what: str, how: str) -> Iterable[Finding]:
    """Sort groups of rows of one image into leaks between splits, contradicting labels, and repetitions."""
    splits, labels, paths = (frame[name].to_numpy(object) for name in ("split", "label", "path"))
    kinds: dict[str, list[Sequence[int]]] = {"leak": [], "contradiction": [], "repeated": []}
    for group in groups:
        is_leak = len({splits[row] for row in group} - {""}) > 1
        is_contradiction = len({labels[row] for row in group} - {""}) > 1
        kinds["leak"] += [group] * is_leak
        kinds["contradiction"] += [group] * is_contradiction
        kinds["repeated"] += [group] * (not is_leak and not is_contradiction)
    where = {"leak": "in two splits", "contradiction": "with two labels", "repeated": "more than once"}
    for kind, members in kinds.items():
        examples = [
            " = ".join(f"{paths[row]} ({', '.join(filter(None, (splits[row], labels[row])))})" for row in group[:4])
            for group in members[:_SHOWN]
        ]
        if members:
            yield Finding(WARNING, kind, f"{len(members):,} x {what} {where[kind]} ({how})", tuple(examples))


def _supports(benchmark: Benchmark, dataset: str | None) -> Iterable[Support]:
    """Yield the comparison of each source and split that published counts are known for."""
    stem = benchmark.manifest_path.stem
    for (source, split), rows in benchmark.frame.groupby(["source", "split"]):
        if claimed := dataset or dataset_called(str(source or stem)):
            observed = rows["label"].value_counts().to_dict()
            if support := compare_support(claimed, str(source), str(split), observed, benchmark.classes):
                yield support


def _support_findings(supports: Iterable[Support]) -> Iterable[Finding]:
    """Find rows per class that are not the published ones."""
    for each in supports:
        rows = f"{each.source or 'rows without a source'}{f', {each.split}' if each.split else ''}"
        if each.verdict == "permuted":
            pairs = ", ".join(f"{label} has the count of {other}" for label, other in each.exchanged.items())
            text = f"{rows}: the rows per class are those of {each.dataset} {each.subset} in another class order"
            yield Finding(ERROR, "class order", f"{text}: {pairs}")
        elif each.verdict == "different":
            text = f"{rows}: the rows per class are not those that {each.dataset} published for {each.subset}"
            yield Finding(WARNING, "support", text)


def _gaps(frame: pd.DataFrame) -> Iterable[Finding]:
    """Note rows without a label, split or source."""
    for name in ("label", "split", "source"):
        if empty := int((frame[name] == "").sum()):
            yield Finding(NOTE, f"no {name}", f"{empty:,} of {len(frame):,} rows have no {name}")


@dataclass(frozen=True)
class Relation:
    """How a manifest stands to another one: by its rows, and by the content of images where they were hashed.

    The verdict is `same` (rows of path, label, split and source), `permuted` (in another order), `subset`, `superset`
    or `different`.
    """

    verdict: str
    only_here: int  # rows that the other has not
    only_there: int
    changed: dict[str, int]  # column -> rows with the same path and another value
    examples: tuple[str, ...]  # where they differ
    images_here: int | None = None  # different images by content
    images_there: int | None = None
    shared_images: int | None = None
    shared: pd.DataFrame | None = None  # index split here, columns split there; images that both have
    other_labels: int = 0  # shared images whose labels differ
    other_label_examples: tuple[str, ...] = ()


def relate(
    here: Benchmark, there: Benchmark, hashes_here: np.ndarray | None, hashes_there: np.ndarray | None
) -> Relation:
    """Compare two benchmarks by their rows, and by the content of their images where both were hashed.

    Hashes are (N,) bytes objects, zeros where a file cannot be read.
    """
    own, other = (set(zip(*(each.frame[name] for name in HEADERS), strict=True)) for each in (here, there))
    only_here, only_there = len(own - other), len(other - own)
    if here.selection_sha256 == there.selection_sha256:
        verdict = "same"
    elif only_here and only_there:
        verdict = "different"
    else:
        verdict = "superset" if only_here else "subset" if only_there else "permuted"
    relation = Relation(verdict, only_here, only_there, *_changes(here.frame, there.frame))
    if hashes_here is None or hashes_there is None:
        return relation
    ours, theirs = (
        each.frame[["path", "label", "split"]].assign(image=hashes)[hashes != bytes(32)]
        for each, hashes in ((here, hashes_here), (there, hashes_there))
    )
    both = ours.merge(theirs, on="image", suffixes=("", "_there"))
    pairs = both[["image", "split", "split_there"]].drop_duplicates()
    is_labelled = (both["label"] != "") & (both["label_there"] != "")
    relabelled = both[is_labelled & (both["label"] != both["label_there"])]
    return replace(
        relation,
        images_here=ours["image"].nunique(),
        images_there=theirs["image"].nunique(),
        shared_images=both["image"].nunique(),
        shared=pd.crosstab(pairs["split"], pairs["split_there"]),
        other_labels=relabelled["image"].nunique(),
        other_label_examples=tuple(
            f'{row["path"]} "{row["label"]}" here, {row["path_there"]} "{row["label_there"]}" there'
            for row in relabelled.head(_SHOWN).to_dict("records")
        ),
    )


def _changes(here: pd.DataFrame, there: pd.DataFrame) -> tuple[dict[str, int], tuple[str, ...]]:
    """Count the rows with one path and two values per column, and describe the first differences."""
    both = here[list(HEADERS)].merge(there[list(HEADERS)], on="path", suffixes=("", "_there"))
    changed, examples = {}, []
    for name in ("label", "split", "source"):
        differs = both[both[name] != both[f"{name}_there"]]
        if len(differs):
            changed[name] = len(differs)
            for row in differs.head(_SHOWN).to_dict("records"):
                examples.append(f'{row["path"]}: {name} "{row[name]}" here, "{row[f"{name}_there"]}" there')
    for own, other, where in ((here, there, "here"), (there, here, "there")):
        alone = own["path"][~own["path"].isin(other["path"])]
        examples += [f"{path}: only {where}" for path in alone.head(_SHOWN)]
    return changed, tuple(examples)
