"""What can be wrong with a manifest: all that `export` refuses, and what makes its scores mean something else."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.examining import Examined, examine_images
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.data.near import near_pairs
from fer_mlflow.data.steps import Steps, unwatched
from fer_mlflow.data.support import Support, compare_support
from fer_mlflow.datasets.codes import dataset_called
from fer_mlflow.errors import ManifestError

ERROR, WARNING, NOTE = "error", "warning", "note"
TINY = 20  # pixels along a side, below which an image shows no expression
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    level : error (not to be trusted; exit status 2), warning, or note
    text : what, in one sentence
    examples : the first rows that it is about
    """

    level: str
    name: str
    text: str
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """What was found out about a manifest.

    Attributes
    ----------
    benchmark : the rows that `export` would take
    refused : rows that it would not
    table : index source, label; a column of rows for each split
    """

    benchmark: Benchmark
    refused: int
    findings: tuple[Finding, ...]
    table: pd.DataFrame
    supports: tuple[Support, ...]
    examined: Examined

    def count(self, level: str) -> int:
        """Return how many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)


def check_manifest(
    manifest: str | Path,
    classes: ClassOrder,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    dataset: str | None = None,
    decode: bool = True,
    near: int | None = None,
    steps: Steps = unwatched,
) -> Check:
    """Find out what is wrong with a manifest and its images.

    Parameters
    ----------
    root : folder of relative paths; None means the manifest's own
    split : look at these rows only; None looks at all
    dataset : data set whose published counts all rows are held against; None goes by their sources, or by the
        file's name where they have none
    decode : decode every image; without it, files are hashed only
    near : bits in which the perceptual hashes of near-duplicates may differ; None looks for none

    Raises
    ------
    ManifestError
        the file cannot be read as a manifest at all
    """
    refusals: list[Finding] = []
    refused: list[int] = []

    def note_refused(error: ManifestError, rows: int) -> None:
        refusals.append(Finding(ERROR, "refused", str(error)))
        refused.append(rows)

    benchmark = read_benchmark(manifest, classes, root=root, split=split, on_refused=note_refused)
    frame = benchmark.frame
    examined = examine_images(
        benchmark.root, benchmark.paths.tolist(), decode=decode, looks=near is not None, steps=steps
    )
    supports = tuple(_supports(benchmark, dataset))
    findings = [
        *refusals,
        *_image_findings(frame, examined, decode),
        *_clashes(frame["path"]),
        *_repeated(frame, examined),
        *([] if near is None else _near(frame, examined, near, steps)),
        *_support_findings(supports),
        *_gaps(frame),
    ]
    table = pd.crosstab([frame["source"], frame["label"]], frame["split"])
    return Check(benchmark, sum(refused), tuple(findings), table, supports, examined)


def _image_findings(frame: pd.DataFrame, examined: Examined, decoded: bool) -> Iterable[Finding]:
    """Find images that cannot be decoded, are too small, or show nothing."""
    paths = frame["path"]
    if examined.problems:
        examples = [f"{paths.iloc[row]}: {problem}" for row, problem in examined.problems.items()]
        what = f"{len(examples):,} images cannot be {'decoded' if decoded else 'read'}"
        yield Finding(ERROR, "unreadable", f"{what}; export stops at them", tuple(examples[:_SHOWN]))
    if not decoded:
        return
    readable = examined.sides[:, 0] > 0
    tiny = np.flatnonzero(readable & (examined.sides.min(axis=1, initial=TINY) < TINY))
    if len(tiny):
        examples = [f"{paths.iloc[row]}: {examined.sides[row, 1]}x{examined.sides[row, 0]}" for row in tiny[:_SHOWN]]
        yield Finding(WARNING, "tiny", f"{len(tiny):,} images have a side under {TINY} pixels", tuple(examples))
    constant = np.flatnonzero(examined.is_constant)
    if len(constant):
        examples = list(paths.iloc[constant[:_SHOWN]])
        yield Finding(WARNING, "constant", f"{len(constant):,} images are of one colour", tuple(examples))


def _clashes(paths: pd.Series) -> Iterable[Finding]:
    """Find paths that are one and the same on a system that minds neither case nor Unicode form."""
    folded = paths.str.normalize("NFC").str.casefold()
    clashing = folded.duplicated(keep=False)
    if clashing.any():
        groups = paths[clashing].groupby(folded[clashing], sort=False).agg(" = ".join)
        text = f"{int(clashing.sum()):,} paths differ from another only in case or Unicode form"
        yield Finding(WARNING, "path clash", f"{text}; other systems have one file for them", tuple(groups[:_SHOWN]))


def _repeated(frame: pd.DataFrame, examined: Examined) -> Iterable[Finding]:
    """Find images that are there twice, by the bytes of their files."""
    rows = np.flatnonzero(examined.sha256 != bytes(32))
    image = pd.Series(pd.factorize(examined.sha256[rows])[0], rows)
    again = image[image.duplicated(keep=False)]
    if again.empty:
        return
    groups = [list(members) for members in again.groupby(again, sort=False).groups.values()]
    yield from _by_kind(frame, groups, WARNING, "an image", "same bytes")


def _near(frame: pd.DataFrame, examined: Examined, distance: int, steps: Steps) -> Iterable[Finding]:
    """Find images that look alike and are not the same file.

    Of images with the same hash, split and label one stands for all: many equal frames make no more pairs.
    """
    usable = (examined.sides[:, 0] > 0) & ~examined.is_constant
    keys = pd.DataFrame({"look": examined.looks, "split": frame["split"], "label": frame["label"]})
    stand_in = keys[usable].drop_duplicates().index.to_numpy()
    first = keys[usable].groupby(["look", "split", "label"], sort=False).ngroup()
    members = pd.Series(first.index.to_numpy(), first.to_numpy())
    pairs = [tuple(stand_in[pair]) for pair in near_pairs(examined.looks[stand_in], distance, steps)]
    firsts = stand_in[members.index.to_numpy()]
    pairs += [(a, b) for a, b in zip(firsts, members, strict=True) if a != b]
    groups = [[int(a), int(b)] for a, b in pairs if examined.sha256[a] != examined.sha256[b]]
    if groups:
        yield from _by_kind(
            frame, groups, WARNING, "a pair of images that look alike", f"at most {distance} of 64 bits apart"
        )


def _by_kind(frame: pd.DataFrame, groups: list[list[int]], level: str, what: str, how: str) -> Iterable[Finding]:
    """Sort groups of rows of one image into leaks between splits, contradicting labels, and repetitions."""
    splits, labels, paths = (frame[name].to_numpy(object) for name in ("split", "label", "path"))

    def told(group: list[int]) -> str:
        return " = ".join(f"{paths[row]} ({', '.join(filter(None, (splits[row], labels[row])))})" for row in group[:4])

    kinds: dict[str, list[list[int]]] = {"leak": [], "contradiction": [], "repeated": []}
    for group in groups:
        across = len({splits[row] for row in group} - {""}) > 1
        torn = len({labels[row] for row in group} - {""}) > 1
        if across:
            kinds["leak"].append(group)
        if torn:
            kinds["contradiction"].append(group)
        if not across and not torn:
            kinds["repeated"].append(group)
    said = {"leak": "in two splits", "contradiction": "with two labels", "repeated": "more than once"}
    for kind, found in kinds.items():
        if found:
            text = f"{len(found):,} x {what} {said[kind]} ({how})"
            yield Finding(level, kind, text, tuple(told(group) for group in found[:_SHOWN]))


def _supports(benchmark: Benchmark, dataset: str | None) -> Iterable[Support]:
    """Yield the comparison of each source and split that published counts are known for."""
    frame = benchmark.frame
    named = dataset or dataset_called(benchmark.manifest_path.stem)
    for source, rows in frame.groupby("source"):
        claimed = dataset or (dataset_called(str(source)) if source else named)
        if claimed is None:
            continue
        for split, part in rows.groupby("split"):
            observed = part["label"].value_counts().to_dict()
            support = compare_support(claimed, str(source), str(split), observed, benchmark.classes)
            if support is not None:
                yield support


def _support_findings(supports: Iterable[Support]) -> Iterable[Finding]:
    """Tell where the rows per class are not the published ones."""
    for each in supports:
        rows = f"{each.source or 'rows without a source'}{f', {each.split}' if each.split else ''}"
        if each.verdict == "permuted":
            pairs = ", ".join(f"{label} has the count of {other}" for label, other in each.exchanged.items())
            text = f"{rows}: the rows per class are those of {each.dataset} {each.part} in another class order"
            yield Finding(ERROR, "class order", f"{text}: {pairs}")
        elif each.verdict == "different":
            text = f"{rows}: the rows per class are not those that {each.dataset} published for {each.part}"
            yield Finding(WARNING, "support", text)


def _gaps(frame: pd.DataFrame) -> Iterable[Finding]:
    """Note rows without a label, split or source."""
    for name in ("label", "split", "source"):
        empty = int((frame[name] == "").sum())
        if empty:
            yield Finding(NOTE, f"no {name}", f"{empty:,} of {len(frame):,} rows have no {name}")
