"""`fer-mlflow compare`, driven as a user does, against a real store."""

import cv2
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
from mlflow import MlflowClient
from scipy import stats
from scipy.special import log_softmax
from toys import CLASSES, artifact, count_runs, draw_logits, error_line, expected_metrics, publish, write_bundle

pytestmark = pytest.mark.usefixtures("coarse_figures")
ROWS = 180
METRICS = ["accuracy", "macro_f1", "balanced_accuracy", "nll", *(f"f1/{name}" for name in CLASSES)]


@pytest.fixture(scope="module")
def pair():
    """Return logits of a model, of a better one, and labels, some of which are missing."""
    better, labels = draw_logits(ROWS, seed=31)
    worse = better + np.random.default_rng(32).normal(0, 2.5, better.shape).astype(np.float32)
    labels[[3, 50, 90]] = -1
    return worse, better, labels


@pytest.fixture(scope="module")
def runs(place, pair, tmp_path_factory):
    """Return the ids of two export runs on one benchmark: A, and the better B of other settings."""
    folder, (worse, better, labels) = tmp_path_factory.mktemp("bundles"), pair
    a = write_bundle(folder / "a", worse, labels, weights={"A": 0.5, "B": 0.5})
    clahe = {"clip": 2.0, "tile": 8, "pattern_sha256": "c0ffee" + "0" * 58}
    b = write_bundle(folder / "b", better, labels, weights={"A": 0.25, "C": 0.75}, space="prob", clahe=clahe)
    return publish(place, a), publish(place, b)


@pytest.fixture(scope="module")
def compared(place, runs):
    """Return the run that compared them, and what was printed."""
    result = place.run("compare", runs[0][:8], runs[1])
    return place.runs("compare")[0], result


def key(section: str, name: str, end: str = "") -> str:
    """Return the key of a metric of a comparison."""
    return f"{section}/{name.replace('/', ' ')} {end}".rstrip()


def compare(place, a, b, status=0):
    """Return the run that a comparison made, and what was printed."""
    result = place.run("compare", a, b, status=status)
    return place.runs("compare")[0], result


def scores(logits, labels) -> dict[str, float]:
    return {name: value for name, value in expected_metrics(logits, labels).items() if name in METRICS}


def test_differences_are_those_of_the_labelled_rows(compared, pair):
    worse, better, labels = pair
    known = labels >= 0
    a, b = scores(worse[known], labels[known]), scores(better[known], labels[known])
    metrics = compared[0].data.metrics
    assert {name: metrics[key("a", name)] for name in METRICS} == pytest.approx(a, abs=1e-9)
    assert {name: metrics[key("b", name)] for name in METRICS} == pytest.approx(b, abs=1e-9)
    differences = {name: b[name] - a[name] for name in METRICS}
    assert {name: metrics[key("difference", name)] for name in METRICS} == pytest.approx(differences, abs=1e-9)
    assert differences["accuracy"] > 0.1
    assert metrics["rows"] == ROWS - 3


def test_p_values_and_intervals(compared, pair):
    worse, better, labels = pair
    known = labels >= 0
    metrics, y = compared[0].data.metrics, labels[known]
    right_a, right_b = (logits[known].argmax(axis=1) == y for logits in (worse, better))
    only_a, only_b = (right_a & ~right_b).sum(), (right_b & ~right_a).sum()
    assert metrics["difference/accuracy p"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue, abs=1e-12)
    losses = [-log_softmax(z[known].astype(float), axis=1)[np.arange(len(y)), y] for z in (worse, better)]
    test = stats.ttest_rel(losses[1], losses[0])
    assert metrics["difference/nll p"] == pytest.approx(test.pvalue, rel=1e-6)
    interval = test.confidence_interval()
    assert [metrics["difference/nll low"], metrics["difference/nll high"]] == pytest.approx(
        [interval.low, interval.high], abs=1e-9
    )
    rng = np.random.default_rng(2)
    drawn = rng.integers(0, len(y), (10_000, len(y)))
    difference = right_b[drawn].mean(axis=1) - right_a[drawn].mean(axis=1)
    ends = np.quantile(difference, [0.025, 0.975])
    assert [metrics["difference/accuracy low"], metrics["difference/accuracy high"]] == pytest.approx(ends, abs=0.012)
    for name in METRICS:
        assert (
            metrics[key("difference", name, "low")]
            <= metrics[key("difference", name)]
            <= metrics[key("difference", name, "high")]
        )
        assert 0 <= metrics[key("difference", name, "p")] <= 1
    assert metrics["difference/macro_f1 p"] < 0.05


