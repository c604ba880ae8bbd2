"""Row alignment: soft labels held against a manifest, against each other, and against the images on disk."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fer_mlflow.data.images import hash_images
from fer_mlflow.data.manifest import SHOWN, Benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.softlabels.bundle import SoftLabels


@dataclass(frozen=True)
class Alignment:
    """Where each row of a bundle stands in a manifest that has the same rows.

    Attributes
    ----------
    benchmark : the manifest's rows
    positions : (N,) int64, the manifest's row for each of the bundle's
    moved : how many of the manifest's rows stand elsewhere in the bundle
    first_moved : sentence on the first of them; empty where the order is the same
    other_fields : how many rows have another split or source
    """

    benchmark: Benchmark
    positions: np.ndarray
    moved: int
    first_moved: str
    other_fields: int


def check_same_rows(soft_labels: Mapping[str, SoftLabels]) -> None:
    """Check that several soft labels have the same rows of the same images; `soft_labels` are by their names.

    Raises
    ------
    BundleError
        two of them differ: which, and the first such row
    """
    (first_name, first), *others = soft_labels.items()
    for name, each in others:
        rows, own = first.index["row"].to_numpy(), each.index["row"].to_numpy()
        if not np.array_equal(rows, own):
            which = f"row {np.setxor1d(rows, own)[0] + 1} first"
            raise BundleError(f"{first_name} and {name} have different rows, {which}; export again")
        differ = np.flatnonzero((each.image_sha256 != first.image_sha256).any(axis=1))
        if len(differ):
            raise BundleError(
                f"{first_name} and {name} decoded different bytes for {len(differ)} images, row {rows[differ[0]] + 1} "
                f'"{first.index["path"].iloc[differ[0]]}" first; export again with --verify-paths true'
            )


def align(bundle: SoftLabels, benchmark: Benchmark) -> Alignment:
    """Prove that a bundle and a local manifest have the same rows: the same paths, each with the same label.

    Rows that the export left out as unreadable must be in the manifest too, where the bundle says they were.

    Raises
    ------
    ContractError
        a row is missing, or too many, or has another label: the first ten such rows and their count
    """
    where = f"manifest {benchmark.manifest_path}"
    known = set(benchmark.classes.names)
    if not set(bundle.classes) <= known:
        foreign = ", ".join(name for name in bundle.classes if name not in known)
        raise ContractError(
            f"{where}: its classes lack {foreign}; give the soft labels' classes, {', '.join(bundle.classes)}, with "
            "--classes"
        )
    left_out = {bad["path"]: int(bad["row"]) for bad in bundle.report.get("unreadable", ())}
    paths, own = benchmark.paths.tolist(), bundle.index["path"].tolist()
    there = {path: row for row, path in enumerate(paths)}
    mine = set(own) | set(left_out)
    if len(mine) != len(own) + len(left_out):
        raise ContractError(f"bundle {bundle.folder}: it names a path twice; no order can be proved")
    extra, missing = [path for path in paths if path not in mine], sorted(mine - set(there))
    if extra or missing:
        parts = [
            f"{len(few):,} rows are only in the {whose} ({_named(few, there if whose == 'manifest' else {})})"
            for whose, few in (("manifest", extra), ("soft labels", missing))
            if few
        ]
        raise ContractError(
            f"{where} has {len(paths):,} rows, the soft labels {len(mine):,}: {'; '.join(parts)}; name the manifest, "
            "--split and --root that they were exported with"
        )
    positions = np.array([there[path] for path in own], np.int64)
    ours, labels = benchmark.frame.iloc[positions], bundle.index["label"].to_numpy(object)
    wrong = np.flatnonzero(ours["label"].to_numpy(object) != labels)
    if len(wrong):
        wrong = wrong[np.argsort(positions[wrong])]
        shown = ", ".join(
            f'row {positions[i] + 1} "{own[i]}" {ours["label"].iloc[i] or "(none)"}, in the soft labels '
            f"{labels[i] or '(none)'}"
            for i in wrong[:SHOWN]
        )
        raise ContractError(
            f"{where}: {len(wrong):,} of {len(own):,} rows have another label: {shown}{_more(wrong)}; "
            "soft labels are of other labels than these"
        )
    stood = np.array([*bundle.index["row"], *left_out.values()], np.int64)  # in the benchmark of the export
    stands = np.array([*positions, *(there[path] for path in left_out)], np.int64)
    moved = np.flatnonzero(stood != stands)
    first = ""
    if len(moved):
        i = moved[np.argmin(stands[moved])]
        first = f'row {stands[i] + 1} "{paths[stands[i]]}" is row {stood[i] + 1} in the soft labels'
    other = (ours[["split", "source"]].to_numpy(object) != bundle.index[["split", "source"]].to_numpy(object)).any(1)
    return Alignment(benchmark, positions, len(moved), first, int(other.sum()))


def _named(paths: Sequence[str], rows: dict[str, int]) -> str:
    """Return the first ten paths, with their rows where they have some."""
    shown = ", ".join(f'row {rows[path] + 1} "{path}"' if path in rows else f'"{path}"' for path in paths[:SHOWN])
    return shown + _more(paths)


def _more(values: Sized) -> str:
    return f" and {len(values) - SHOWN:,} more" if len(values) > SHOWN else ""


def find_other_images(bundle: SoftLabels, root: Path, rows: Iterable[int]) -> dict[int, str]:
    """Return, of some positions in a bundle, those whose file is not the image that was decoded, and why."""
    rows = list(rows)
    paths, digests = bundle.index["path"].iloc[rows].tolist(), bundle.image_sha256[rows]
    found = hash_images(root, paths)
    differ = np.flatnonzero((found != digests).any(axis=1)).tolist()
    return {rows[at]: "other bytes" if found[at].any() else "cannot be read" for at in differ}


def describe_rows(bundle: SoftLabels, rows: dict[int, str]) -> str:
    """Return the first ten of some positions in a bundle with their paths and what is wrong with each."""
    named = [
        f'row {bundle.index["row"].iloc[row] + 1} "{bundle.index["path"].iloc[row]}" ({why})'
        for row, why in list(rows.items())[:SHOWN]
    ]
    return ", ".join(named) + _more(rows)


def reordered(bundle: SoftLabels, alignment: Alignment) -> SoftLabels:
    """Return a bundle's rows in the order of the manifest that they are aligned to, as soft labels of its selection.

    Index and selection follow the manifest, its split and source too; each row keeps its logits and its image's hash.
    The report says from which bundle it was made; its checks are those of that bundle.

    Raises
    ------
    BundleError
        rows and logits do not fit together
    """
    benchmark, order = alignment.benchmark, np.argsort(alignment.positions)
    rows = alignment.positions[order]
    logits, old = bundle.logits[order], bundle.index.iloc[order].reset_index(drop=True)
    index = benchmark.frame.iloc[rows][["path", "label", "split", "source"]].reset_index(drop=True)
    if index["path"].tolist() != old["path"].tolist() or index["label"].tolist() != old["label"].tolist():
        raise BundleError(f"bundle {bundle.folder}: rows came out of step while they were reordered; report this")
    index.insert(0, "row", rows)
    for name in ("image_sha256", *old.columns.difference(index.columns)):
        index[name] = old[name]
    there = {path: row for row, path in enumerate(benchmark.paths)}
    left_out = sorted(
        ({**bad, "row": there[bad["path"]]} for bad in bundle.report.get("unreadable", ())), key=lambda b: b["row"]
    )
    return SoftLabels.of(
        logits=logits,
        index=index,
        classes=bundle.classes,
        report={
            **bundle.report,
            "benchmark": {**bundle.report["benchmark"], "selected_sha256": benchmark.selection_sha256},
            "unreadable": left_out,
            "reordered": {"source_bundle_sha256": bundle.sha256, "moved_rows": alignment.moved},
        },
        manifest_sha256=benchmark.manifest_sha256,
        checkpoints=bundle.checkpoints,
        environment=bundle.environment,
    )
