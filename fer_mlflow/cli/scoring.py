"""The commands on soft labels, from export to triage, promote and lineage."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import zip_longest

import click

from fer_mlflow.cli.options import where_lines, workflow_command
from fer_mlflow.settings import scoring as settings
from fer_mlflow.tables import Part, Table, format_interval, format_p_value, one_line

_LEVEL = 0.05


@workflow_command("export", settings.ExportSettings)
def export(result) -> Iterator[str]:
    """Compute teachers' logits on a benchmark, fuse them, and log the soft labels as an MLflow run.

    Logits that were computed before on the same rows with the same preprocessing are reused.
    """
    yield f"{result.name}, {len(result.soft_labels):,} rows\n"
    if result.metrics:
        yield from _metrics_lines(result.metrics)
    else:
        yield "  no row has a label: soft labels are exported, metrics are left out"
    yield ""
    for name, run_id in result.teacher_runs.items():
        how = "computed, kept as" if name in result.computed else "reused from"
        yield f"  teacher  {name} {how} run {run_id}"
    yield from where_lines(result, bundle=result.location, copy=result.out)


def _metrics_lines(metrics: Mapping[str, float]) -> Iterator[str]:
    """Yield metrics in lines of two columns: scores on the left, F1 of each class on the right."""
    left = [(name, value) for name, value in metrics.items() if not name.startswith("f1/")]
    right = [(name, value) for name, value in metrics.items() if name.startswith("f1/")]
    width = max(map(len, metrics))
    for pair in zip_longest(left, right, fillvalue=("", 0.0)):
        yield ("  " + "    ".join(f"{name:<{width}} {value:7.4f}" for name, value in pair if name)).rstrip()


@workflow_command("evaluate", settings.EvaluateSettings, has_rows=True)
def evaluate(result) -> Iterator[Part]:
    """Score soft labels against their labels: metrics with 95 % intervals, slices, figures, and the worst rows."""
    from fer_mlflow.scoring.metrics import metric_names

    evaluation, values = result.evaluation, result.evaluation.named()
    at = f", T = {result.temperature:g}" if result.temperature != 1 else ""
    yield f"{result.name}, {len(evaluation.predictions):,} labelled rows{at}\n"
    notes = {name: format_interval(interval) for name, interval in evaluation.intervals.items()}
    notes["ece"] = f"a calibrated model stays below {evaluation.ece_null_p95:.4f} in 95 of 100 benchmarks"
    names = [name for name in values if not name.startswith(("ci95/", "ece_null"))]
    names.sort(key=lambda name: name.startswith("f1/"))
    yield Table(rows=[[name, values[name], notes.get(name, "")] for name in names], widths=[0, 7])
    if absent := [name for name in result.soft_labels.classes if f"f1/{name}" not in values]:
        yield f"  no labelled row of {', '.join(absent)}: not in macro_f1"
    shown = metric_names(having=lambda metric: "slices" in metric.shown)
    for column, parts in result.slices.items():
        rows = [
            [value or "(empty)", int(each["rows"]), *(each[name] for name in shown)] for value, each in parts.items()
        ]
        if rows:
            yield ""
            yield Table([column, "rows", *shown], rows, widths=[0, 7, *(8 for _ in shown)], optional=shown[:0:-1])
    yield ""
    yield from where_lines(result, figures=", ".join(result.figures), rows=result.predictions_location)


@workflow_command("calibrate", settings.CalibrateSettings)
def calibrate(result) -> Iterator[Part]:
    """Fit a temperature by maximum likelihood, and measure what it changes on rows that it was not fitted on."""
    from fer_mlflow.scoring.metrics import CALIBRATION_METRICS, metric_names

    calibration, fit, described = result.calibration, result.calibration.fit, result.calibration.fitted
    yield f"{result.name}, {len(calibration.before.predictions):,} labelled rows"
    yield f"{result.method}, {calibration.protocol}\n"
    yield f"  status  {fit.status}: {fit.explanation}"
    if calibration.fitted_on["classes"] == 1:
        yield "          all rows have one label, so this fits the confidence in that class alone"
    if "temperature" in described:
        error = f" ± {described['temperature_se']:.4f} (standard error)" if "temperature_se" in described else ""
        yield f"  T       {described['temperature']:.4f}{error}"
    for name, values in described.items():
        if isinstance(values, dict):
            yield f"  {name.replace('_', ' '):<7} " + ", ".join(f"{part} {v:.4f}" for part, v in values.items())
    losses = metric_names(having=lambda metric: metric.direction == "lower")
    compared = [*losses, *CALIBRATION_METRICS, *metric_names(having=lambda metric: metric.from_counts)]
    scores = [each.named() for each in (calibration.before, calibration.after) if each is not None]
    rows = [[name, *(each[name] for each in scores)] for name in compared]
    yield ""
    yield Table(["", "before", "after"][: len(scores) + 1], rows, widths=[0, 7, 8])
    for column, slices in calibration.by_slice.items():
        yield ""
        yield _temperature_table(column, slices)
    yield ""
    yield from where_lines(result, export=result.exported_run)


def _temperature_table(column: str, slices: Mapping) -> Table:
    """Return each slice's own temperature, and its scores before and after the common calibration."""
    from fer_mlflow.calibration import OK

    names = [name for name in next(iter(slices.values()))[1] if name != "rows"]
    rows = []
    for value, (fit, numbers) in slices.items():
        found = [f"{fit.temperature:.4f}", f"± {fit.standard_error:.4f}"] if fit.status == OK else [fit.status, ""]
        rows.append([value or "(empty)", int(numbers["rows"]), *found, *(numbers[name] for name in names)])
    header, widths = [column, "rows", "T", "", *names], [0, 7, 8, 8, *(10 for _ in names)]
    optional = [name for name in names if name.endswith("/ece")]
    return Table(header, rows, "lrrl" + "r" * len(names), widths=widths, optional=optional)


