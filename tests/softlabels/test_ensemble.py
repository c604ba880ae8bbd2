"""From hand-made teachers' logits to soft labels: their numbers, their report, and what is refused."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import toys

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.images import Unreadable
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.metrics import score
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.configuration import Configuration
from fer_mlflow.softlabels.ensemble import changed_rows, check_reusable, fuse_ensemble, soft_labels_of_teacher
from fer_mlflow.teachers.spec import PredictedLogits

N = 70
WEIGHTS = {"B": 0.7, "A": 0.3}
HARD = ["rows", "images", "recheck", "images_on_disk"]
STATISTICAL = ["agreement", "blocks", "assignment", "support", "teacher_pairs"]
ENVIRONMENT = {"device": "cpu", "batch_size": 32}


def make_benchmark(folder, labelled=lambda row: row % 5 > 0, name="faces.csv", rows=N):
    """Return rows that are a fifth without a label."""
    folder.mkdir(exist_ok=True)
    lines = [f"{n}.jpg,{FER7.names[n % 7] if labelled(n) else ''},test,web" for n in range(rows)]
    (folder / name).write_text("path,label,split,source\n" + "\n".join(lines))
    return read_benchmark(folder / name, FER7, split="test", verify_paths=False)


def predict(benchmark, name="A", without=(), **changes) -> PredictedLogits:
    """Return logits that are mostly right, without some rows that could not be read."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows = np.array([row for row in range(len(benchmark)) if row not in without], np.int64)
    digests = [hashlib.sha256(path.encode()) for path in benchmark.paths]
    return PredictedLogits(
        rows=rows,
        logits=(2.5 * np.eye(7)[rows % 7] + rng.normal(size=(len(rows), 7))).astype(np.float32),
        image_sha256=np.array([list(digests[row].digest()) for row in rows], np.uint8),
        unreadable=tuple(Unreadable(r, benchmark.paths[r], "empty file", digests[r].hexdigest()) for r in without),
        teacher=toys.teacher(48) | {"arch": f"arch of {name}", "trained_with_clahe": "unknown"} | changes,
        environments=(ENVIRONMENT,),
    )


def alone(benchmark, name="A", predicted=None, **options) -> SoftLabels:
    predicted = predicted or predict(benchmark, name, **options)
    return soft_labels_of_teacher(benchmark, name, predicted, name.lower() * 64, "fp32", images_verified=True)


@pytest.fixture
def benchmark(tmp_path):
    return make_benchmark(tmp_path / "data")


@pytest.fixture
def teachers(benchmark):
    return {name: alone(benchmark, name) for name in "ABC"}


@pytest.fixture
def make(benchmark, teachers):
    def make(weights=WEIGHTS, benchmark=benchmark, teachers=teachers, images_verified=True, **changes) -> SoftLabels:
        configuration = Configuration(weights, **({"space": "prob"} | changes))
        return fuse_ensemble(benchmark, teachers, configuration, images_verified=images_verified)

    return make


