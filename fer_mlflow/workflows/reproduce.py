"""`reproduce`: which configurations, rows and temperatures give the numbers of an old table."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from fer_mlflow.errors import ContractError
from fer_mlflow.progress import Progress, no_progress
from fer_mlflow.scoring.metrics import metric_names
from fer_mlflow.search import reproduction
from fer_mlflow.search.choices import equal_weights
from fer_mlflow.settings.search import ReproduceSettings
from fer_mlflow.tables import Section, Table, report_markdown
from fer_mlflow.tracking.runs import open_run
from fer_mlflow.workflows import RunResult, workflow
from fer_mlflow.workflows.configurations import Configurations, read_weightings
from fer_mlflow.workflows.sources import Benchmarks, SearchInput

_PROTOCOL = ("selection", "labelled rows", "clahe", "decoding", "image size", "precision", "ECE")


@dataclass(frozen=True, kw_only=True, repr=False)
class ReproduceResult(RunResult):
    """What the search found.

    Attributes
    ----------
    target : the numbers that were looked for
    search : matches, the nearest candidate, and what single changes bring
    configurations : what candidates refer to by number
    report : the sections of the report
    table : one row for each match, or the nearest candidate where there is none
    table_location : where the table is
    """

    target: reproduction.Target
    search: reproduction.Reproduction
    configurations: Configurations
    report: tuple[Section, ...]
    table: pd.DataFrame
    table_location: str


@workflow(ReproduceSettings)
def reproduce(settings: ReproduceSettings, progress: Progress = no_progress) -> ReproduceResult:
    """Search benchmarks, subsets of them, preprocessing, spaces, weights and temperatures for published numbers.

    Raises FerError: the settings name no number, or nothing that can be searched.
    """
    found = SearchInput.read(settings)
    target = _target(settings, found.classes)
    weightings = read_weightings(settings, found.teachers, found.variants)
    numbers = ", ".join(f"{name} {value:g}" for name, value in target.values.items())
    with open_run("reproduce", settings.name or f"reproduce · {numbers}", settings.experiment) as run:
        run.log(settings.params)
        benchmarks = found.gather(run, settings, progress)
        variants = list(dict.fromkeys(name for sets in benchmarks.values() for name in sets))
        configurations = Configurations.product(found.teachers, variants, settings.space, weightings)
        search = _search(target, found.classes, benchmarks, configurations, progress)
        report = tuple(_report(search, benchmarks, configurations, settings.show))
        table = _table(search, configurations)
        run.log_text("reproduction.md", report_markdown(report))
        run.log_table("matches", table, csv=True)
        run.log(metrics={"matches": float(len(search.matches)), "nearest_distance": search.nearest.distance})
        nearest, sets = search.nearest, [each for own in benchmarks.values() for each in own.values()]
        what = f"{configurations.describe(nearest.configuration)} on {nearest.benchmark}, {nearest.subset}"
        verdict = f"**{len(search.matches):,}** candidates give these numbers; the nearest: {what}"
        links = {f"{name} on {each.benchmark}": run_id for each in sets for name, run_id in each.run_ids.items()}
        about = f"{numbers} · {len(configurations):,} configurations on {', '.join(benchmarks)}"
        run.describe(f"{verdict}, {nearest.distance:.3f} tolerances away", about, links)
    return ReproduceResult(
        run_id=run.run_id,
        ui=run.ui,
        target=target,
        search=search,
        configurations=configurations,
        report=report,
        table=table,
        table_location=run.artifact_location("tables/matches.csv"),
    )


def _target(settings: ReproduceSettings, classes: tuple[str, ...]) -> reproduction.Target:
    """Return the numbers to reproduce; refuse an unknown class."""
    values = settings.target_values(metric_names(having=lambda metric: metric.direction))
    for name in settings.f1 or {}:
        if name not in classes:
            raise ContractError(f"--f1: no class {name}; there are {', '.join(classes)}")
    return reproduction.Target(values, settings.tolerance, settings.temperature, settings.rows)


def _search(
    target: reproduction.Target,
    classes: tuple[str, ...],
    benchmarks: Benchmarks,
    configurations: Configurations,
    progress: Progress,
) -> reproduction.Reproduction:
    """Count every configuration on the subsets of every benchmark, and search."""
    searched = {}
    for benchmark, sets in benchmarks.items():
        if missing := set(configurations.variants) - set(sets):
            lacking = ", ".join(name or "no CLAHE" for name in missing)
            raise ContractError(f"{benchmark}: there are no logits with {lacking}, as there are elsewhere; see --clahe")
        first = next(iter(sets.values()))
        index = first.bundle.index[first.bundle.labelled]
        subsets, groups = reproduction.find_subsets(index["split"].to_numpy(object), index["source"].to_numpy(object))
        variants = {name: each.labelled_logits(groups) for name, each in sets.items()}
        counts = configurations.count(variants, benchmark, progress, target.temperature or 1.0)
        fused = partial(configurations.fused, variants)
        searched[benchmark] = reproduction.BenchmarkCounts(counts, subsets, first.labels, groups, fused)
    reference, related = _related(configurations)
    fitting = partial(progress, "fitting temperatures")
    return reproduction.search_candidates(target, searched, classes, reference, related, fitting)


def _related(configurations: Configurations) -> tuple[int, dict[str, np.ndarray]]:
    """Return the reference configuration, nearest to equal weights, and those that differ from it in one thing."""
    variants, spaces, weights = configurations.variants, configurations.spaces, configurations.weights
    same_arm = (variants == variants[0]) & (spaces == spaces[0])
    far = np.abs(weights - equal_weights(weights.shape[1])).max(axis=1)
    reference = int(np.where(same_arm, far, np.inf).argmin())
    same_weights = (weights == weights[reference]).all(axis=1)
    same_variant, same_space = variants == variants[reference], spaces == spaces[reference]
    related = {
        "weights": np.flatnonzero(same_arm & ~same_weights),
        "space": np.flatnonzero(same_weights & same_variant & ~same_space),
        "CLAHE": np.flatnonzero(same_weights & same_space & ~same_variant),
    }
    return reference, {what: places for what, places in related.items() if len(places)}


def _table(search: reproduction.Reproduction, configurations: Configurations) -> pd.DataFrame:
    """Return one row for each match, or the nearest where there is none."""
    found = search.matches or [search.nearest]
    columns = ("distance", "is_match", "benchmark", "subset", "rows")
    rows = pd.DataFrame([[getattr(each, name) for name in columns] for each in found], columns=columns)
    own = configurations.table({}).iloc[[each.configuration for each in found]].reset_index(drop=True)
    scores = pd.DataFrame([{"temperature": each.temperature, **each.scores} for each in found])
    return pd.concat([rows, own, scores], axis="columns")


def _report(
    result: reproduction.Reproduction, benchmarks: Benchmarks, configurations: Configurations, shown: int
) -> list[Section]:
    """Return the report: the matches and their protocol, what they leave open, or how near the nearest comes."""
    target = result.target
    numbers = ", ".join(f"{name} {value:g}" for name, value in target.values.items())
    known = [f"T = {target.temperature:g}"] if target.temperature else []
    known += [f"{target.rows:,} rows"] if target.rows else []
    teachers = ", ".join(configurations.teachers)
    searched = [f"{len(configurations):,} configurations of {teachers} on subsets of {', '.join(benchmarks)}"]
    sought, candidates = result.sought
    if sought < candidates:
        searched.append(f"temperatures were fitted for the nearest {sought:,} of {candidates:,} candidates")
    sections = [Section(f"target: {', '.join([numbers, *known])}, each within {target.tolerance:g}", searched)]
    if unreachable := _out_of_reach(result):
        sections.append(Section("out of reach, whatever the configuration", unreachable))
    if result.matches:
        title = f"{len(result.matches):,} candidate{'s give' if len(result.matches) > 1 else ' gives'} these numbers"
        more = [f"the nearest {shown}; the table has all"] if len(result.matches) > shown else []
        sections.append(_candidates(title, result.matches[:shown], configurations, more))
        sections.append(Section("what the target leaves open", _open_questions(result, configurations)))
        return [*sections, _protocols(result.matches[:shown], benchmarks, configurations)]
    title = "no candidate gives these numbers; the nearest"
    sections.append(_candidates(title, [result.nearest], configurations))
    sections.append(_protocols([result.nearest], benchmarks, configurations))
    if result.reference is not None:
        lines = []
        for what, each in {"reference": result.reference, **result.changes}.items():
            at = f", T = {each.temperature:.4g}" if each.temperature != 1 else ""
            words = f"{configurations.describe(each.configuration)} on {each.benchmark}, {each.subset}{at}"
            lines.append(f"{what:<12} distance {each.distance:.2f}   {words}")
        closest = next(iter(result.changes), None)
        if closest is not None and result.changes[closest].distance < result.reference.distance:
            lines.append(f"changing the {closest} moved closest")
        else:
            lines.append("no single change moved closer")
        title = "one change at a time, from equal weights on all rows (a distance of 1 is the tolerance)"
        sections.append(Section(title, lines))
    return sections


def _out_of_reach(result: reproduction.Reproduction) -> list[str]:
    """Return the numbers that no candidate gives, even alone."""
    lines, target = [], result.target
    for name, value in target.values.items():
        low, high = result.reachable[name]
        at_any_temperature = target.seeks_temperature and name in reproduction.WITH_TEMPERATURE
        if not at_any_temperature and not low - target.tolerance <= value <= high + target.tolerance:
            lines.append(f"{name} {value:g}: all candidates are from {low:.4f} to {high:.4f}")
    return lines


def _candidates(
    title: str, found: list[reproduction.Candidate], configurations: Configurations, more: Sequence[str] = ()
) -> Section:
    """Return the table of candidates."""
    metrics = list(found[0].scores)
    header = ["distance", *metrics, "T", "benchmark", "rows", "configuration"]
    rows = [
        [
            f"{each.distance:.3f}",
            *(f"{each.scores[name]:.4f}" for name in metrics),
            f"{each.temperature:.4g}",
            each.benchmark,
            f"{each.subset} ({each.rows:,})",
            configurations.describe(each.configuration),
        ]
        for each in found
    ]
    return Section(title, more, Table(header, rows))


def _open_questions(result: reproduction.Reproduction, configurations: Configurations) -> list[str]:
    """Return in what the matches differ."""
    chosen, table = np.array([each.configuration for each in result.matches]), _table(result, configurations)
    lines = []
    columns = {"benchmark": "benchmark", "rows": "subset", "CLAHE": "preprocessing", "space": "space"}
    for what, column in columns.items():
        counts = table[column].replace("", "default").value_counts().sort_index()
        if len(counts) > 1:
            lines.append(f"{what}: {', '.join(f'{value} ({count:,})' for value, count in counts.items())}")
    if np.ptp(configurations.weights[chosen], axis=0).any():
        lines.append(f"weights: {configurations.describe_weights(chosen)}")
    temperatures = [temperature for each in result.matches for temperature in each.temperatures]
    if result.target.temperature is None and not result.target.seeks_temperature:
        lines.append("temperature: accuracy and F1 do not depend on it")
    elif min(temperatures) < max(temperatures):
        lines.append(f"temperature: {min(temperatures):.3g} to {max(temperatures):.3g}")
    return lines or ["nothing"]


def _protocols(found: list[reproduction.Candidate], benchmarks: Benchmarks, configurations: Configurations) -> Section:
    """Return how the benchmarks and logits of candidates were made."""
    rows = []
    for benchmark, name in dict.fromkeys((s.benchmark, str(configurations.variants[s.configuration])) for s in found):
        described = benchmarks[benchmark][name].bundle.protocol
        rows.append([benchmark, *(described[key] for key in _PROTOCOL)])
    return Section("protocol", [], Table(["benchmark", *_PROTOCOL], rows))