def test_the_tables_hold_the_differences_and_every_changed_row(compared, pair, place):
    run, result = compared
    worse, better, labels = pair
    table = pd.read_parquet(artifact(run, "tables/differences.parquet"))
    assert table["metric"].tolist() == METRICS
    for row in table.to_dict("records"):
        for column in ("a", "b", "difference"):
            assert row[column] == run.data.metrics[key(column, row["metric"])]
        for column, end in {"low": "low", "high": "high", "p_value": "p"}.items():
            assert row[column] == run.data.metrics[key("difference", row["metric"], end)]
    a, b = worse.argmax(axis=1), better.argmax(axis=1)
    rows = [n for n in range(ROWS) if labels[n] >= 0 and a[n] != b[n]]
    expected = pd.DataFrame(
        {
            "row": rows,
            "path": [f"images/f{n:04d}.jpg" for n in rows],
            "label": [CLASSES[labels[n]] for n in rows],
            "split": "test",
            "source": ["web" if n % 2 else "lab" for n in rows],
            "prediction_a": [CLASSES[a[n]] for n in rows],
            "prediction_b": [CLASSES[b[n]] for n in rows],
        }
    )
    changed = pd.read_parquet(artifact(run, "tables/changed_rows.parquet"))
    assert changed.to_dict("list") == expected.to_dict("list")
    assert run.data.metrics["changed_rows"] == len(rows)
    gained = sum(b[n] == labels[n] for n in rows)
    broken = sum(a[n] == labels[n] for n in rows)
    assert (
        f"  {len(rows)} of 177 rows have another prediction: only B is right on {gained}, only A on {broken}, "
        f"neither on {len(rows) - gained - broken}"
    ) in result.stdout.splitlines()


def test_protocols_stand_side_by_side_with_a_mark_at_what_differs(compared, runs):
    run, result = compared
    lines = result.stdout.splitlines()
    assert lines[0] == f"A  logit · A 0.5 · B 0.5  on  faces:test  ({runs[0]})"
    assert lines[1] == f"B  prob · clahe · A 0.25 · C 0.75  on  faces:test  ({runs[1]})"
    marked = [line[4:28].strip() for line in lines if line.startswith("  ≠ ")]
    assert marked == ["weights", "space", "clahe", "checkpoints"]
    at = next(n for n, line in enumerate(lines) if line.startswith("  ≠ weights"))
    assert lines[at : at + 2] == [f"  ≠ {'weights':<24}A=0.5,B=0.5", f"    {'':<24}A=0.25,C=0.75"]
    assert f"    {'':<24}clip 2, 8 tiles, pattern c0ffee00" in lines
    assert f"    {'rows':<24}180" in lines
    assert f"    {'ECE':<24}15 bins, (lo, hi]" in lines
    assert run.data.tags["fer.protocol_differences"] == "weights, space, clahe, checkpoints"
    assert "comparable: the same 177 labelled rows" in lines


def test_the_run_says_what_was_compared(compared, runs, place):
    run, result = compared
    tags, params = run.data.tags, run.data.params
    assert run.info.status == "FINISHED"
    assert (tags["fer.kind"], tags["fer.verdict"]) == ("compare", "comparable: the same 177 labelled rows")
    assert (tags["fer.source_run_a"], tags["fer.source_run_b"]) == runs
    assert (params["run_a"], params["run_b"]) == (runs[0][:8], runs[1])
    assert (params["a/weights"], params["b/weights"], params["b/space"]) == ("A=0.5,B=0.5", "A=0.25,C=0.75", "prob")
    assert run.info.run_name == ("compare · logit · A 0.5 · B 0.5  with  prob · clahe · A 0.25 · C 0.75 · test · faces")
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.digest == tags["fer.selection_sha256"][:32]
    files = {entry.path for entry in MlflowClient(place.uri).list_artifacts(run.info.run_id)}
    assert files == {"differences.png", "tables"}
    assert cv2.imread(str(artifact(run, "differences.png"))).std() > 5
    assert f"  rows     {artifact(run, 'tables/changed_rows.parquet')}" in result.stdout.splitlines()


def test_what_is_printed_is_what_is_stored(compared):
    run, result = compared
    m = run.data.metrics
    line = next(line for line in result.stdout.splitlines() if line.startswith("  accuracy"))
    interval = f"[{m['difference/accuracy low']:+.4f}, {m['difference/accuracy high']:+.4f}]"
    p_value = "<0.0001" if m["difference/accuracy p"] < 0.0001 else f"{m['difference/accuracy p']:.4f}"
    assert line.split(None, 4) == [
        "accuracy",
        f"{m['a/accuracy']:.4f}",
        f"{m['b/accuracy']:.4f}",
        f"{m['difference/accuracy']:+.4f}",
        f"{interval:<20}  {p_value:>7} *",
    ]
    assert "neither accuracy nor macro_f1" not in result.stdout


