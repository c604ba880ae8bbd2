"""`fer-mlflow inspect`, driven as a user does, against a real store."""

import cv2
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from scipy.special import softmax
from toys import CLASSES, artifact, count_runs, draw_logits, error_line, publish, write_bundle

pytestmark = pytest.mark.usefixtures("coarse_figures")
STANDARD = (1, 2, 3, 4, 5, 6, 8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Return a bundle without labels: sharpness needs none."""
    logits, labels = draw_logits(150, temperature=5, seed=21)
    logits[:, 2] -= 100  # nobody predicts the third class
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b", logits, np.full_like(labels, -1))


@pytest.fixture(scope="module")
def inspected(place, bundle):
    """Return the run that inspected it, and what was printed."""
    result = place.run("inspect", "--run", publish(place, bundle)[:8])
    return place.runs("inspect")[0], result


def expected_table(logits, temperatures) -> list[dict[str, float]]:
    """Return the rows of the table, one row of logits after the other."""
    table = []
    for temperature in temperatures:
        top, entropy, by_class = [], [], {k: [] for k in range(logits.shape[1])}
        for z in logits.astype(float):
            p = np.exp(z / temperature - np.max(z / temperature))
            p /= p.sum()
            top.append(p.max())
            entropy.append(-sum(q * np.log(q) for q in p if q > 0))
            by_class[int(np.argmax(z))].append(p.max())
        table.append(
            {
                "temperature": temperature,
                "mean": np.mean(top),
                "median": np.median(top),
                "p90": np.quantile(top, 0.9),
                "p99": np.quantile(top, 0.99),
                "entropy": np.mean(entropy),
                "nearly_sure": np.mean(np.array(top) > 0.99),
                **{f"mean/{CLASSES[k]}": np.mean(tops) if tops else np.nan for k, tops in by_class.items()},
            }
        )
    return table


def test_the_table_is_what_a_loop_over_rows_gives(inspected, bundle):
    table = pd.read_parquet(artifact(inspected[0], "tables/sharpness.parquet"))
    expected = pd.DataFrame(expected_table(bundle.logits, STANDARD))
    assert list(table) == list(expected)
    np.testing.assert_allclose(table.to_numpy(), expected.to_numpy(), atol=1e-12)
    assert table["mean/Fear"].isna().all()


def test_the_metrics_are_the_table_and_the_recommended_range(inspected, bundle):
    metrics = dict(inspected[0].data.metrics)
    assert metrics.pop("rows") == len(bundle)
    low, high = (metrics.pop(f"recommended_temperature_{end}") for end in ("low", "high"))
    expected = {}
    for row in expected_table(bundle.logits, STANDARD):
        at = f"T {row.pop('temperature')}"
        names = {name: f"sharpness/{at} {name.replace('/', ' ')}" for name in row}
        expected |= {names[name]: value for name, value in row.items() if not np.isnan(value)}
    assert metrics == pytest.approx(expected, abs=1e-12)
    tops = [softmax(bundle.logits.astype(float) / t, axis=1).max(axis=1).mean() for t in (low, high)]
    assert tops == pytest.approx([0.8, 0.5], abs=1e-8)


def test_the_run_has_figure_params_and_tags(inspected, bundle, place):
    run, _ = inspected
    files = {entry.path for entry in MlflowClient(place.uri).list_artifacts(run.info.run_id)}
    assert files == {"sharpness.png", "tables"}
    assert cv2.imread(str(artifact(run, "sharpness.png"))).std() > 5
    tags, params = run.data.tags, run.data.params
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "inspect · logit · A 0.5 · B 0.5 · test · faces"
    assert (tags["fer.kind"], tags["fer.selection_sha256"]) == ("inspect", bundle.selection_sha256)
    assert tags["fer.source_run"].startswith(params["run"])
    assert (params["ensemble"], params["temperatures"], params["band"]) == ("A=0.5,B=0.5", "1,2,3,4,5,6,8", "0.5,0.8")
    (entry,) = run.inputs.dataset_inputs
    assert entry.dataset.digest == bundle.selection_sha256[:32]


def test_what_is_printed_is_what_is_stored_with_the_rule(inspected, bundle):
    run, result = inspected
    lines, metrics = result.stdout.splitlines(), run.data.metrics
    assert lines[0] == "logit · A 0.5 · B 0.5  on  faces:test, 150 rows: top probability of softmax(z / T)"
    row = [metrics[f"sharpness/T 3 {name}"] for name in ("mean", "median", "p90", "p99", "entropy")]
    shown = "  3       " + "  ".join(f"{value:6.4f}" for value in row[:4]) + f"   {row[4]:6.4f}  "
    assert [line for line in lines if line.startswith(shown)] == [
        f"{shown}{metrics['sharpness/T 3 nearly_sure']:10.2%}"
    ]
    counts = np.bincount(bundle.logits.argmax(axis=1), minlength=7)
    fear, sad = (next(line for line in lines if line.split()[:1] == [name]) for name in ("Fear", "Sad"))
    assert fear.split() == ["Fear", "0", *"–" * 7]
    assert sad.split() == ["Sad", str(counts[4]), *(f"{metrics[f'sharpness/T {t} mean Sad']:.4f}" for t in STANDARD)]
    assert "  rule: a mean top probability from 0.5 to 0.8; above it targets are nearly" in lines
    low, high = (metrics[f"recommended_temperature_{end}"] for end in ("low", "high"))
    assert f"  recommended  T from {low:.2f} to {high:.2f}" in lines


def test_temperatures_and_band_as_typed(place, bundle):
    place.run("inspect", "--bundle", bundle.folder, "--temperatures", "0.5,2.25", "--band", "0.3,0.6")
    metrics = place.runs("inspect")[0].data.metrics
    found = {" ".join(name.split("/")[1].split(" ")[:2]) for name in metrics if "/" in name}
    assert found == {"T 0.5", "T 2.25"}
    assert metrics["sharpness/T 2.25 mean"] == pytest.approx(
        expected_table(bundle.logits, [2.25])[0]["mean"], abs=1e-12
    )
    tops = [
        softmax(bundle.logits.astype(float) / metrics[f"recommended_temperature_{end}"], axis=1).max(axis=1).mean()
        for end in ("low", "high")
    ]
    assert tops == pytest.approx([0.6, 0.3], abs=1e-8)


@pytest.mark.parametrize("rows", [1, 40])
def test_constant_logits_have_no_recommended_temperature(place, tmp_path, rows):
    write_bundle(tmp_path / "b", np.full((rows, 7), 3, np.float16), np.zeros(rows, int))
    result = place.run("inspect", "--bundle", tmp_path / "b")
    run = place.runs("inspect")[0]
    assert "no temperature gives that: the logits are constant or tied" in result.stdout
    assert not [name for name in run.data.metrics if name.startswith("recommended")]
    assert run.data.metrics["sharpness/T 1 mean"] == pytest.approx(1 / 7)
    assert run.data.metrics["sharpness/T 8 entropy"] == pytest.approx(np.log(7))


def test_an_ensemble_without_labels_is_inspected_from_its_teachers(place, toy_teachers, tmp_path):
    from toys import write_faces

    manifest = write_faces(tmp_path / "faces", 6, labelled=False)
    place.run("inspect", "--manifest", manifest, "--teachers", toy_teachers, "--weights", "A=1")
    (teacher,) = place.runs("teacher")
    logits = place.bundle(teacher).logits
    metrics = place.runs("inspect")[0].data.metrics
    assert metrics["sharpness/T 1 mean"] == pytest.approx(
        softmax(logits.astype(float), axis=1).max(axis=1).mean(), abs=1e-12
    )
    assert [run.info.status for run in place.runs("export")] == ["FINISHED"]  # the one that this file published


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--temperatures", "1,1", "'1,1' is not rising numbers above 0, comma-separated"),
        ("--band", "0.5", "'0.5' is not 2 rising numbers above 0, comma-separated"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(place, bundle, option, value, message):
    before = count_runs(place)
    result = place.run("inspect", "--bundle", bundle.folder, option, value, status=2)
    assert message in result.stderr
    assert option in result.stderr
    assert count_runs(place) == before


@pytest.mark.parametrize("band", ["0.1,0.5", "0.5,1", "0.5,1.5"])
def test_a_band_that_no_mean_can_be_in_is_refused(place, bundle, band):
    low, high = band.split(",")
    line = error_line(place.run("inspect", "--bundle", bundle.folder, "--band", band, status=2))
    assert line == f"band {low} to {high}: it must be two rising numbers between 1/7 and 1"
    assert "RUNNING" not in count_runs(place)
