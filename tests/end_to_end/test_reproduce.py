"""`fer-mlflow reproduce`, driven as a user does: planted settings are found again from their rounded numbers."""

import numpy as np
import pandas as pd
import pytest
from toys import CLASSES, artifact, count_runs, draw_logits, error_line, expected_metrics, publish, write_bundle

from fer_mlflow.scoring.fusion import fuse

ROWS = 600
CLAHE = {"clip": 2.0, "tile": 8, "space": "LAB", "pattern_sha256": "ab" * 32}


def teachers_of(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    logits, labels = draw_logits(ROWS, seed=seed)
    rng = np.random.default_rng(seed + 50)
    noise = {"A": 1.5, "B": 2.0, "C": 2.5}
    return {name: (logits + rng.normal(0, n, logits.shape)).astype(np.float32) for name, n in noise.items()}, labels


@pytest.fixture(scope="module")
def stored(place, tmp_path_factory):
    """Return (benchmark, clahe) -> teachers' logits and labels; sources of the rows are web, lab and film."""
    found = {}
    for number, (split, clahe) in enumerate((("val", None), ("test", None), ("test", CLAHE))):
        teachers, labels = teachers_of(number if clahe is None else number + 10)
        labels = found[f"faces:{split}", False][1] if clahe else labels
        paths = [f"images/{split}{row:04d}.jpg" for row in range(ROWS)]
        parts = {"split": split, "benchmark": f"faces:{split}", "paths": paths, "sources": SOURCES, "clahe": clahe}
        if clahe:
            teachers = {name: own + found["faces:test", False][0][name] for name, own in teachers.items()}
        for name, logits in teachers.items():
            folder = tmp_path_factory.mktemp(name)
            publish(place, write_bundle(folder / name, logits, labels, weights={name: 1.0}, **parts), "teacher")
        found[f"faces:{split}", clahe is not None] = (teachers, labels)
    return found


SOURCES = [("web", "lab", "film")[row % 3] for row in range(ROWS)]


def numbers_of(stored, benchmark, clahe, weights, space, temperature, sources) -> dict[str, float]:
    """Return the metrics of this setting, computed by other means than the package's."""
    teachers, labels = stored[benchmark, clahe]
    rows = np.isin(SOURCES, sources)
    logits = fuse(teachers, weights, space).astype(np.float32)[rows].astype(np.float64) / temperature
    return expected_metrics(logits, labels[rows])


def reproduce(place, *options) -> tuple[pd.DataFrame, str]:
    printed = place.run("reproduce", *options).stdout
    return pd.read_parquet(artifact(place.runs("reproduce")[0], "tables/matches.parquet")), printed


@pytest.mark.parametrize(
    ("benchmark", "weights", "space", "temperature", "sources"),
    [
        ("faces:test", {"A": 0.4, "B": 0.6, "C": 0.0}, "prob", 1.0, ["web", "lab", "film"]),
        ("faces:val", {"A": 0.2, "B": 0.2, "C": 0.6}, "logit", 1.4, ["web"]),
        ("faces:test", {"A": 0.0, "B": 0.8, "C": 0.2}, "logit", 2.3, ["film", "lab"]),
        ("faces:val", {"A": 0.6, "B": 0.0, "C": 0.4}, "prob", 0.7, ["web", "lab", "film"]),
    ],
)
def test_a_planted_setting_is_the_nearest_from_its_rounded_numbers(
    place, stored, benchmark, weights, space, temperature, sources
):
    numbers = numbers_of(stored, benchmark, False, weights, space, temperature, sources)
    rounded = {name: round(numbers[name], 4) for name in ("accuracy", "macro_f1", "nll", "ece", "f1/Disgust")}
    table, printed = reproduce(
        place,
        *("--benchmark", "faces:val,faces:test", "--clahe", "false", "--step", "0.2"),
        *("--accuracy", rounded["accuracy"], "--macro-f1", rounded["macro_f1"], "--nll", rounded["nll"]),
        *("--ece", rounded["ece"], "--f1", f"Disgust={rounded['f1/Disgust']}"),
    )
    first = table.iloc[0]
    assert first["is_match"]
    assert (first["benchmark"], first["space"]) == (benchmark, space)
    assert {name: first[f"w/{name}"] for name in "ABC"} == pytest.approx(weights)
    assert first["rows"] == np.isin(SOURCES, sources).sum()
    assert first["temperature"] == pytest.approx(temperature, abs=0.01)
    for name, value in numbers.items():
        if name in first:
            assert first[name] == pytest.approx(value, abs=2e-4)
    subset = "all rows" if len(sources) == 3 else "source " + " + ".join(sorted(sources))
    assert first["subset"] == subset
    assert f"{subset} ({first['rows']:,})" in printed


def test_clahe_is_searched_and_named(place, stored):
    weights = {"A": 0.4, "B": 0.4, "C": 0.2}
    numbers = numbers_of(stored, "faces:test", True, weights, "logit", 1.0, ["web", "lab", "film"])
    table, printed = reproduce(
        place,
        *("--benchmark", "faces:test", "--step", "0.2", "--temperature", "1", "--rows", str(ROWS)),
        *("--accuracy", f"{numbers['accuracy']:.4f}", "--nll", f"{numbers['nll']:.4f}", "--tolerance", "0.0005"),
    )
    first = table.iloc[0]
    assert first["preprocessing"] == "clahe"
    assert {name: first[f"w/{name}"] for name in "ABC"} == pytest.approx(weights)
    assert "clip 2, 8 tiles" in printed


def test_what_the_target_leaves_open_is_reported(place, stored):
    numbers = numbers_of(stored, "faces:test", False, dict.fromkeys("ABC", 1 / 3), "logit", 1.0, ["web", "lab", "film"])
    table, printed = reproduce(
        place,
        "--benchmark",
        "faces:test",
        "--clahe",
        "false",
        "--accuracy",
        f"{numbers['accuracy']:.3f}",
        "--show",
        "3",
    )
    assert len(table) > 3
    assert table["is_match"].all()
    assert table["distance"].is_monotonic_increasing
    assert (np.abs(table["accuracy"] - round(numbers["accuracy"], 3)) <= 0.005 + 1e-9).all()
    assert "the nearest 3; the table has all" in printed
    assert "temperature: accuracy and F1 do not depend on it" in printed
    spaces = table["space"].value_counts()
    assert f"space: logit ({spaces['logit']}), prob ({spaces['prob']})" in printed


def test_without_a_match_the_nearest_and_the_best_single_change_are_reported(place, stored):
    teachers, labels = stored["faces:test", False]
    web = np.isin(SOURCES, ["web"])
    fused = fuse(teachers, dict.fromkeys("ABC", 1 / 3), "logit").astype(np.float32)[web]
    accuracy = float((fused.argmax(axis=1) == labels[web]).mean())
    table, printed = reproduce(
        place,
        *("--benchmark", "faces:test", "--clahe", "false", "--accuracy", f"{accuracy:.6f}", "--macro-f1", "0.01"),
        *("--weights-list", weights_file(place)),
    )
    assert not table["is_match"].any()
    assert len(table) == 1
    assert "out of reach, whatever the configuration" in printed
    assert "macro_f1 0.01: all candidates are from" in printed
    assert "one change at a time" in printed
    assert "moved closest" in printed or "no single change moved closer" in printed


def weights_file(place):
    path = place.folder / "weights.txt"
    path.write_text("A=0.4,B=0.4,C=0.2\nA=1\n")
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no number to look for: give --accuracy"),
        (["--f1", "Disgust"], '--f1: "Disgust" is not CLASS=number'),
        (["--f1", "Joy=0.5"], f"--f1: no class Joy; there are {', '.join(CLASSES)}"),
        (["--f1", "Happy=1.5"], '--f1: "Happy=1.5" is not CLASS=number with a share of 1'),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(place, stored, options, message):
    before = count_runs(place)
    assert message in error_line(place.run("reproduce", "--benchmark", "faces:test", *options, status=2))
    assert count_runs(place) == before


def test_a_number_of_rows_that_no_subset_has_is_refused(place, stored):
    line = error_line(place.run("reproduce", "--benchmark", "faces:val", "--accuracy", "0.5", "--rows", "7", status=2))
    assert line == "no subset of the benchmarks is of 7 labelled rows; subsets have 200, 400, 600 rows"
