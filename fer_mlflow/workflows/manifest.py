"""`manifest build`, `merge`, `check`, `split`: files in, files and a report out; `track` builds or merges in a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.data.check import ERROR, NOTE, WARNING, ManifestCheck, Relation, relate, run_checks
from fer_mlflow.data.classes import ClassOrder, read_classes
from fer_mlflow.data.manifest import Benchmark, read_benchmark, rebase_paths, write_manifest
from fer_mlflow.data.merge_split import ManifestInput, Merged, merge, parse_input, split_rows
from fer_mlflow.data.published import CODES, compare_support, dataset_called
from fer_mlflow.data.roots import absolute, parse_root
from fer_mlflow.data.scan import scan_images
from fer_mlflow.datasets import Built, build
from fer_mlflow.errors import ContractError
from fer_mlflow.files import written_file
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.settings import manifests
from fer_mlflow.tables import Cell, Section, Table, report_markdown
from fer_mlflow.workflows import RunResult, logger, workflow

_SHOWN, _SIZES_SHOWN = 10, 8
_VERDICTS = {
    "same": "the same benchmark: same rows, same order",
    "permuted": "the same rows in another order: scores agree, soft labels of one do not fit the other's rows",
    "subset": "a subset of the other: all its rows are there",
    "superset": "a superset of the other: it has all of its rows",
    "different": "different benchmarks",
}


@dataclass(frozen=True, repr=False)
class ManifestResult:
    """A manifest that was written.

    Attributes
    ----------
    path, root : the file, and the folder that its paths start from
    frame : its rows: str columns path, label, split, source, then others
    report : what is to be known about it
    """

    path: Path
    root: Path | str
    frame: pd.DataFrame
    report: tuple[Section, ...]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(path={str(self.path)!r}, rows={len(self.frame)})"


@dataclass(frozen=True, kw_only=True, repr=False)
class TrackManifestResult(RunResult):
    """A manifest that was written and logged, and the benchmark of all its rows."""

    manifest: ManifestResult
    benchmark: Benchmark


@dataclass(frozen=True, repr=False)
class CheckManifestResult:
    """What was found in a manifest.

    Attributes
    ----------
    name : the manifest as it was given
    check : rows, findings, counts, image sizes and hashes
    relation : to the other manifest; None where there is none
    report : the same for people
    """

    name: str
    check: ManifestCheck
    relation: Relation | None
    report: tuple[Section, ...]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, errors={self.errors}, warnings={self.warnings})"

    @property
    def errors(self) -> int:
        """How many findings make the manifest unusable."""
        return self.check.count(ERROR)

    @property
    def warnings(self) -> int:
        """How many findings may be a mistake."""
        return self.check.count(WARNING)


@workflow(manifests.BuildManifestSettings)
def build_manifest(settings: manifests.BuildManifestSettings, progress: Progress = no_progress) -> ManifestResult:
    """Write the manifest of a published data set as it lies on disk.

    Raises ManifestError: the folder is not that data set, a label file is cut short, images are missing or not
    under the root.
    """
    out, classes = settings.path, read_classes(settings.classes)
    built = build(
        settings.dataset,
        settings.folder,
        classes,
        settings.images or out.with_name(f"{out.stem}_images"),
        root=settings.folder_of_paths,
        source=settings.source,
        min_agreement=settings.min_agreement,
        allow_missing=settings.allow_missing,
        progress=progress,
    )
    return _written(settings, built.frame, [_built_section(settings, built, classes)])


@workflow(manifests.MergeManifestsSettings)
def merge_manifests(settings: manifests.MergeManifestsSettings, progress: Progress = no_progress) -> ManifestResult:
    """Write several manifests as one: paths stay valid, each image is there once, leakage is reported.

    Raises FerError: there is one input alone, inputs have different classes or give one image two labels, or files
    are missing.
    """
    roots, sources = (
        texts * len(settings.inputs) if len(texts) == 1 else texts or ("",) * len(settings.inputs)
        for texts in (settings.from_root, settings.source)
    )
    inputs = [
        parse_input(text, root or None, source or None)
        for text, root, source in zip(settings.inputs, roots, sources, strict=True)
    ]
    classes = ClassOrder.read(settings.classes) if settings.classes else None
    merged = merge(inputs, settings.folder_of_paths, classes, progress=progress)
    return _written(settings, merged.frame, _merged_sections(merged))


@workflow(manifests.SplitManifestSettings)
def split_manifest(settings: manifests.SplitManifestSettings, progress: Progress = no_progress) -> ManifestResult:
    """Write a manifest whose rows are split by label and source, each group on one side.

    Raises FerError: the manifest cannot be used, there are no such rows, or there are fewer groups than splits.
    """
    given, split, group, shares = settings.manifest, settings.split, settings.group, settings.shares
    benchmark = read_benchmark(given, read_classes(settings.classes), root=settings.from_root)
    paths = rebase_paths(settings.folder_of_paths, benchmark.root, benchmark.paths)
    frame = benchmark.frame.assign(path=paths)
    chosen = frame["split"] == split if split else pd.Series(True, frame.index)
    if not chosen.any():
        there = ", ".join(sorted(name or "(empty)" for name in frame["split"].unique()))
        raise ContractError(f'{given}: no row has split "{split}"; its splits are {there}')
    # By the paths in the manifest that is read: where the new one lies must not change the splits.
    frame.loc[chosen, "split"] = split_rows(benchmark.frame[chosen], shares, settings.seed, group)
    counts = pd.crosstab(frame["label"], frame["split"])
    counts = counts[[name for name in shares if name in counts] + [name for name in counts if name not in shares]]
    lines = [f"by label and source, seed {settings.seed}"]
    if group:
        values = frame.loc[chosen, group].str.strip()
        lines.append(f"{values[values != ''].nunique():,} values of {group}, each in one split")
        if empty := int((values == "").sum()):
            lines.append(f"{empty:,} rows have no {group}: each counts as one of its own")
    section = Section(f"{given}: {len(frame):,} rows", lines, _count_table(["label", *counts.columns], counts))
    return _written(settings, frame, [section])


@workflow(manifests.CheckManifestSettings)
def check_manifest(settings: manifests.CheckManifestSettings, progress: Progress = no_progress) -> CheckManifestResult:
    """Check a manifest and its images, and compare it with another one.

    Raises FerError: the file is no manifest at all, or the data set is unknown.
    """
    given, classes = parse_input(settings.manifest), read_classes(settings.classes)
    dataset = dataset_called(settings.dataset) if settings.dataset else None
    if settings.dataset and dataset is None:
        raise ContractError(f'dataset: "{settings.dataset}" is not one of {", ".join(CODES)}')
    check = run_checks(
        given.path,
        classes,
        root=settings.root,
        split=given.split,
        dataset=dataset,
        decode=settings.decode,
        near=settings.near_distance if settings.near else None,
        progress=progress,
    )
    sections, relation = _check_sections(given.name, check), None
    if settings.against:
        other = parse_input(settings.against, settings.against_root)
        relation = _relate(check, other, classes, progress)
        sections.append(_relation_section(relation, other.name))
    _write_report(settings.report, sections)
    return CheckManifestResult(given.name, check, relation, tuple(sections))


@workflow(manifests.TrackManifestSettings)
def track_manifest(settings: manifests.TrackManifestSettings, progress: Progress = no_progress) -> TrackManifestResult:
    """Build or merge a manifest, and log it, its report and its benchmarks as an MLflow run.

    Raises FerError: see `build_manifest` and `merge_manifests`. TrackingError: the server cannot be reached.
    """
    from fer_mlflow.tracking.runs import metric_key, open_run  # here, since the other workflows start without MLflow

    classes = read_classes(settings.classes)

    def read(split: str | None) -> Benchmark:
        return read_benchmark(settings.out, classes, root=settings.root, split=split, verify_paths=False)

    with open_run("manifest", settings.name or f"{settings.action} {settings.path.stem}", settings.experiment) as run:
        run.log(settings.params)
        if settings.action == "build":
            result = build_manifest.of(settings.of(manifests.BuildManifestSettings), progress=progress)
        else:
            result = merge_manifests.of(settings.of(manifests.MergeManifestsSettings), progress=progress)
        # Its benchmarks have the names and digests that later runs have for them.
        whole = read(None)
        splits = {split: read(split) for split in whole.frame["split"].unique() if split}
        for rows in (whole, *splits.values()):
            run.log_benchmark(rows.name, rows, "manifest")
        metrics = {"rows": len(whole)} | {metric_key("rows", split): len(rows) for split, rows in splits.items()}
        for (split, label), count in whole.frame.groupby(["split", "label"]).size().items():
            metrics[metric_key("rows", split or "all", label or "unlabelled")] = int(count)
        run.log({"benchmark": whole.name, "rows": len(whole)}, metrics)
        run.log_file(settings.path)
        run.log_text("report.md", report_markdown(result.report))
        sizes = [f"**{len(whole):,}** rows", *(f"{split} {len(rows):,}" for split, rows in splits.items())]
        tags = {"fer.benchmark": whole.name, "fer.selection_sha256": whole.selection_sha256}
        run.describe(" · ".join(sizes), f"{settings.action} {whole.name}, {whole.selection_sha256[:12]}", {}, **tags)
    return TrackManifestResult(run_id=run.run_id, ui=run.ui, manifest=result, benchmark=whole)


def _written(
    settings: manifests.BuildManifestSettings | manifests.MergeManifestsSettings | manifests.SplitManifestSettings,
    frame: pd.DataFrame,
    sections: Sequence[Section],
) -> ManifestResult:
    """Write the manifest and the report, which says where the manifest is and how to read it."""
    out, root = settings.path, parse_root(settings.folder_of_paths)
    write_manifest(frame, out)
    lines = [f"manifest  {out.absolute()}, {len(frame):,} rows"]
    if absolute(root) != absolute(out.parent):
        lines.append(f"root      {absolute(root)}: give it as --root to every command that reads this manifest")
    report = (*sections, Section(lines=lines))
    _write_report(settings.report, report)
    return ManifestResult(out, root, frame, report)


def _write_report(path: str | None, sections: Sequence[Section]) -> None:
    if path:
        with written_file(path) as file:
            file.write(report_markdown(sections).encode())


def _count_table(header: Sequence[str], counts: pd.DataFrame | pd.Series) -> Table:
    """Return a count table: the texts of its index, `-` for an empty one, then its numbers."""
    table = counts.to_frame() if isinstance(counts, pd.Series) else counts
    rows: list[list[Cell]] = []
    for names, numbers in zip(table.index, table.to_numpy(), strict=True):
        texts = names if isinstance(names, tuple) else (names,)
        rows.append([*(str(text) or "-" for text in texts), *map(int, numbers)])
    return Table(header, rows)


def _built_section(settings: manifests.BuildManifestSettings, built: Built, classes: ClassOrder) -> Section:
    """Report how many images were expected, found and missing, and what was left out."""
    dataset, counts = settings.dataset, built.counts
    published: dict[tuple[str, str], int] = {}
    lines = []
    for split in counts.index.unique("split"):
        observed = counts.loc[split]["expected"].to_dict()
        support = compare_support(dataset, dataset, split, observed, classes) if dataset in CODES else None
        if support is not None:
            published |= {(split, label): support.published[label] for label in observed}
            if support.verdict != "equal":
                here, there = sum(observed.values()), sum(support.published.values())
                lines.append(
                    f"{split or 'in all'}: {here:,} labels, {dataset} published {there:,} ({support.subset}) "
                    "or others per class; are the label files complete?"
                )
    more = counts.assign(published=pd.Series(published)) if published else counts
    lines += [f"{count:,} left out: {reason}" for reason, count in built.skipped.items()]
    if built.unlisted:
        lines.append(f"{built.unlisted:,} files lie there that no label names")
    if built.missing:
        lines.append(f"missing, first tried: {', '.join(built.missing)}")
    lines += [f"similar files lie in {place}" for place in built.similar]
    title = f"{dataset} in {settings.folder}: {len(built.frame):,} of {counts['expected'].sum():,} images"
    return Section(title, lines, _count_table(["split", "class", *more.columns], more))


def _merged_sections(merged: Merged) -> list[Section]:
    """Report what was merged, which images were there twice, and leakage."""
    lines = [f"{name}: {rows:,} rows" for name, rows in merged.rows.items()]
    lines += [f"{name} has no row of {', '.join(labels)}, others have" for name, labels in merged.lacking.items()]
    lines.append(f"{len(merged.duplicates):,} rows left out, whose image is there already (same bytes)")
    sections = [Section("merged", lines)]
    leaked, plain = merged.leaked, merged.duplicates.drop(merged.leaked.index)
    if len(plain):
        sections.append(_pair_section("the same image again", plain, "input", ["kept", "left out", "images"]))
    if len(leaked):
        title = f"leakage: {len(leaked):,} images are in two splits"
        sections.append(_pair_section(title, leaked, "split", ["kept in", "left out of", "images"]))
    counts = pd.crosstab(merged.frame["source"], merged.frame["split"].replace("", "(no split)"))
    return [*sections, Section("rows", (), _count_table(["source", *counts.columns], counts))]


def _pair_section(title: str, duplicates: pd.DataFrame, column: str, header: list[str]) -> Section:
    """Report the first rows that were left out, and how many there are between each two inputs or splits."""
    rows = duplicates.head(_SHOWN).to_dict("records")
    lines = [f"{row['dropped']} of {row['dropped_input']} is {row['kept']} of {row['kept_input']}" for row in rows]
    lines += [f"and {len(duplicates) - _SHOWN:,} more"] if len(duplicates) > _SHOWN else []
    counts = duplicates.groupby([f"kept_{column}", f"dropped_{column}"], sort=False).size()
    return Section(title, lines, _count_table(header, counts))


def _check_sections(name: str, check: ManifestCheck) -> list[Section]:
    """Report the verdict, the findings (errors first), rows per class, and image sizes."""
    errors, warnings = check.count(ERROR), check.count(WARNING)
    verdict = "not to be trusted" if errors else "has warnings" if warnings else "clean"
    lines = [
        f"{len(check.benchmark):,} rows, digest {check.benchmark.selection_sha256[:32]}",
        f"{errors} errors, {warnings} warnings, {check.count(NOTE)} notes",
    ]
    if check.refused:
        lines.append(f"{check.refused:,} further rows are refused; what follows is about the others")
    sections = [Section(f"{name}: {verdict}", lines)]
    for finding in sorted(check.findings, key=lambda finding: (ERROR, WARNING, NOTE).index(finding.level)):
        examples = [f"  {line}" for line in finding.examples]
        sections.append(Section(f"{finding.level}: {finding.name}", [finding.text, *examples]))
    for each in check.supports:
        title = f"support: {each.source}{f', {each.split}' if each.split else ''}: {each.verdict}"
        rows: list[list[Cell]] = [[name, each.observed[name], each.published[name]] for name in each.observed]
        sections.append(Section(title, (), Table(["class", "rows", f"{each.dataset} {each.subset}"], rows)))
    columns = [split or "(no split)" for split in check.counts.columns]
    sections.append(Section("rows", (), _count_table(["source", "label", *columns], check.counts)))
    sides = check.scan.sides[check.scan.sides[:, 0] > 0]
    sizes = Counter(map(tuple, sides.tolist()))
    lines = [f"{width}x{height}: {count:,}" for (height, width), count in sizes.most_common(_SIZES_SHOWN)]
    if len(sizes) > _SIZES_SHOWN:
        small, large = sides.min(axis=0), sides.max(axis=0)
        lines.append(f"{len(sizes):,} sizes from {small[1]}x{small[0]} to {large[1]}x{large[0]}")
    return sections + ([Section("image sizes (width x height)", lines)] if lines else [])


def _relate(check: ManifestCheck, other: ManifestInput, classes: ClassOrder, progress: Progress) -> Relation:
    """Compare with another manifest, by content too where its images are there."""
    there = read_benchmark(other.path, classes, root=other.root, split=other.split, verify_paths=False)
    scan = scan_images(there.root, there.paths.tolist(), decode=False, progress=progress)
    if len(there) and len(scan.problems) == len(there):
        logger.warning(f"no image of {other.name} is under {there.root}; give --against-root")
        return relate(check.benchmark, there, None, None)
    return relate(check.benchmark, there, np.asarray(check.scan.sha256), scan.sha256)


def _relation_section(relation: Relation, other: str) -> Section:
    """Report how the manifest stands to the other one."""
    lines = [_VERDICTS[relation.verdict]]
    if relation.verdict not in ("same", "permuted"):
        lines.append(f"{relation.only_here:,} rows only here, {relation.only_there:,} only there")
    lines += [f"{rows:,} rows with the same path have another {name}" for name, rows in relation.changed.items()]
    lines += [f"  {line}" for line in relation.examples]
    table = Table()
    if relation.shared is not None:
        lines.append(
            f"by content: {relation.shared_images:,} of {relation.images_here:,} images here are among the "
            f"{relation.images_there:,} there"
        )
        if relation.other_labels:
            lines.append(f"{relation.other_labels:,} of them have another label there")
            lines += [f"  {line}" for line in relation.other_label_examples]
        if relation.shared_images:
            columns = [f"there {name or '(no split)'}" for name in relation.shared.columns]
            table = _count_table(["split here", *columns], relation.shared)
    return Section(f"against {other}", lines, table)
