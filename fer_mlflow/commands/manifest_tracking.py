"""What `manifest track` does: build or merge, logged as a run that later runs link to by their benchmark."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fer_mlflow.commands.manifesting import build_manifest, merge_manifests, read_classes, write_report
from fer_mlflow.data.classes import ClassOrder
from fer_mlflow.data.manifest import Benchmark, read_benchmark
from fer_mlflow.datasets import DATASETS
from fer_mlflow.errors import ContractError
from fer_mlflow.tracking.runs import TrackedRun, metric_key, open_run
from fer_mlflow.tracking.store import describe_way_to_ui

_NEEDED = {"build": ("dataset", "folder"), "merge": ("inputs",)}
_ONLY = {"build": ("dataset", "folder", "images"), "merge": ("inputs", "from_root")}


def track(options: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """Run the command with its parsed options; `typed` is what is logged of them."""
    action = options["action"]
    _check_options(options, action)
    with open_run(
        "manifest", options["name"] or f"{action} {Path(options['out']).stem}", options["experiment"] or ""
    ) as run:
        run.log_params(typed)
        if action == "build":
            blocks = build_manifest(options)
        else:
            blocks = merge_manifests({**options, "inputs": (options["inputs"],)})
        whole = _log_benchmarks(run, options)
        out = Path(options["out"])
        run.log_file(out)
        with tempfile.TemporaryDirectory(prefix="fer-mlflow.") as folder:
            report = Path(folder) / "report.md"
            write_report(report, blocks)
            run.log_file(report)
        run.set_tags({"fer.benchmark": whole.name, "fer.selection_sha256": whole.selection_sha256})
    click.echo(f"\nrun       {run.run_id}\nlook      {describe_way_to_ui(run.experiment_id, run.run_id)}")


def _check_options(options: Mapping[str, Any], action: str) -> None:
    """Refuse options that the action lacks, or has no use for."""
    lacking = [f"--{name}" for name in _NEEDED[action] if not options[name]]
    if lacking:
        raise ContractError(f"--action {action} needs {' and '.join(lacking)}")
    other = "merge" if action == "build" else "build"
    useless = [f"--{name.replace('_', '-')}" for name in _ONLY[other] if options[name]]
    if useless:
        raise ContractError(f"--action {action} has no use for {' and '.join(useless)}; that is for {other}")
    if action == "build" and options["dataset"] not in DATASETS:
        raise ContractError(f'--dataset: "{options["dataset"]}" is not one of {", ".join(DATASETS)}')


def _log_benchmarks(run: TrackedRun, options: Mapping[str, Any]) -> Benchmark:
    """Log the manifest and each of its splits as datasets, under the names and digests that later runs have them."""
    out, root, classes = options["out"], options["root"], read_classes(options)
    whole = _log_benchmark(run, out, root, classes, None)
    splits = [split for split in whole.frame["split"].unique() if split]
    for split in splits:
        _log_benchmark(run, out, root, classes, split)
    rows = whole.frame.groupby(["split", "label"]).size()
    run.log_metrics(
        {"rows": len(whole)}
        | {metric_key("rows", split): int((whole.frame["split"] == split).sum()) for split in splits}
        | {
            metric_key("rows", split or "all", label or "unlabelled"): int(count)
            for (split, label), count in rows.items()
        }
    )
    run.log_params({"benchmark": whole.name, "rows": len(whole)})
    return whole


def _log_benchmark(run: TrackedRun, out: str, root: str | None, classes: ClassOrder, split: str | None) -> Benchmark:
    part = read_benchmark(out, classes, root=root, split=split, verify_paths=False)
    run.log_benchmark(part.name, part.selection_sha256, part.manifest_sha256, len(part), "manifest")
    return part
