"""What `manifest build`, `merge` and `split` do, apart from their options."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.columns import write_manifest
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.merge import Input, Merged, merge, parse_input
from fer_mlflow.data.paths import rebase_paths
from fer_mlflow.data.published import CODES, compare_support
from fer_mlflow.data.split import parse_shares, split_rows
from fer_mlflow.datasets.build import Built, build
from fer_mlflow.errors import ContractError
from fer_mlflow.files import written_file
from fer_mlflow.progress import show_progress
from fer_mlflow.tables import Cell, Section, Table, report_markdown, report_text

_SHOWN = 10


def build_manifest(options: Mapping[str, Any]) -> list[Section]:
    """Run `build` with its parsed options; return what was printed."""
    out, root = _places(options)
    classes = read_classes(options)
    images = Path(options["images"]) if options["images"] else out.with_name(f"{out.stem}_images")
    built = build(
        options["dataset"],
        options["folder"],
        classes,
        images,
        root=root,
        source=options["source"],
        min_agreement=options["min_agreement"],
        allow_missing=options["allow_missing"],
        progress=show_progress,
    )
    write_manifest(built.frame, out)
    return _report(options, [*_describe_built(options, built, classes), _written(out, root, len(built.frame))])


def merge_manifests(options: Mapping[str, Any]) -> list[Section]:
    """Run `merge` with its parsed options; return what was printed."""
    out, root = _places(options)
    inputs = _read_inputs(options)
    classes = ClassOrder.read(options["classes"]) if options["classes"] else None
    merged = merge(inputs, root, classes, progress=show_progress)
    write_manifest(merged.frame, out)
    return _report(options, [*_describe_merged(merged), _written(out, root, len(merged.frame))])


def split_manifest(options: Mapping[str, Any]) -> list[Section]:
    """Run `split` with its parsed options; return what was printed."""
    out, root = _places(options)
    shares = parse_shares(options["splits"])
    given, split, group = options["manifest"], options["split"], options["group"]
    benchmark = read_benchmark(given, read_classes(options), root=options["from_root"])
    frame = benchmark.frame.assign(path=rebase_paths(root, benchmark.root, benchmark.paths))
    chosen = frame["split"] == split if split else pd.Series(True, frame.index)
    if not chosen.any():
        found = ", ".join(sorted(name or "(empty)" for name in frame["split"].unique()))
        raise ContractError(f'{given}: no row has split "{split}"; its splits are {found}')
    # By the paths in the manifest that is read: where the new one lies must not change who is drawn.
    frame.loc[chosen, "split"] = split_rows(benchmark.frame[chosen], shares, options["seed"] or 0, group)
    write_manifest(frame, out)
    counts = pd.crosstab(frame["label"], frame["split"])
    counts = counts[[name for name in shares if name in counts] + [n for n in counts if n not in shares]]
    lines = [f"by label and source, seed {options['seed'] or 0}"]
    if group:
        values = frame.loc[chosen, group].str.strip()
        lines.append(f"{values[values != ''].nunique():,} values of {group}, each in one split")
        if empty := int((values == "").sum()):
            lines.append(f"{empty:,} rows have no {group}: each counts as one of its own")
    block = Section(f"{given}: {len(frame):,} rows", lines, Table(["label", *counts.columns], table_rows(counts)))
    return _report(options, [block, _written(out, root, len(frame))])


def read_classes(options: Mapping[str, Any]) -> ClassOrder:
    """Return the class order that is asked for."""
    return ClassOrder.read(options["classes"]) if options["classes"] else FER7


def _places(options: Mapping[str, Any]) -> tuple[Path, Path]:
    """Return the manifest to write, and the folder that its paths start from."""
    out = Path(options["out"])
    return out, Path(options["root"]) if options["root"] else out.parent


def _read_inputs(options: Mapping[str, Any]) -> list[Input]:
    """Return what is to be merged, with roots and sources given once for all or one for each."""
    texts = [part for word in options["inputs"] for part in ([word] if Path(word).exists() else word.split(","))]
    given = {}
    for name in ("from_root", "source"):
        values = (options[name] or "").split(",")
        if len(values) not in (1, len(texts)):
            raise ContractError(
                f"--{name.replace('_', '-')}: found {len(values)} for {len(texts)} inputs; give one, or one for each"
            )
        given[name] = values * len(texts) if len(values) == 1 else values
    return [
        parse_input(text.strip(), Path(root) if root else None, source or None)
        for text, root, source in zip(texts, given["from_root"], given["source"], strict=True)
    ]


def _report(options: Mapping[str, Any], blocks: list[Section]) -> list[Section]:
    """Print blocks, and write them where that is asked for."""
    click.echo(report_text(blocks))
    if options.get("report"):
        write_report(options["report"], blocks)
    return blocks


def write_report(path: str | Path, sections: Sequence[Section]) -> None:
    """Write sections as a Markdown file."""
    with written_file(path) as file:
        file.write(report_markdown(sections).encode())


def table_rows(counts: pd.DataFrame | pd.Series) -> list[list[Cell]]:
    """Return a count table's rows: the texts of its index, `-` for an empty one, then its numbers."""
    table = counts.to_frame() if isinstance(counts, pd.Series) else counts
    rows: list[list[Cell]] = []
    for names, numbers in zip(table.index, table.to_numpy(), strict=True):
        texts = names if isinstance(names, tuple) else (names,)
        rows.append([*(str(text) or "-" for text in texts), *map(int, numbers)])
    return rows