@pytest.mark.parametrize("space", ["logit", "prob"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logits_are_the_fusion_and_metrics_are_of_the_stored_values(make, teachers, benchmark, space, dtype):
    made = make(space=space, dtype=dtype)
    expected = stored(fuse({name: teachers[name].logits for name in WEIGHTS}, WEIGHTS, space), dtype)
    assert made.logits.dtype == dtype
    assert made.logits.tobytes() == expected.tobytes()
    labelled = benchmark.labels >= 0
    assert made.metrics == score(made.logits[labelled], benchmark.labels[labelled], FER7.names)
    assert 0.5 < made.metrics["accuracy"] <= 1
    assert made.configuration.name == f"{space}{' · float16' * (dtype == 'float16')} · A 0.3 · B 0.7"


def test_metrics_of_float16_are_not_those_of_float32(make):
    assert make(dtype="float16").metrics["nll"] != make(dtype="float32").metrics["nll"]


def test_the_index_is_the_benchmark_with_image_hashes(make, benchmark):
    made = make()
    assert made.index.columns.tolist() == ["row", "path", "label", "split", "source", "image_sha256"]
    assert made.index["row"].tolist() == list(range(N))
    for name in ("path", "label", "split", "source"):
        assert made.index[name].tolist() == benchmark.frame[name].tolist()
    assert made.index["image_sha256"].tolist() == [hashlib.sha256(p.encode()).hexdigest() for p in benchmark.paths]
    np.testing.assert_array_equal(made.labels, benchmark.labels)
    assert made.selection_sha256 == benchmark.selection_sha256
    assert (made.manifest_sha256, made.classes) == (benchmark.manifest_sha256, FER7.names)
    assert made.checkpoints == {"A": "a" * 64, "B": "b" * 64}


def test_a_manifests_groups_are_kept_and_are_not_part_of_the_selection(make, benchmark):
    groups = [f"person {row // 2}" for row in range(N)]
    grouped = dataclasses.replace(benchmark, frame=benchmark.frame.assign(group=groups, age="adult"))
    made = make(benchmark=grouped)
    assert made.index["group"].tolist() == groups
    assert "age" not in made.index
    assert made.selection_sha256 == benchmark.selection_sha256


def test_the_report_says_what_shaped_the_numbers(make, benchmark):
    made = make()
    in_sample = {"in_sample": "unknown", "in_sample_rows": None, "trained_with_clahe": "unknown"}
    expected = {
        "benchmark": {
            "name": "faces:test",
            "selected_rows": N,
            "selected_sha256": benchmark.selection_sha256,
            "rows": N,
            "labelled_rows": N - N // 5,
        },
        "ensemble": {"weights": {"A": 0.3, "B": 0.7}, "space": "prob", "dtype": "float32", "precision": "fp32"},
        "teachers": {name: {**toys.teacher(48), **in_sample, "arch": f"arch of {name}"} for name in "AB"},
        "unreadable": [],
    }
    assert {name: made.report[name] for name in expected} == expected
    assert set(made.environment["fused_with"]) == {"python", "fer-mlflow", "numpy", "scipy", "pandas"}
    assert made.environment["teachers"] == {"A": [ENVIRONMENT], "B": [ENVIRONMENT]}


def test_the_environment_changes_no_digest(make, benchmark):
    sessions = ({"device": "cuda", "batch_size": 4096}, ENVIRONMENT)
    other = dataclasses.replace(predict(benchmark, "B"), environments=sessions)
    made = make(teachers={"A": alone(benchmark), "B": alone(benchmark, "B", other)})
    assert made.environment["teachers"]["B"] == list(sessions)
    assert made.sha256 == make().sha256


def test_the_report_holds_every_check_with_its_kind_and_verdict(make):
    checks = make().report["checks"]
    assert [(c["name"], c["kind"]) for c in checks if c["kind"] in ("hard", "statistical")] == [
        *((name, "hard") for name in HARD),
        *((name, "statistical") for name in STATISTICAL),
    ]
    assert {check["verdict"] for check in checks[: len(HARD)]} == {"pass"}
    assert all(set(check) == {"name", "verdict", "detail", "values", "kind"} for check in checks)
    verdicts = {check["name"]: check["verdict"] for check in checks}
    assert verdicts["agreement"] == "skip"  # 56 labelled rows are too few
    assert checks[0]["detail"] == f"one row of logits for each of {N} rows, in the manifest's order"


def test_images_that_were_not_compared_with_the_disk_are_reported(make):
    for verified, verdict in [(True, "pass"), (False, "skip")]:
        checks = {check["name"]: check for check in make(images_verified=verified).report["checks"]}
        assert checks["images_on_disk"]["verdict"] == verdict
    assert checks["images_on_disk"]["detail"] == "not compared (--verify-paths false)"


@pytest.mark.parametrize(
    ("clahe", "trained", "verdict", "detail"),
    [
        (None, None, "pass", ""),
        (None, "unknown", "pass", ""),
        ((2.0, 8), (2.0, 8), "pass", ""),
        ((2.0, 8), None, "warn", "A (here clip 2, 8 tiles)"),
        (None, (3.0, 8), "warn", "A (here none)"),
        ((3.0, 8), (2.0, 8), "warn", "A (here clip 3, 8 tiles)"),
    ],
)
def test_another_clahe_than_in_training_is_warned_of(benchmark, clahe, trained, verdict, detail):
    def record(settings):
        return dict(zip(("clip", "tile"), settings, strict=True)) if isinstance(settings, tuple) else settings

    preprocessing = toys.teacher(48)["preprocessing"] | {"clahe": record(clahe)}
    made = alone(benchmark, preprocessing=preprocessing, trained_with_clahe=record(trained))
    check = made.report["checks"][-1]
    assert (check["name"], check["verdict"]) == ("clahe", verdict)
    assert detail in check["detail"]


def test_the_order_of_teachers_changes_no_byte(make, teachers, tmp_path):
    make().write(tmp_path / "one")
    other = make(weights=dict(sorted(WEIGHTS.items())), teachers=dict(sorted(teachers.items(), reverse=True)))
    other.write(tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_unreadable_rows_are_left_out_and_listed(make, benchmark):
    made = make(teachers={name: alone(benchmark, name, without=(0, 33, N - 1)) for name in "AB"})
    assert made.index["row"].tolist() == [row for row in range(N) if row not in (0, 33, N - 1)]
    assert made.index["path"].tolist() == [f"{row}.jpg" for row in made.index["row"]]
    np.testing.assert_array_equal(made.labels, benchmark.labels[made.index["row"]])
    assert made.selection_sha256 != benchmark.selection_sha256
    assert made.report["benchmark"]["selected_sha256"] == benchmark.selection_sha256
    assert (made.report["benchmark"]["selected_rows"], made.report["benchmark"]["rows"]) == (N, N - 3)
    assert made.report["unreadable"] == [
        {
            "row": r,
            "path": f"{r}.jpg",
            "reason": "empty file",
            "image_sha256": hashlib.sha256(b"%d.jpg" % r).hexdigest(),
        }
        for r in (0, 33, N - 1)
    ]
    assert made.report["checks"][0]["detail"].endswith("67 rows, in the manifest's order, 3 left out as unreadable")
    assert made.metrics == score(made.logits[made.labelled], made.labels[made.labelled], FER7.names)


def test_a_benchmark_without_labels_has_no_metrics(tmp_path):
    unlabelled = make_benchmark(tmp_path / "data", labelled=lambda row: False, name="unlabelled.csv")
    made = alone(unlabelled).write(tmp_path / "out")
    assert (made.metrics, set(made.labels)) == ({}, {-1})
    assert not (tmp_path / "out/ensemble_metrics.json").exists()
    assert "ensemble_metrics.json" not in json.loads((tmp_path / "out/hash_manifest.json").read_text())["files"]


def test_a_class_without_labelled_rows_has_no_f1(tmp_path):
    some = make_benchmark(tmp_path / "data", labelled=lambda row: row % 7 < 3, name="some.csv")
    assert {name for name in alone(some).metrics if "/" in name} == {"f1/Angry", "f1/Disgust", "f1/Fear"}


def test_one_teacher_is_an_ensemble_of_one(make, benchmark, teachers):
    made = make({"C": 1.0}, space="logit")
    assert made.sha256 == teachers["C"].sha256
    assert made.logits.tobytes() == predict(benchmark, "C").logits.tobytes()


def test_a_stored_teacher_may_have_another_name(make, teachers):
    renamed = make(teachers=teachers | {"B": teachers["C"]})
    assert renamed.checkpoints == {"A": "a" * 64, "B": "c" * 64}
    assert renamed.report["teachers"]["B"]["arch"] == "arch of C"


def test_teachers_with_different_rows_are_refused(make, benchmark, teachers):
    teachers["B"] = alone(benchmark, "B", without=(7,))
    with pytest.raises(BundleError, match="A and B have different rows, row 8 first; export again"):
        make()
    assert len(make({"A": 0.5, "C": 0.5})) == N  # B is not fused


def test_rows_in_another_order_are_refused(benchmark):
    rows = np.arange(N)
    rows[[8, 9]] = 9, 8
    predicted = predict(benchmark)
    moved = dataclasses.replace(
        predicted, rows=rows, logits=predicted.logits[rows], image_sha256=predicted.image_sha256[rows]
    )
    with pytest.raises(BundleError, match="rows are not in ascending order"):
        alone(benchmark, "A", moved)


def test_teachers_that_decoded_different_images_are_refused(make, benchmark, teachers):
    predicted = predict(benchmark, "B")
    predicted.image_sha256[[40, 12], 31] ^= 1
    teachers["B"] = alone(benchmark, "B", predicted)
    message = r'A and B decoded different bytes for 2 images, row 13 "12\.jpg" first; export again'
    with pytest.raises(BundleError, match=message):
        make()


@pytest.mark.parametrize("rows", [N - 1, N + 1])
def test_rows_that_are_not_all_of_the_benchmark_are_refused(make, tmp_path, rows):
    other = make_benchmark(tmp_path / "data", name="other.csv", rows=max(rows, N))
    with pytest.raises(BundleError, match=rf"logits of \d+ rows, the benchmark has {rows}; export again"):
        make(benchmark=dataclasses.replace(other, frame=other.frame.head(rows), labels=other.labels[:rows]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"A": 0.5, "B": 0.6}}, "shares sum to 1.1"),
        ({"space": "log"}, "space 'log' is not one of"),
        ({"dtype": "float64"}, "dtype 'float64' is not one of"),
    ],
)
def test_wrong_settings_are_refused(make, change, message):
    with pytest.raises(ContractError, match=message):
        make(**change)