def test_exchanging_a_and_b_turns_every_sign(place, compared, runs):
    run, _ = compare(place, runs[1], runs[0])
    mine, theirs = run.data.metrics, compared[0].data.metrics
    for name in METRICS:
        assert mine[key("difference", name)] == pytest.approx(-theirs[key("difference", name)], abs=1e-12)
        assert mine[key("difference", name, "p")] == pytest.approx(theirs[key("difference", name, "p")], abs=0.02)
        assert mine[key("difference", name, "low")] == pytest.approx(-theirs[key("difference", name, "high")], abs=0.02)


def test_a_run_does_not_differ_from_itself(place, runs):
    run, result = compare(place, runs[0], runs[0])
    metrics = run.data.metrics
    for name in METRICS:
        assert [metrics[key("difference", name, end)] for end in ("", "low", "high", "p")] == [0, 0, 0, 1]
    assert metrics["changed_rows"] == 0
    assert "≠" not in result.stdout
    assert run.data.tags["fer.protocol_differences"] == "none"
    assert "  neither accuracy nor macro_f1 differs significantly between A and B on these rows" in result.stdout
    assert len(pd.read_parquet(artifact(run, "tables/changed_rows.parquet"))) == 0


def shuffled(folder, pair, rows, **parts):
    """Write B's bundle of some rows, in another order."""
    _, better, labels = pair
    parts = {"paths": [f"images/f{n:04d}.jpg" for n in rows], "weights": {"A": 0.25, "C": 0.75}} | parts
    return write_bundle(folder, better[rows], labels[rows], **parts)


def differences(run) -> dict[str, float]:
    return {name: run.data.metrics[key("difference", name)] for name in METRICS}


def test_rows_in_another_order_are_matched_by_their_images(place, pair, runs, compared, tmp_path):
    order = np.random.default_rng(1).permutation(ROWS)
    images, paths = [f"images/f{n:04d}.jpg" for n in order], [f"moved/{n}.jpg" for n in range(ROWS)]
    shuffled(tmp_path / "b", pair, order, images=images, paths=paths, benchmark="other")
    run, result = compare(place, runs[0], tmp_path / "b")
    assert differences(run) == pytest.approx(differences(compared[0]), abs=1e-12)
    assert run.data.metrics["difference/nll p"] == pytest.approx(compared[0].data.metrics["difference/nll p"])
    assert "comparable on the 177 shared rows (of 177 labelled rows of A and 177 of B)" in result.stdout
    assert run.data.tags["fer.source_run_b"] == "folder"
    assert "fer.selection_sha256" not in run.data.tags  # it is on no one benchmark
    marked = run.data.tags["fer.protocol_differences"].split(", ")
    assert {"benchmark", "selection"} < set(marked)


def test_a_subset_is_compared_on_the_shared_rows(place, pair, runs, tmp_path):
    worse, better, labels = pair
    rows = np.r_[100:40:-1, 120:160]
    shuffled(tmp_path / "b", pair, rows, split="other")
    run, result = compare(place, runs[0], tmp_path / "b")
    known = np.sort(rows[labels[rows] >= 0])
    assert (
        f"comparable on the {len(known)} shared rows (of 177 labelled rows of A and {len(known)} of B)" in result.stdout
    )
    a, b = scores(worse[known], labels[known]), scores(better[known], labels[known])
    found = {name: run.data.metrics[key("difference", name)] for name in a}
    assert found == pytest.approx({name: b[name] - a[name] for name in a}, abs=1e-9)
    changed = pd.read_parquet(artifact(run, "tables/changed_rows.parquet"))
    moved = [n for n in known if worse[n].argmax() != better[n].argmax()]
    assert changed["row"].tolist() == moved
    assert changed["prediction_b"].tolist() == [CLASSES[better[n].argmax()] for n in moved]


def test_another_order_of_the_classes_is_mended_by_name(place, pair, runs, compared, tmp_path):
    _, better, labels = pair
    order = np.array([6, 2, 0, 1, 5, 4, 3])
    moved = np.where(labels >= 0, np.argsort(order)[labels], -1)
    classes = tuple(CLASSES[k] for k in order)
    for split in ("test", "other"):  # the same selection, and another one
        write_bundle(tmp_path / split, better[:, order], moved, classes=classes, split=split, weights={"C": 1.0})
        run, _ = compare(place, runs[0], tmp_path / split)
        assert differences(run) == pytest.approx(differences(compared[0]), abs=1e-12)
        assert "classes" in run.data.tags["fer.protocol_differences"].split(", ")
    changed = [pd.read_parquet(artifact(each, "tables/changed_rows.parquet")) for each in (run, compared[0])]
    assert changed[0]["prediction_b"].tolist() == changed[1]["prediction_b"].tolist()