def _written(out: Path, root: Path, rows: int) -> Section:
    """Tell where the manifest is, and how to read it."""
    lines = [f"manifest  {out.absolute()}, {rows:,} rows"]
    if root.absolute() != out.absolute().parent:
        lines.append(f"root      {root.absolute()}: give it as --root to every command that reads this manifest")
    return Section(lines=lines)


def _describe_built(options: Mapping[str, Any], built: Built, classes: ClassOrder) -> list[Section]:
    """Say how many images were expected, found and missed, and what was left out."""
    dataset, counts = options["dataset"], built.counts
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
    rows = []
    for (split, label), row in counts.iterrows():
        cells: list[Cell] = [split, label, int(row["expected"]), int(row["found"]), int(row["missing"])]
        rows.append([*cells, published[split, label]] if published else cells)
    header = ["split", "class", "expected", "found", "missing", *(["published"] if published else [])]
    lines += [f"{count:,} left out: {reason}" for reason, count in built.skipped.items()]
    if built.unlisted:
        lines.append(f"{built.unlisted:,} files lie there that no label names")
    if built.missing:
        lines.append(f"missing, first tried: {', '.join(built.missing)}")
    lines += [f"similar files lie in {place}" for place in built.similar]
    found, expected = len(built.frame), int(counts["expected"].sum())
    title = f"{dataset} in {options['folder']}: {found:,} of {expected:,} images"
    return [Section(title, lines, Table(header, rows))]


def _describe_merged(merged: Merged) -> list[Section]:
    """Say what was joined, which images were there twice, and what leaks."""
    lines = [f"{name}: {rows:,} rows" for name, rows in merged.rows.items()]
    lines += [f"{name} has no row of {', '.join(labels)}, others have" for name, labels in merged.lacking.items()]
    repeated, leaked = merged.duplicates, merged.leaked
    lines.append(f"{len(repeated):,} rows left out, whose image is there already (same bytes)")
    blocks = [Section("merged", lines)]
    plain = repeated.drop(leaked.index)
    if len(plain):
        pairs = plain.groupby(["kept_input", "dropped_input"], sort=False).size()
        blocks.append(
            Section(
                "the same image again", _pair_lines(plain), Table(["kept", "left out", "images"], table_rows(pairs))
            )
        )
    if len(leaked):
        pairs = leaked.groupby(["kept_split", "dropped_split"], sort=False).size()
        title = f"leakage: {len(leaked):,} images are in two splits"
        blocks.append(
            Section(title, _pair_lines(leaked), Table(["kept in", "left out of", "images"], table_rows(pairs)))
        )
    counts = pd.crosstab(merged.frame["source"], merged.frame["split"].replace("", "(no split)"))
    blocks.append(Section("rows", (), Table(["source", *counts.columns], table_rows(counts))))
    return blocks


def _pair_lines(repeated: pd.DataFrame) -> list[str]:
    shown: Sequence[dict] = repeated.head(_SHOWN).to_dict("records")
    lines = [f"{row['dropped']} of {row['dropped_input']} is {row['kept']} of {row['kept_input']}" for row in shown]
    return lines + ([f"and {len(repeated) - _SHOWN:,} more"] if len(repeated) > _SHOWN else [])