@workflow_command("inspect", settings.InspectSettings)
def inspect(result) -> Iterator[Part]:
    """Show how peaked softmax(z / T) is over temperatures, and which of them suit distillation."""
    from fer_mlflow.workflows.evaluate import STATISTICS

    soft_labels, sharpness = result.soft_labels, result.sharpness
    yield f"{result.name}, {len(soft_labels):,} rows: top probability of softmax(z / T)\n"
    columns = zip(sharpness.temperatures, *(getattr(sharpness, name) for name in STATISTICS), strict=True)
    rows = [[f"{at:g}", *values, f"{sure:.2%}"] for at, *values, sure in columns]
    header = ["T", "mean", "median", "p90", "p99", "entropy", "above 0.99"]
    yield Table(header, rows, align="lrrrrrr", widths=[6])
    temperatures = [f"T {at:<4g}" for at in sharpness.temperatures]
    classes = zip(soft_labels.classes, sharpness.rows_by_class, sharpness.mean_by_class.T, strict=True)
    rows = [[name, count, *means] for name, count, means in classes]
    yield ""
    yield Table(["predicted", "rows", *temperatures], rows, widths=[0, 7], optional=temperatures[:0:-1])
    low, high = result.band
    yield f"\n  rule: a mean top probability from {low:g} to {high:g}; above it targets are nearly"
    yield "        one-hot, below it nearly uniform, and a student learns little from either"
    if result.recommended is None:
        yield "  no temperature gives that: the logits are constant or tied"
    else:
        yield f"  recommended  T from {result.recommended[0]:.2f} to {result.recommended[1]:.2f}"
    calibration = soft_labels.report.get("calibration", {})
    if "temperature" in calibration:
        yield f"  the logits are calibrated with T = {calibration['temperature']:.4g}, which is in them already"
    yield ""
    yield from where_lines(result)


@workflow_command("compare", settings.CompareSettings, has_rows=True)
def compare(result) -> Iterator[Part]:
    """Set two runs' soft labels side by side: first how they were made, then, where that allows it, their scores.

    RUN_A and RUN_B are export or teacher runs, by their id or its first digits, or folders of bundles. The exit
    status is 3 where they cannot be compared.
    """
    for side, source in (("A", result.a), ("B", result.b)):
        yield f"{side}  {source.name}  ({source.run_id or source.bundle.folder})"
    yield ""
    for label, text in result.protocols[0].items():
        other = result.protocols[1][label]
        yield f"  {'≠' if text != other else ' '} {label:<24}{text}"
        if text != other:
            yield f"    {'':<24}{other}"
    yield f"\n{result.verdict}"
    if result.comparison is not None:
        yield from _difference_lines(result.table)
        counts = result.counts
        neither = counts["changed"] - counts["only_b_right"] - counts["only_a_right"]
        yield (
            f"  {counts['changed']:,} of {counts['rows']:,} rows have another prediction: only B is right on "
            f"{counts['only_b_right']:,}, only A on {counts['only_a_right']:,}, neither on {neither:,}"
        )
    yield ""
    yield from where_lines(result, rows=result.comparison is not None and result.changed_rows_location)
    if result.comparison is None:
        raise click.exceptions.Exit(3)


