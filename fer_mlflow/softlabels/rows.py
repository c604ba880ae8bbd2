"""Row alignment: soft labels compared with a manifest, with each other, and with the images on disk."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fer_mlflow.data.manifest import Benchmark
from fer_mlflow.data.scan import hash_images
from fer_mlflow.errors import BundleError, ContractError, listed
from fer_mlflow.softlabels.bundle import SoftLabels

FIELDS = ("label", "split", "source")
FEWEST_SHARED = 30  # labelled rows below which no difference of two models is significant anyway


@dataclass(frozen=True, eq=False)
class Alignment:
    """Row alignment: where the N rows of a manifest are in soft labels."""

    soft_labels: SoftLabels
    benchmark: Benchmark
    positions: np.ndarray  # (N,) int64, the soft labels' row of each of the manifest's, -1 where it has none
    exported: np.ndarray  # (N,) int64, the row in the benchmark of the export, -1 where it was not there
    other_fields: int  # how many rows have another split or source than at the export

    @property
    def rows(self) -> np.ndarray:
        """The (n,) rows of the manifest that have soft labels."""
        return np.flatnonzero(self.positions >= 0)

    @property
    def moved(self) -> np.ndarray:
        """The (m,) rows of the manifest that were elsewhere in the benchmark of the export."""
        return np.flatnonzero(self.exported != np.arange(len(self.exported)))

    @property
    def first_moved(self) -> str:
        """Where the first row that moved was, in words; empty where none did."""
        if not len(self.moved):
            return ""
        row = self.moved[0]
        return f"{name_rows([row], self.benchmark.paths)} is row {self.exported[row] + 1} in the soft labels"

    @property
    def missing(self) -> str:
        """How many rows have no soft labels, and the first of them, in words; empty where all have."""
        if not len(missing := np.flatnonzero(self.positions < 0)):
            return ""
        of_all = f"{len(missing):,} of {len(self.positions):,} rows have no soft labels"
        return f"{self.benchmark.name}: {of_all}: {name_rows(missing, self.benchmark.paths)}"

    def other_images(self, rows: np.ndarray, sha256: np.ndarray | None = None) -> dict[int, str]:
        """Return, of n rows of the manifest with soft labels, those with another image than was decoded, and why.

        `sha256` is (n, d) uint8, the first d bytes of the images' hashes, zeros for what cannot be read; None reads
        them.
        """
        if sha256 is None:
            sha256 = hash_images(self.benchmark.root, self.benchmark.paths.iloc[rows].tolist())
        decoded = self.soft_labels.image_sha256[self.positions[rows], : sha256.shape[1]]
        differ = np.flatnonzero((decoded != sha256).any(axis=1))
        return {int(rows[at]): "other bytes" if sha256[at].any() else "cannot be read" for at in differ}

    def check_images(self, sha256: np.ndarray | None = None) -> None:
        """Refuse images that are not those that the teachers decoded, of all `rows`; `sha256` as for `other_images`."""
        if other := self.other_images(self.rows, sha256):
            named = name_rows(other, self.benchmark.paths, other.values())
            raise BundleError(
                f"{self.benchmark.root}: {len(other):,} of {len(self.rows):,} images are not the ones that the "
                f"teachers decoded: {named}; get the images that the soft labels were made of, or export again"
            )


def name_rows(rows: Collection[int] | np.ndarray, paths: pd.Series, why: Collection[str] = ()) -> str:
    """Return the first ten rows, counted from 1, with their paths and what is wrong with them, and how many follow."""
    notes = [f" ({each})" for each in why] or [""] * len(rows)
    return listed([f'row {row + 1} "{paths[row]}"{note}' for row, note in zip(rows, notes, strict=True)])


def align(soft_labels: SoftLabels, benchmark: Benchmark, *, subset: bool = False) -> Alignment:
    """Find each row of a manifest in soft labels by its path, and prove that it is the row that was exported.

    Both must have the same rows, with the same labels, in any order; rows that the export left out as unreadable count
    as its rows. Of a subset each may have rows that the other lacks, and label, split and source must be the same, as
    must the order of classes. Raises a BundleError, with how many rows are missing, too many, or differ and the first
    ten of them, or a ContractError where classes differ.
    """
    where, classes, names = f"manifest {benchmark.manifest_path}", soft_labels.classes, benchmark.classes.names
    if names != classes if subset else not set(classes) <= set(names):
        raise ContractError(
            f"soft labels are of the classes {', '.join(classes)}, {where} has {', '.join(names)}; give the soft "
            "labels' with --classes, or export again"
        )
    left_out = {bad["path"]: int(bad["row"]) for bad in soft_labels.report.get("unreadable", ())}
    own = pd.Index([*soft_labels.index["path"], *left_out])
    if not own.is_unique:
        raise BundleError(f"bundle {soft_labels.folder}: it names a path twice; no order can be proved")
    found = own.get_indexer(benchmark.paths)
    extra, absent = np.flatnonzero(found < 0), own.difference(benchmark.paths)
    if not subset and (len(extra) or len(absent)):
        only = {
            "manifest": (len(extra), name_rows(extra, benchmark.paths)),
            "soft labels": (len(absent), listed([f'"{path}"' for path in absent])),
        }
        what = [f"{count:,} rows are only in the {who} ({named})" for who, (count, named) in only.items() if count]
        raise BundleError(
            f"{where} has {len(found):,} rows, the soft labels {len(own):,}: {'; '.join(what)}; name the manifest, "
            "--split and --root that they were exported with"
        )
    positions = np.where(found < len(soft_labels), found, -1).astype(np.int64)
    exported = np.array([*soft_labels.index["row"], *left_out.values(), -1], np.int64)[found]
    rows = np.flatnonzero(positions >= 0)
    ours, theirs = benchmark.frame.iloc[rows], soft_labels.index.iloc[positions[rows]]
    differ = {name: ours[name].to_numpy(object) != theirs[name].to_numpy(object) for name in FIELDS}
    decisive = FIELDS if subset else ("label",)
    wrong = np.flatnonzero(np.any([differ[name] for name in decisive], axis=0))
    if len(wrong):
        why = [
            ", ".join(f'{n} "{ours[n].iloc[i]}", then "{theirs[n].iloc[i]}"' for n in decisive if differ[n][i])
            for i in wrong
        ]
        raise BundleError(
            f"{where}: {len(wrong):,} of {len(found):,} rows are not what they were when the soft labels were "
            f"exported: {name_rows(rows[wrong], benchmark.paths, why)}; export again"
        )
    return Alignment(soft_labels, benchmark, positions, exported, int((differ["split"] | differ["source"]).sum()))


def reordered(alignment: Alignment) -> SoftLabels:
    """Return soft labels in the order of the manifest that they are aligned to, as those of its selection.

    Index and selection follow the manifest, its split and source too; each row keeps its logits and its image's hash.
    The report says from which bundle it was made; its checks are those of that bundle.
    """
    bundle, benchmark, rows = alignment.soft_labels, alignment.benchmark, alignment.rows
    order = alignment.positions[rows]
    ours = {name: benchmark.frame[name].to_numpy(object)[rows] for name in FIELDS}
    row_of = dict(zip(benchmark.paths, range(len(benchmark)), strict=True))
    left_out = [{**bad, "row": row_of[bad["path"]]} for bad in bundle.report.get("unreadable", ())]
    return SoftLabels.of(
        logits=bundle.logits[order],
        index=bundle.index.iloc[order].reset_index(drop=True).assign(row=rows, **ours),
        classes=bundle.classes,
        report={
            **bundle.report,
            "benchmark": {**bundle.report["benchmark"], "selected_sha256": benchmark.selection_sha256},
            "unreadable": sorted(left_out, key=lambda bad: bad["row"]),
            "reordered": {"source_bundle_sha256": bundle.sha256, "moved_rows": len(alignment.moved)},
        },
        manifest_sha256=benchmark.manifest_sha256,
        checkpoints=bundle.checkpoints,
        environment=bundle.environment,
    )


@dataclass(frozen=True)
class SharedRows:
    """Which rows of two bundles are the same image with the same label, and whether scores on them can be compared."""

    rows_a: np.ndarray  # (N,) int64 positions of labelled rows in the bundle
    rows_b: np.ndarray  # (N,) int64, pairwise
    columns_b: np.ndarray | None  # (C,) int64, B's column for each class of A; None where the class sets differ
    verdict: str  # a sentence, from "comparable" or "not comparable" on

    @property
    def is_comparable(self) -> bool:
        """Whether there is anything to compare."""
        return self.verdict.startswith("comparable")


def find_shared_rows(a: SoftLabels, b: SoftLabels) -> SharedRows:
    """Match two bundles' labelled rows by the images' content, and say whether their scores can be compared.

    They can on all rows where selection and images are the same, and else on the rows that both have, if their labels
    agree.
    """
    if set(a.classes) != set(b.classes):
        only = {"A": [n for n in a.classes if n not in b.classes], "B": [n for n in b.classes if n not in a.classes]}
        difference = "; ".join(f"only {whose} has {', '.join(names)}" for whose, names in only.items() if names)
        none = np.empty(0, np.int64)
        return SharedRows(none, none, None, f"not comparable because classes differ: {difference}")
    columns_b = np.array([b.classes.index(name) for name in a.classes])
    rows_a, rows_b, differ = _match_images(a, b)
    n, of_a, of_b = len(rows_a) + differ, int(a.labelled.sum()), int(b.labelled.sum())
    if a.selection_sha256 == b.selection_sha256 and a.index["image_sha256"].equals(b.index["image_sha256"]):
        verdict = f"comparable: the same {n:,} labelled rows" if n else "not comparable because no row has a label"
    elif differ:
        verdict = f"not comparable because {differ:,} of {n:,} shared images have other labels"
    elif n < FEWEST_SHARED:
        verdict = f"not comparable because the benchmarks share {n:,} labelled images; {FEWEST_SHARED} are needed"
    else:
        verdict = f"comparable on the {n:,} shared rows (of {of_a:,} labelled rows of A and {of_b:,} of B)"
    return SharedRows(rows_a, rows_b, columns_b, verdict)


def _match_images(a: SoftLabels, b: SoftLabels) -> tuple[np.ndarray, np.ndarray, int]:
    """Return positions of labelled rows with the same image and label, and how many shared images have other labels.

    An image may be there several times, with several labels (FER2013 has such): the n-th copy of an image with a label
    matches the n-th.
    """
    key = ["image_sha256", "label"]
    frames = []
    for bundle in (a, b):
        frame = bundle.index[key].assign(at=np.arange(len(bundle)))[bundle.labelled]
        frames.append(frame.assign(copy=frame.groupby(key).cumcount()))
    merged = frames[0].merge(frames[1], on=[*key, "copy"], suffixes=("_a", "_b")).sort_values("at_a")
    left_a, left_b = (
        frame["image_sha256"][~frame["at"].isin(merged[at])].value_counts()
        for frame, at in zip(frames, ("at_a", "at_b"), strict=True)
    )
    differ = int(np.minimum(*left_a.align(left_b, join="inner")).sum())
    return merged["at_a"].to_numpy(np.int64), merged["at_b"].to_numpy(np.int64), differ