def not_comparable(place, a, b, verdict):
    """Check what happens where there is nothing to compare."""
    run, result = compare(place, a, b, status=3)
    assert (run.info.status, run.data.tags["fer.verdict"]) == ("FINISHED", verdict)
    assert verdict in result.stdout.splitlines()
    assert f"  run      {run.info.run_id}" in result.stdout.splitlines()
    assert result.stderr == ""
    assert run.data.metrics == {}
    assert MlflowClient(place.uri).list_artifacts(run.info.run_id) == []
    assert run.data.tags["fer.source_run_a"] == a


def test_other_labels_are_not_comparable(place, pair, runs, tmp_path):
    worse, _, labels = pair
    changed = labels.copy()
    changed[[10, 20]] = (labels[[10, 20]] + 1) % 7
    write_bundle(tmp_path / "b", worse, changed)
    not_comparable(place, runs[0], tmp_path / "b", "not comparable because 2 of 177 shared images have other labels")


def test_other_classes_are_not_comparable(place, pair, runs, tmp_path):
    logits, labels = draw_logits(100, classes=8)
    write_bundle(tmp_path / "b", logits, labels, classes=(*CLASSES, "Contempt"))
    not_comparable(place, runs[0], tmp_path / "b", "not comparable because classes differ: only B has Contempt")
    write_bundle(tmp_path / "b", logits[:, :7], labels % 7, classes=(*CLASSES[:6], "Calm"))
    not_comparable(
        place,
        runs[0],
        tmp_path / "b",
        "not comparable because classes differ: only A has Neutral; only B has Calm",
    )


@pytest.mark.parametrize("shared", [0, 29, 30])
def test_too_few_shared_images_are_not_comparable(place, pair, runs, tmp_path, shared):
    rows = [n for n in range(ROWS) if pair[2][n] >= 0][:shared] + list(range(100, 140))
    paths = [f"images/f{n:04d}.jpg" for n in rows[:shared]] + [f"elsewhere/{n}.jpg" for n in rows[shared:]]
    write_bundle(tmp_path / "b", pair[1][rows], pair[2][rows], paths=paths)
    if shared < 30:
        verdict = f"not comparable because the benchmarks share {shared} labelled images; 30 are needed"
        not_comparable(place, runs[0], tmp_path / "b", verdict)
    else:
        run, _ = compare(place, runs[0], tmp_path / "b")
        assert run.data.tags["fer.verdict"].startswith("comparable on the 30 shared rows")


def test_soft_labels_without_labels_are_not_comparable(place, pair, tmp_path):
    a, b = (write_bundle(tmp_path / name, z, np.full(ROWS, -1)) for name, z in zip("ab", pair[:2], strict=True))
    not_comparable(place, publish(place, a), b.folder, "not comparable because no row has a label")


def test_images_that_changed_under_the_same_names_are_not_the_same_rows(place, pair, runs, tmp_path):
    worse, better, labels = pair
    images = [f"images/f{n:04d}.jpg" + " retouched" * (n < 60) for n in range(ROWS)]
    write_bundle(tmp_path / "b", better, labels, images=images, weights={"C": 1.0})
    run, _ = compare(place, runs[0], tmp_path / "b")
    known = np.array([n for n in range(60, ROWS) if labels[n] >= 0])
    assert run.data.tags["fer.verdict"] == (
        f"comparable on the {len(known)} shared rows (of 177 labelled rows of A and 177 of B)"
    )
    right = [sklearn.metrics.accuracy_score(labels[known], z[known].argmax(axis=1)) for z in (worse, better)]
    assert run.data.metrics["difference/accuracy"] == pytest.approx(right[1] - right[0], abs=1e-12)


def test_one_shared_row_of_one_benchmark(place, tmp_path):
    logits, labels = draw_logits(1)
    write_bundle(tmp_path / "a", logits, labels)
    write_bundle(tmp_path / "b", -logits, labels)
    run, result = compare(place, tmp_path / "a", tmp_path / "b")
    assert np.isfinite(list(run.data.metrics.values())).all()
    assert "nan" not in result.stdout
    assert "difference/nll p" not in run.data.metrics


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("ffffffff", "has no such run; look at MLFLOW_TRACKING_URI"),
        ("none/such", "run 'none/such': a run id is 4 to 32 digits of 0-9a-f"),
        ("COMPARED", "(compare, FINISHED) has no soft labels; "),
        (".", "bundle .: hash_manifest.json: No such file or directory"),
    ],
)
def test_what_has_no_soft_labels_is_refused(place, runs, compared, other, message):
    other = compared[0].info.run_id if other == "COMPARED" else other
    before = count_runs(place)
    for order in ((runs[0], other), (other, runs[0])):
        assert message in error_line(place.run("compare", *order, status=2))
    assert count_runs(place) == before
    assert set(before) == {"FINISHED"}


def test_two_runs_must_be_named(place, runs):
    assert "Missing argument 'RUN_B'" in place.run("compare", runs[0], status=2).stderr
