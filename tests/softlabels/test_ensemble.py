"""From hand-made teachers' outputs to a bundle: its numbers, its report, and what it refuses to fuse."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.scoring.fusion import fuse, stored
from fer_mlflow.scoring.metrics import score
from fer_mlflow.softlabels.bundle import SoftLabels
from fer_mlflow.softlabels.ensemble import matches, outputs_of_teacher, write_ensemble
from fer_mlflow.teachers.outputs import TeacherOutputs, Unreadable

N = 70
WEIGHTS = {"B": 0.7, "A": 0.3}
SETTINGS = {"space": "prob", "dtype": "float32", "preprocessing": {"clahe": None}, "images_verified": True}
HARD = ["rows", "images", "recheck", "images_on_disk"]
DESCRIPTION = {"img_size": 48, "in_sample": "unknown", "in_sample_rows": None, "trained_with_clahe": "unknown"}
STATISTICAL = ["agreement", "blocks", "assignment", "support", "teacher_pairs"]


def make_benchmark(folder, labelled=lambda row: row % 5 > 0, name="faces.csv", rows=N):
    """Return rows that are a fifth without a label."""
    folder.mkdir(exist_ok=True)
    lines = [f"{n}.jpg,{FER7.names[n % 7] if labelled(n) else ''},test,web" for n in range(rows)]
    (folder / name).write_text("path,label,split,source\n" + "\n".join(lines))
    return read_benchmark(folder / name, FER7, split="test", verify_paths=False)


def make_outputs(benchmark, name="A", without=()) -> TeacherOutputs:
    """Return a teacher that is mostly right and could not read some rows."""
    rng = np.random.default_rng(sum(map(ord, name)))
    rows = np.array([row for row in range(len(benchmark)) if row not in without], np.int64)
    digests = [hashlib.sha256(path.encode()) for path in benchmark.paths]
    return TeacherOutputs(
        rows=rows,
        logits=(2.5 * np.eye(7)[rows % 7] + rng.normal(size=(len(rows), 7))).astype(np.float32),
        image_sha256=np.array([list(digests[row].digest()) for row in rows], np.uint8),
        unreadable=tuple(Unreadable(r, benchmark.paths[r], "empty file", digests[r].hexdigest()) for r in without),
        description={"arch": f"arch of {name}", **DESCRIPTION},
        checkpoint_sha256=name.lower() * 64,
    )


@pytest.fixture
def benchmark(tmp_path):
    return make_benchmark(tmp_path / "data")


@pytest.fixture
def outputs(benchmark):
    return {name: make_outputs(benchmark, name) for name in "ABC"}


@pytest.fixture
def write(tmp_path, benchmark, outputs):
    def write(weights=WEIGHTS, folder="out", benchmark=benchmark, outputs=outputs, **changes) -> SoftLabels:
        return write_ensemble(tmp_path / folder, benchmark, outputs, weights, **(SETTINGS | changes))

    return write


@pytest.mark.parametrize("space", ["logit", "prob"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_logits_are_the_fusion_and_metrics_are_of_the_stored_values(write, outputs, benchmark, space, dtype):
    bundle = write(space=space, dtype=dtype)
    expected = stored(fuse({name: outputs[name].logits for name in WEIGHTS}, WEIGHTS, space), dtype)
    assert bundle.logits.dtype == dtype
    assert bundle.logits.tobytes() == expected.tobytes()
    labelled = benchmark.labels >= 0
    assert bundle.metrics == score(bundle.logits[labelled], benchmark.labels[labelled], FER7.names)
    assert 0.5 < bundle.metrics["accuracy"] <= 1


def test_metrics_of_float16_are_not_those_of_float32(write):
    assert write(dtype="float16").metrics["nll"] != write(dtype="float32").metrics["nll"]


def test_the_index_is_the_benchmark_with_image_hashes(write, benchmark):
    bundle = write()
    assert bundle.index.columns.tolist() == ["row", "path", "label", "split", "source", "image_sha256"]
    assert bundle.index["row"].tolist() == list(range(N))
    for name in ("path", "label", "split", "source"):
        assert bundle.index[name].tolist() == benchmark.frame[name].tolist()
    assert bundle.index["image_sha256"].tolist() == [hashlib.sha256(p.encode()).hexdigest() for p in benchmark.paths]
    np.testing.assert_array_equal(bundle.labels, benchmark.labels)
    assert bundle.selection_sha256 == benchmark.selection_sha256
    assert (bundle.manifest_sha256, bundle.classes) == (benchmark.manifest_sha256, FER7.names)
    assert bundle.checkpoints == {"A": "a" * 64, "B": "b" * 64}


def test_the_report_says_what_shaped_the_numbers(write, benchmark):
    report = write().report
    expected = {
        "benchmark": {
            "name": "faces:test",
            "selected_rows": N,
            "selected_sha256": benchmark.selection_sha256,
            "rows": N,
            "labelled_rows": N - N // 5,
        },
        "ensemble": {"weights": {"A": 0.3, "B": 0.7}, "space": "prob", "dtype": "float32"},
        "name": "A=0.3,B=0.7",
        "preprocessing": {"clahe": None},
        "teachers": {name: {"arch": f"arch of {name}", **DESCRIPTION} for name in "AB"},
        "unreadable": [],
    }
    assert {name: report[name] for name in expected} == expected
    assert set(report["fused_with"]) == {"python", "fer-mlflow", "numpy", "scipy", "pandas"}


def test_the_report_holds_every_check_with_its_kind_and_verdict(write):
    checks = write().report["checks"]
    assert [(c["name"], c["kind"]) for c in checks if c["kind"] in ("hard", "statistical")] == [
        *((name, "hard") for name in HARD),
        *((name, "statistical") for name in STATISTICAL),
    ]
    assert {check["verdict"] for check in checks[: len(HARD)]} == {"pass"}
    assert all(set(check) == {"name", "verdict", "detail", "values", "kind"} for check in checks)
    verdicts = {check["name"]: check["verdict"] for check in checks}
    assert verdicts["agreement"] == "skip"  # 56 labelled rows are too few
    assert checks[0]["detail"] == f"one row of logits for each of {N} rows, in the manifest's order"


def test_images_that_were_not_held_against_the_disk_are_said_to_be(write):
    for verified, verdict in [(True, "pass"), (False, "skip")]:
        checks = {check["name"]: check for check in write(images_verified=verified).report["checks"]}
        assert checks["images_on_disk"]["verdict"] == verdict
    assert checks["images_on_disk"]["detail"] == "not looked at (--verify-paths false)"


def test_the_order_of_teachers_changes_no_byte(write, outputs, tmp_path):
    write(folder="one")
    write(folder="two", weights=dict(sorted(WEIGHTS.items())), outputs=dict(sorted(outputs.items(), reverse=True)))
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_unreadable_rows_are_left_out_and_listed(write, benchmark):
    outputs = {name: make_outputs(benchmark, name, without=(0, 33, N - 1)) for name in "AB"}
    bundle = write(outputs=outputs)
    assert bundle.index["row"].tolist() == [row for row in range(N) if row not in (0, 33, N - 1)]
    assert bundle.index["path"].tolist() == [f"{row}.jpg" for row in bundle.index["row"]]
    np.testing.assert_array_equal(bundle.labels, benchmark.labels[bundle.index["row"]])
    assert bundle.selection_sha256 != benchmark.selection_sha256
    assert bundle.report["benchmark"]["selected_sha256"] == benchmark.selection_sha256
    assert (bundle.report["benchmark"]["selected_rows"], bundle.report["benchmark"]["rows"]) == (N, N - 3)
    assert bundle.report["unreadable"] == [
        {
            "row": r,
            "path": f"{r}.jpg",
            "reason": "empty file",
            "image_sha256": hashlib.sha256(b"%d.jpg" % r).hexdigest(),
        }
        for r in (0, 33, N - 1)
    ]
    assert bundle.report["checks"][0]["detail"].endswith("67 rows, in the manifest's order, 3 left out as unreadable")
    labelled = bundle.labels >= 0
    assert bundle.metrics == score(bundle.logits[labelled], bundle.labels[labelled], FER7.names)


def test_a_benchmark_without_labels_has_no_metrics(write, tmp_path):
    unlabelled = make_benchmark(tmp_path / "data", labelled=lambda row: False, name="unlabelled.csv")
    bundle = write(benchmark=unlabelled)
    assert (bundle.metrics, set(bundle.labels)) == ({}, {-1})
    assert not (tmp_path / "out/ensemble_metrics.json").exists()
    assert "ensemble_metrics.json" not in json.loads((tmp_path / "out/hash_manifest.json").read_text())["files"]


def test_a_class_without_labelled_rows_has_no_f1(write, tmp_path):
    some = make_benchmark(tmp_path / "data", labelled=lambda row: row % 7 < 3, name="some.csv")
    assert {name for name in write(benchmark=some).metrics if "/" in name} == {"f1/Angry", "f1/Disgust", "f1/Fear"}


def test_one_teacher_is_an_ensemble_of_one_and_its_outputs_come_back(write, benchmark):
    said = make_outputs(benchmark, "C", without=(4, 5))
    bundle = write({"C": 1.0}, outputs={"C": said}, space="logit")
    for found in (outputs_of_teacher(bundle), outputs_of_teacher(SoftLabels.open(bundle.folder))):
        for field in dataclasses.fields(TeacherOutputs):
            back, there = getattr(found, field.name), getattr(said, field.name)
            if isinstance(there, np.ndarray):
                assert (back.dtype, back.shape, back.tobytes()) == (there.dtype, there.shape, there.tobytes())
            else:
                assert back == there


@pytest.mark.parametrize(("weights", "dtype"), [(WEIGHTS, "float32"), ({"A": 1.0}, "float16")])
def test_outputs_do_not_come_back_from_several_teachers_or_from_float16(write, weights, dtype):
    with pytest.raises(BundleError, match="not of one teacher in float32; compute the teacher again"):
        outputs_of_teacher(write(weights, dtype=dtype))


def test_teachers_with_different_rows_are_refused(write, benchmark, outputs, tmp_path):
    outputs["B"] = make_outputs(benchmark, "B", without=(7,))
    with pytest.raises(BundleError, match="teachers A and B have different rows, row 8 first; export again"):
        write()
    assert not (tmp_path / "out").exists()
    assert len(write({"A": 0.5, "C": 0.5})) == N  # B has no say


def moved(outputs: TeacherOutputs, rows) -> TeacherOutputs:
    return dataclasses.replace(
        outputs, rows=outputs.rows[rows], logits=outputs.logits[rows], image_sha256=outputs.image_sha256[rows]
    )


def test_rows_in_another_order_are_refused(write, outputs):
    rows = np.arange(N)
    rows[[8, 9]] = 9, 8
    with pytest.raises(BundleError):
        write({"A": 1.0}, outputs={"A": moved(outputs["A"], rows)})
    with pytest.raises(BundleError, match="teachers A and B have different rows"):
        write(outputs=outputs | {"B": moved(outputs["B"], rows)})


def test_teachers_that_saw_different_images_are_refused(write, outputs):
    image_sha256 = outputs["B"].image_sha256.copy()
    image_sha256[[40, 12], 31] ^= 1
    outputs["B"] = dataclasses.replace(outputs["B"], image_sha256=image_sha256)
    message = r'teachers A and B saw different bytes for 2 images, row 13 "12\.jpg" first; export again'
    with pytest.raises(BundleError, match=message):
        write()


@pytest.mark.parametrize("rows", [N - 1, N + 1])
def test_rows_that_are_not_all_of_the_benchmark_are_refused(write, tmp_path, rows):
    other = make_benchmark(tmp_path / "data", name="other.csv", rows=rows)
    outputs = {name: make_outputs(other, name) for name in "AB"}
    with pytest.raises(BundleError, match=f"{rows} rows were answered, the benchmark has {N}; export again"):
        write(outputs=outputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"A": 0.5, "B": 0.6}}, "shares sum to 1.1"),
        ({"space": "log"}, "space 'log' is not one of"),
        ({"dtype": "float64"}, "dtype 'float64' is not one of"),
    ],
)
def test_wrong_settings_are_refused_and_leave_the_old_bundle(write, change, message):
    before = write()
    with pytest.raises(ContractError, match=message):
        write(**change)
    assert SoftLabels.open(before.folder).sha256 == before.sha256


def test_a_bundle_matches_its_own_benchmark_and_no_other(write, benchmark, tmp_path):
    bundle = write()
    partial = write(folder="partial", outputs={name: make_outputs(benchmark, name, without=(3,)) for name in "AB"})
    same = make_benchmark(tmp_path / "moved", name="renamed.csv")
    other_labels = make_benchmark(tmp_path / "data", labelled=lambda row: True, name="labels.csv")
    fewer = make_benchmark(tmp_path / "data", name="fewer.csv", rows=N - 1)
    other_order = dataclasses.replace(benchmark, classes=ClassOrder.of(FER7.names[::-1]))
    for each in (bundle, partial):
        assert [matches(each, b) for b in (benchmark, same, other_labels, fewer, other_order)] == [True] * 2 + [
            False
        ] * 3