def is_reusable(teacher, benchmark) -> bool:
    try:
        check_reusable(teacher, benchmark, "run")
    except BundleError:
        return False
    return True


def test_a_teacher_is_reusable_for_its_own_benchmark_and_no_other(benchmark, tmp_path):
    same = make_benchmark(tmp_path / "moved", name="renamed.csv")
    other_labels = make_benchmark(tmp_path / "data", labelled=lambda row: True, name="labels.csv")
    fewer = make_benchmark(tmp_path / "data", name="fewer.csv", rows=N - 1)
    other_order = dataclasses.replace(benchmark, classes=ClassOrder.of(FER7.names[::-1]))
    for each in (alone(benchmark), alone(benchmark, without=(3,))):
        found = [is_reusable(each, b) for b in (benchmark, same, other_labels, fewer, other_order)]
        assert found == [True] * 2 + [False] * 3


def test_several_teachers_or_float16_are_not_reusable(make, benchmark):
    assert not is_reusable(make(), benchmark)
    assert not is_reusable(make({"A": 1.0}, dtype="float16"), benchmark)


def test_images_that_changed_are_found(benchmark):
    teacher = alone(benchmark, without=(5, 6))
    current = predict(benchmark).image_sha256.copy()
    assert changed_rows(teacher, current) == []
    current[3, 0] ^= 1
    current[6] = 0
    assert changed_rows(teacher, current) == [3, 6]