def _difference_lines(table) -> Iterator[Part]:
    """Yield each metric's difference with its interval and p-value."""
    from fer_mlflow.scoring.metrics import metric_names

    rows = []
    for row in table.itertuples():
        interval = "none" if row.low != row.low else format_interval(row, "+")
        p_value = f"{format_p_value(row.p_value):>7}" + " *" * (row.p_value < _LEVEL)
        rows.append([row.metric, row.a, row.b, f"{row.difference:+.4f}", interval, p_value])
    yield ""
    header = ["", "A", "B", "B - A", "95 % interval", "   p"]
    yield Table(header, rows, align="lrrrll", widths=[0, 6, 6, 7, 20])
    yield "\n  * p below 0.05, every metric on its own: where nothing differs, four in ten tables like this show a star"
    headline = metric_names(having=lambda metric: metric.from_counts and "slices" in metric.shown)
    if not (table[table["metric"].isin(headline)]["p_value"] < _LEVEL).any():
        yield f"  neither {' nor '.join(headline)} differs significantly between A and B on these rows"


@workflow_command("fetch", settings.FetchSettings)
def fetch(result) -> Iterator[str]:
    """Download a run's soft labels, verify all of them, and print the folder, ready for SoftLabels.open.

    With --manifest, prove row by row that they are aligned to it. A folder that has them already is verified again.
    """
    bundle, source = result.soft_labels, result.source_sha256
    yield f"{bundle.name}, {len(bundle):,} rows\n"
    if result.chosen:
        yield f"  chosen    {result.chosen}"
    yield f"  run       {result.source_run}"
    is_original = bundle.sha256 == source
    what = ", and the run is tagged with it" if is_original else f"; rewritten from the run's {source[:12]}…"
    yield f"  bundle    {bundle.sha256[:12]}…: every file has its hash{what}"
    for name, text in result.proofs.items():
        yield f"  {name:<8}  {text}"
    yield f"  folder    {result.how}\n"
    yield str(bundle.folder)


@workflow_command("verify", settings.VerifySettings)
def verify(result) -> Iterator[Part]:
    """Check all of a run's soft labels, or a folder's, and print every check with its verdict.

    With --manifest, the rows too; with --recompute N and --teachers, the logits of N random rows are computed again.
    The exit status is 1 where a check fails.
    """
    counts, checks = result.counts, result.checks
    yield result.source
    if result.name:
        yield f"{result.name}, {result.rows:,} rows"
    yield ""
    words = {"fail": "FAIL"}
    rows = [[words.get(check.verdict, check.verdict), check.name, " ".join(check.detail.split())] for check in checks]
    yield Table(rows=rows)
    others = "".join(f", {counts[word]} {word}" for word in ("warn", "skip") if counts[word])
    verdict = f"does not verify: {counts['fail']} of {len(checks)} checks fail" if counts["fail"] else "verifies"
    yield f"\n{verdict} ({counts['pass']} pass{others})"
    if counts["fail"]:
        raise click.exceptions.Exit(1)


@workflow_command("promote", settings.PromoteSettings)
def promote(result) -> Iterator[Part]:
    """Register what a run made as a model's version, and give it an alias where it beats the version that has it.

    RUN is a distill, train or export run, or one with a student's or a teacher's logits. The exit status is 1 where it
    is not promoted.
    """
    yield f"{result.name} version {result.version} is {result.alias} {'now' if result.moved else 'already'}"
    yield f"  {result.why}\n"
    yield from where_lines(result, made=result.source_run, model=f"models:/{result.name}@{result.alias}")


@workflow_command("lineage", settings.LineageSettings)
def lineage(result) -> Iterator[Part]:
    """Print what a run was made from, down to checkpoints and manifests, and what to redo where one has changed.

    RUN is a student, an export, an evaluation, or any other run. Files that are still where the run read them are
    hashed: each is the same, changed, or not here.
    """
    yield from _tree_lines(result.tree)
    if not result.redo:
        yield "\nnothing to redo: no file that is here has changed"
        return
    yield "\nredo, in this order:"
    yield Table(rows=[[each.command, each.text] for each in result.redo])


