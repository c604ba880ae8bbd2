"""What `reproduce` says: the matches and their protocol, what they leave open, and how near it came without any."""

from collections.abc import Mapping

import numpy as np

from fer_mlflow.commands.configurations import Configurations, format_span
from fer_mlflow.commands.teacher_sets import TeacherSet
from fer_mlflow.search.reproduction import WITH_TEMPERATURE, Candidate, Reproduction, Target
from fer_mlflow.softlabels.protocol import describe_protocol
from fer_mlflow.tables import Section, Table

_PROTOCOL = ("selection", "labelled rows", "clahe", "decoding", "image size", "precision", "ECE")

Benchmarks = Mapping[str, Mapping[str, TeacherSet]]


def describe_reproduction(
    result: Reproduction, target: Target, benchmarks: Benchmarks, configurations: Configurations, shown: int
) -> list[Section]:
    """Return the report of a search."""
    names = next(iter(next(iter(benchmarks.values())).values())).names
    numbers = ", ".join(f"{name} {value:g}" for name, value in target.values.items())
    known = [f"T = {target.temperature:g}"] if target.temperature else []
    known += [f"{target.rows:,} rows"] if target.rows else []
    searched = [f"{len(configurations):,} configurations of {', '.join(names)} on parts of {', '.join(benchmarks)}"]
    sought, settings = result.sought
    if sought < settings:
        searched.append(f"temperatures were sought for the nearest {sought:,} of {settings:,} settings")
    blocks = [Section(f"target: {', '.join([numbers, *known])}, each within {target.tolerance:g}", searched)]
    if unreachable := _out_of_reach(result, target):
        blocks.append(Section("out of reach, whatever the configuration", unreachable))
    if result.matches:
        title = f"{len(result.matches):,} setting{'s give' if len(result.matches) > 1 else ' gives'} these numbers"
        more = [f"the nearest {shown}; the table has all"] if len(result.matches) > shown else []
        blocks.append(_settings(title, result.matches[:shown], configurations, names, more))
        blocks.append(Section("what the target leaves open", _open_questions(result, target, configurations, names)))
        blocks.append(_protocols(result.matches[:shown], benchmarks, configurations))
        return blocks
    blocks.append(_settings("no setting gives these numbers; the nearest", [result.nearest], configurations, names, []))
    blocks.append(_protocols([result.nearest], benchmarks, configurations))
    if result.reference is not None:
        lines = [
            f"usual        distance {result.reference.distance:.2f}   {_words(result.reference, configurations, names)}"
        ]
        lines += [
            f"{what:<12} distance {each.distance:.2f}   {_words(each, configurations, names)}"
            for what, each in result.changes.items()
        ]
        closest = next(iter(result.changes), None)
        if closest is not None and result.changes[closest].distance < result.reference.distance:
            lines.append(f"changing the {closest} moved closest")
        else:
            lines.append("no single change moved closer")
        blocks.append(Section("one change at a time, from the usual setting (a distance of 1 is the tolerance)", lines))
    return blocks


def _out_of_reach(result: Reproduction, target: Target) -> list[str]:
    """Return the numbers that no setting gives, even alone."""
    lines = []
    for name, value in target.values.items():
        low, high = result.reachable[name]
        at_any_temperature = target.seeks_temperature and name in WITH_TEMPERATURE
        if not at_any_temperature and not low - target.tolerance <= value <= high + target.tolerance:
            lines.append(f"{name} {value:g}: all settings are from {low:.4f} to {high:.4f}")
    return lines


def _settings(title: str, settings: list[Candidate], configurations: Configurations, names, more: list[str]) -> Section:
    metrics = list(settings[0].scores)
    header = ["distance", *metrics, "T", "benchmark", "rows", "configuration"]
    rows = [
        [
            f"{each.distance:.3f}",
            *(f"{each.scores[name]:.4f}" for name in metrics),
            f"{each.temperature:.4g}",
            each.benchmark,
            f"{each.subset} ({each.rows:,})",
            _configuration(each, configurations, names),
        ]
        for each in settings
    ]
    return Section(title, more, Table(header, rows))


def _configuration(each: Candidate, configurations: Configurations, names) -> str:
    choice = configurations.choice(each.configuration)
    shares = [f"{name} {share:.3g}" for name, share in zip(names, choice.weights, strict=True) if share > 0]
    return " · ".join([*shares, choice.space, *filter(None, [choice.variant])])


def _words(each: Candidate, configurations: Configurations, names) -> str:
    at = f", T = {each.temperature:.4g}" if each.temperature != 1 else ""
    return f"{_configuration(each, configurations, names)} on {each.benchmark}, {each.subset}{at}"


def _open_questions(result: Reproduction, target: Target, configurations: Configurations, names) -> list[str]:
    """Return in what the matches differ."""
    chosen = [configurations.choice(each.configuration) for each in result.matches]
    weights = np.array([each.weights for each in chosen])
    lines = []
    for what, values in (
        ("benchmark", [each.benchmark for each in result.matches]),
        ("rows", [each.subset for each in result.matches]),
        ("CLAHE", [each.variant or "as usual" for each in chosen]),
        ("space", [each.space for each in chosen]),
    ):
        found, counts = np.unique(np.array(values, dtype=str), return_counts=True)
        if len(found) > 1:
            lines.append(f"{what}: " + ", ".join(f"{v} ({n:,})" for v, n in zip(found, counts, strict=True)))
    if np.ptp(weights, axis=0).any():
        spans = zip(names, weights.min(axis=0), weights.max(axis=0), strict=True)
        lines.append("weights: " + ", ".join(format_span(*span) for span in spans))
    temperatures = [temperature for each in result.matches for temperature in each.temperatures]
    if target.temperature is None and not target.seeks_temperature:
        lines.append("temperature: accuracy and F1 do not depend on it")
    elif min(temperatures) < max(temperatures):
        lines.append(f"temperature: {min(temperatures):.3g} to {max(temperatures):.3g}")
    return lines or ["nothing: they say all"]


def _protocols(settings: list[Candidate], benchmarks: Benchmarks, configurations: Configurations) -> Section:
    """Return how the benchmarks of settings were made and asked."""
    rows = []
    for benchmark, way in dict.fromkeys((s.benchmark, str(configurations.pools[s.configuration])) for s in settings):
        described = describe_protocol(benchmarks[benchmark][way].bundle)
        rows.append([benchmark, *(described[key] for key in _PROTOCOL)])
    return Section("protocol", [], Table(["benchmark", *_PROTOCOL], rows))
