"""What `manifest check` does, apart from its options."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from fer_mlflow.commands.manifesting import read_classes, table_rows, write_report
from fer_mlflow.data.check import ERROR, NOTE, WARNING, ManifestCheck, check_manifest
from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.merge import Input, parse_input
from fer_mlflow.data.published import CODES, dataset_called
from fer_mlflow.data.relation import DIFFERENT, PERMUTED, SAME, SUBSET, SUPERSET, Relation, relate
from fer_mlflow.data.scan import scan_images
from fer_mlflow.errors import ContractError, ManifestError
from fer_mlflow.progress import show_progress
from fer_mlflow.tables import Cell, Section, Table, report_text

_SIZES_SHOWN = 8
_VERDICTS = {
    SAME: "the same benchmark: same rows, same order",
    PERMUTED: "the same rows in another order: scores agree, soft labels of one do not fit the other's rows",
    SUBSET: "a subset of the other: all its rows are there",
    SUPERSET: "a superset of the other: it has all of its rows",
    DIFFERENT: "different benchmarks",
}


def check(options: Mapping[str, Any]) -> None:
    """Run the command with its parsed options.

    Raises
    ------
    ManifestError
        there are findings for which the manifest cannot be trusted
    """
    given = parse_input(options["manifest"])
    classes = read_classes(options)
    found = check_manifest(
        given.path,
        classes,
        root=options["root"],
        split=given.split,
        dataset=_read_dataset(options),
        decode=options["decode"],
        near=options["near_distance"] if options["near"] else None,
        progress=show_progress,
    )
    blocks = [_summary(found, given), *_findings(found), *_support(found), _rows(found), *_sizes(found)]
    if options["against"]:
        other = parse_input(options["against"], Path(options["against_root"]) if options["against_root"] else None)
        blocks.append(_against(_relate(found, other, classes), other))
    click.echo(report_text(blocks))
    if options["report"]:
        write_report(options["report"], blocks)
    errors, warnings = found.count(ERROR), found.count(WARNING)
    if errors or (warnings and options["strict"]):
        said = f"{errors} errors and {warnings} warnings" if options["strict"] else f"{errors} errors"
        raise ManifestError(f"{given.name}: {said}; the report above says which")


def _read_dataset(options: Mapping[str, Any]) -> str | None:
    """Return the data set that the rows should be of; None goes by their sources."""
    named = options["dataset"]
    if named is None:
        return None
    dataset = dataset_called(named)
    if dataset is None:
        raise ContractError(f'--dataset: "{named}" is not one of {", ".join(CODES)}')
    return dataset


def _summary(found: ManifestCheck, given: Input) -> Section:
    benchmark = found.benchmark
    verdict = "not to be trusted" if found.count(ERROR) else "has warnings" if found.count(WARNING) else "clean"
    lines = [
        f"{len(benchmark):,} rows, digest {benchmark.selection_sha256[:32]}",
        f"{found.count(ERROR)} errors, {found.count(WARNING)} warnings, {found.count(NOTE)} notes",
    ]
    if found.refused:
        lines.append(f"{found.refused:,} further rows are refused; what follows is about the others")
    return Section(f"{given.name}: {verdict}", lines)


def _findings(found: ManifestCheck) -> list[Section]:
    """Return one block for each finding, errors first."""
    ranked = sorted(found.findings, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.level))
    return [
        Section(f"{each.level}: {each.name}", [each.text, *(f"  {line}" for line in each.examples)]) for each in ranked
    ]


def _support(found: ManifestCheck) -> list[Section]:
    """Return a table for each source and split that published counts are known for."""
    blocks = []
    for each in found.supports:
        rows: list[list[Cell]] = [[name, each.observed[name], each.published[name]] for name in each.observed]
        title = f"support: {each.source}{f', {each.split}' if each.split else ''}: {each.verdict}"
        blocks.append(Section(title, (), Table(["class", "rows", f"{each.dataset} {each.subset}"], rows)))
    return blocks


def _rows(found: ManifestCheck) -> Section:
    """Return the table of labels, splits and sources."""
    columns = [name or "(no split)" for name in found.counts.columns]
    return Section("rows", (), Table(["source", "label", *columns], table_rows(found.counts)))


def _sizes(found: ManifestCheck) -> list[Section]:
    """Return the commonest image sizes."""
    sides = found.scan.sides
    sides = sides[sides[:, 0] > 0]
    if not len(sides):
        return []
    counts = Counter(map(tuple, sides.tolist()))
    lines = [f"{width}x{height}: {count:,}" for (height, width), count in counts.most_common(_SIZES_SHOWN)]
    if len(counts) > _SIZES_SHOWN:
        small, large = sides.min(axis=0), sides.max(axis=0)
        lines.append(f"{len(counts):,} sizes from {small[1]}x{small[0]} to {large[1]}x{large[0]}")
    return [Section("image sizes (width x height)", lines)]


def _relate(found: ManifestCheck, other: Input, classes: ClassOrder) -> Relation:
    """Compare with another manifest, by content too where its images are there."""
    there = read_benchmark(other.path, classes, root=other.root, split=other.split, verify_paths=False)
    examined = scan_images(there.root, there.paths.tolist(), decode=False, progress=show_progress)
    if len(there) and len(examined.problems) == len(there):
        click.echo(f"warning: no image of {other.name} is under {there.root}; give --against-root", err=True)
        return relate(found.benchmark, there, None, None)
    return relate(found.benchmark, there, np.asarray(found.scan.sha256), examined.sha256)


def _against(relation: Relation, other: Input) -> Section:
    """Say how the manifest stands to the other one."""
    lines = [_VERDICTS[relation.verdict]]
    if relation.verdict not in (SAME, PERMUTED):
        lines.append(f"{relation.only_here:,} rows only here, {relation.only_there:,} only there")
    lines += [f"{rows:,} rows with the same path have another {name}" for name, rows in relation.changed.items()]
    lines += [f"  {line}" for line in relation.examples]
    if relation.shared is None:
        return Section(f"against {other.name}", lines)
    lines.append(
        f"by content: {relation.shared_images:,} of {relation.images_here:,} images here are among the "
        f"{relation.images_there:,} there"
    )
    if relation.other_labels:
        lines.append(f"{relation.other_labels:,} of them have another label there")
        lines += [f"  {line}" for line in relation.other_label_examples]
    if not relation.shared_images:
        return Section(f"against {other.name}", lines)
    columns = [f"there {name or '(no split)'}" for name in relation.shared.columns]
    return Section(f"against {other.name}", lines, Table(["split here", *columns], table_rows(relation.shared)))