def _tree_lines(node, first: str = "", others: str = "") -> Iterator[str]:
    """Yield a line for a node and each one below it."""
    yield first + one_line(node.text)
    for at, each in enumerate(node.sources, start=1):
        is_last = at == len(node.sources)
        yield from _tree_lines(each, others + ("└ " if is_last else "├ "), others + ("  " if is_last else "│ "))


@workflow_command("triage", settings.TriageSettings, has_rows=True)
def triage(result) -> Iterator[Part]:
    """Judge every run on the tracking server, tag it, and rank the good ones benchmark by benchmark.

    Nothing is moved or deleted, and every tag can be removed again.
    """
    if result.action == "clear":
        done = "would remove" if result.dry_run else "removed"
        yield f"{done} triage's tags from {len(result.changes):,} of {len(result.runs):,} runs"
        return
    if result.action != "judge":
        (run_id,), status = result.changes, "bad" if result.action == "bad" else "good"
        if result.replaced:
            yield one_line(f"run {run_id}: {result.replaced}, now {status}")
        kept = f"run {run_id} is {status} from now on; `triage --clear {run_id[:8]}` takes it back"
        yield f"would tag run {run_id}: {status}" if result.dry_run else kept
        return
    for run_id, status in result.ended.items():
        done = "would end" if result.dry_run else "ended"
        yield one_line(f"{done} dead run {run_id} ({result.runs[run_id].name}) as {status}")
    if result.dry_run:
        for run_id, tags in result.changes.items():
            own = ((name.partition(".")[2], text) for name, text in tags.items() if name.startswith("triage."))
            texts = (f"{name} {text or 'removed'}" for name, text in own)
            yield one_line(f"would tag {run_id[:8]} {result.runs[run_id].name}: {', '.join(texts)}")
    yield from leaderboard_lines(result)
    yield from _judgement_lines(result)


def leaderboard_lines(result) -> Iterator[Part]:
    """Yield the leaderboards with the runs that are not on them, and the table across benchmarks where there is one."""
    from fer_mlflow.workflows import leaderboards

    left_out = result.left_out_lines
    for board in leaderboards.boards_of(result.leaderboard):
        yield f"leaderboard of {board['benchmark'].iloc[0]} · {leaderboards.board_title(board)}\n"
        yield leaderboards.board_table(board, result.metric, result.classes)
        if more := board["runs"].iloc[0] - len(board):
            yield f"  … and {more:,} more"
        if board["level"].any():
            yield f"  {leaderboards.LEGEND}"
        yield from (f"  {one_line(line)}" for line in left_out.pop(board[leaderboards.BOARD].iloc[0], ()))
        yield ""
    for selection, lines in left_out.items():
        benchmark = result.runs[result.left_out[selection][0]].benchmark
        yield one_line(f"leaderboard of {benchmark} · {selection[:12]}: no good run")
        yield from (f"  {one_line(line)}" for line in lines)
        yield ""
    if result.across is not None and len(result.across):
        yield f"configurations across {result.across['rank'].shape[1]} benchmarks, {result.metric} (rank)\n"
        yield leaderboards.across_table(result.across)
        yield f"  {leaderboards.recommendation(result.across)}"
        if result.in_sample:
            yield f"  left out, since teachers were trained on these rows: {', '.join(result.in_sample)}"
        yield ""


def _judgement_lines(result) -> Iterator[str]:
    """Yield how many runs have each status, the reasons for bad ones and doubts, and what was done."""
    from fer_mlflow.tracking.store import BAD, STATUSES, WARN
    from fer_mlflow.tracking.triage import RULES

    judgements, explained = list(result.judgements.values()), {rule.name: rule.explanation for rule in RULES}
    counts = Counter(each.status for each in judgements)
    yield f"{len(judgements):,} runs: " + ", ".join(f"{counts[status]:,} {status}" for status in STATUSES)
    doubted = [each for each in judgements if each.status in (BAD, WARN) and not each.by_person]
    reasons = Counter(reason.partition(": ")[0] for each in doubted for reason in each.reasons)
    for name, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        yield f"  {count:5,}  {name}: {explained.get(name, '')}"
    if by_person := sum(each.by_person for each in judgements):
        yield f"  {by_person:5,}  set by a person"
    yield f"tags {'to change' if result.dry_run else 'changed'} on {len(result.changes):,} runs"
    if result.ui:
        yield f"ui  {result.ui}"
