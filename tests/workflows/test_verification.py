"""`verify` of folders: each fault fails its own check, the others are made all the same; logits computed again."""

import hashlib
import io
import json
import shutil

import numpy as np
import pytest
from toys import write_faces, write_teachers

import fer_mlflow
from fer_mlflow import SoftLabels

DESCRIPTOR = "hash_manifest.json"
FROM_LOGITS = ["agreement", "blocks", "assignment", "support"]


def verdicts(result) -> dict[str, str]:
    return {check.name: check.verdict for check in result.checks}


def failed(result) -> list[str]:
    return [check.name for check in result.checks if check.verdict == "fail"]


def detail(result, name) -> str:
    return next(check.detail for check in result.checks if check.name == name)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_faces(tmp_path_factory.mktemp("faces"), 70)


@pytest.fixture(scope="module")
def sound(local_place, faces, toy_teachers):
    """Return a function that exports once with further options and gives the bundle's folder."""

    def export(*more):
        out = local_place.folder / ("bundle" + "".join(more))
        if not out.exists():
            options = ["--manifest", faces, "--teachers", toy_teachers, "--weights", "A=0.5,B=0.5", "--out", out]
            local_place.run("export", *options, *more)
        return out

    return export


@pytest.fixture
def folder(sound, tmp_path):
    """Return a copy of a bundle, to be spoilt."""
    return shutil.copytree(sound(), tmp_path / "copy")


def rehash(folder, **changes):
    """Make the descriptor fit the files as they are now."""
    hashes = json.loads((folder / DESCRIPTOR).read_text())
    hashes["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in hashes["files"]}
    (folder / DESCRIPTOR).write_text(json.dumps(hashes | changes))


def write_logits(folder, logits):
    buffer = io.BytesIO()
    np.savez(buffer, logits=logits)
    (folder / "softlabels.npz").write_bytes(buffer.getvalue())


def edit_json(folder, name, change):
    value = json.loads((folder / name).read_text())
    change(value)
    (folder / name).write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "again", "expected"),
    [
        (lambda f: (f / "softlabels.npz").unlink(), False, ["hash softlabels.npz", "logits"]),
        (lambda f: (f / DESCRIPTOR).unlink(), False, ["descriptor"]),
        (lambda f: (f / "alignmentreport.json").write_text("{"), False, ["hash alignmentreport.json", "report file"]),
        (lambda f: write_logits(f, np.zeros((70, 6), np.float32)), True, ["logits"]),
        (lambda f: write_logits(f, np.full((70, 7), np.nan, np.float32)), True, ["finite"]),
        (lambda f: write_logits(f, np.zeros((69, 7), np.float32)), True, ["row count"]),
        (lambda f: write_logits(f, SoftLabels.open(f).logits[::-1]), True, ["metrics again"]),
        (lambda f: write_logits(f, SoftLabels.open(f).logits.astype(np.float16)), True, ["metrics again", "report"]),
        (
            lambda f: edit_json(f, "ensemble_metrics.json", lambda m: m.update(ece=m["ece"] + 1e-5)),
            True,
            ["metrics again"],
        ),
        (lambda f: edit_json(f, "ensemble_metrics.json", lambda m: m.clear()), True, ["metrics again"]),
        (lambda f: edit_json(f, "classorder.json", lambda c: c.sort()), True, ["metrics again"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r["benchmark"].update(rows=71)), True, ["report"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r["teachers"].pop("A")), True, ["report"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r.pop("ensemble")), True, ["report"]),
        (lambda f: edit_json(f, "alignmentreport.json", lambda r: r["checks"].clear()), True, FROM_LOGITS),
        (
            lambda f: edit_json(f, "alignmentreport.json", lambda r: [c.update(verdict="pass") for c in r["checks"]]),
            True,
            ["agreement", "blocks"],
        ),
    ],
)
def test_each_fault_fails_its_own_check(folder, monkeypatch, change, again, expected):
    change(folder)
    if again:
        rehash(folder)
    monkeypatch.setattr("fer_mlflow.tracking.store.connect", None)  # a folder needs no store
    result = fer_mlflow.verify(run_or_folder=folder)
    assert failed(result) == expected
    assert (result.source, result.run_id) == (f"folder {folder}", "")


@pytest.mark.parametrize("lacking", ["balanced_accuracy", "f1/Fear"])
def test_a_bundle_that_lacks_a_metric_opens_and_verifies(folder, lacking):
    """Another version stores other metrics: what both have is compared."""
    edit_json(folder, "ensemble_metrics.json", lambda metrics: metrics.pop(lacking))
    rehash(folder)
    assert lacking not in SoftLabels.open(folder).metrics
    result = fer_mlflow.verify(run_or_folder=folder)
    assert failed(result) == []
    assert detail(result, "metrics again").endswith(f"labelled rows, without {lacking}")
    edit_json(folder, "ensemble_metrics.json", lambda metrics: metrics.update(ece=0.5))
    rehash(folder)
    assert failed(fer_mlflow.verify(run_or_folder=folder)) == ["metrics again"]


def test_a_folder_is_compared_with_a_manifest(sound, faces, tmp_path):
    result = fer_mlflow.verify(run_or_folder=sound(), manifest=faces)
    assert (result.name, result.rows) == ("logit · A 0.5 · B 0.5  on  manifest", 70)
    assert (verdicts(result)["manifest"], failed(result)) == ("pass", [])
    header, first, *rest = faces.read_text().splitlines()
    for lines in ([header, *rest, first], [header, *rest]):
        (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
        assert failed(fer_mlflow.verify(run_or_folder=sound(), manifest=tmp_path / "mine.csv")) == ["manifest"]


@pytest.fixture
def recompute(faces, toy_teachers):
    """Return a function that verifies a folder with some rows predicted again."""

    def run(folder, *, rows=70, manifest=faces, teachers=toy_teachers, seed=0):
        return fer_mlflow.verify(
            run_or_folder=folder, recompute=rows, manifest=manifest, teachers=teachers, seed=seed, device="cpu"
        )

    return run


@pytest.mark.parametrize(
    "options",
    [
        ("--space", "prob", "--clahe", "true"),
        ("--dtype", "float16"),
        ("--precision", "bf16"),
    ],
    ids=" ".join,
)
def test_teachers_that_predict_again_give_the_same(recompute, sound, options):
    result = recompute(sound(*options))
    names = ["checkpoint A", "checkpoint B", "preprocessing", "drawn images", "teachers", "logits again"]
    assert [verdicts(result)[name] for name in names] == ["pass"] * 6
    assert failed(result) == []
    assert detail(result, "logits again").startswith("70 rows predicted again; largest difference")


@pytest.mark.parametrize(("by", "verdict"), [(9e-4, "pass"), (1.1e-3, "fail")])
def test_a_stored_logit_may_differ_by_a_thousandth(recompute, folder, by, verdict):
    logits = SoftLabels.open(folder).logits.copy()
    logits[12, 3] += by
    write_logits(folder, logits)
    rehash(folder)
    result = recompute(folder)
    assert verdicts(result)["logits again"] == verdict
    named = '1 of 70 rows differ: row 13 "images/f0012.jpg" (0.0011)' in detail(result, "logits again")
    assert named == (verdict == "fail")


def test_rows_are_drawn_by_the_seed(recompute, folder):
    logits = SoftLabels.open(folder).logits.copy()
    logits[7, 2] += 1
    write_logits(folder, logits)
    rehash(folder)
    found = {seed: verdicts(recompute(folder, seed=seed, rows=35))["logits again"] for seed in range(4)}
    again = {seed: verdicts(recompute(folder, seed=seed, rows=35))["logits again"] for seed in range(2)}
    assert set(found.values()) == {"pass", "fail"}
    assert all(found[seed] == again[seed] for seed in again)


def test_other_checkpoints_settings_and_images_fail(recompute, sound, faces, toy_teachers, tmp_path):
    import torch

    write_teachers(tmp_path / "others", "AB")
    content = torch.load(tmp_path / "others/A.pt", weights_only=True)
    torch.save({**content, "epoch": 2}, tmp_path / "others/A.pt")
    result = recompute(sound(), teachers=tmp_path / "others/teachers.yaml")
    assert failed(result) == ["checkpoint A"]
    assert verdicts(result)["logits again"] == "skip"
    shutil.copytree(toy_teachers.parent, tmp_path / "same")
    text = toy_teachers.read_text().replace("0.25, 0.25, 0.25", "0.25, 0.25, 0.5")
    (tmp_path / "same/teachers.yaml").write_text(text)
    result = recompute(sound(), teachers=tmp_path / "same/teachers.yaml")
    assert failed(result) == ["teachers", "logits again"]
    assert "A: std is (0.25, 0.25, 0.5), was (0.25, 0.25, 0.25)" in detail(result, "teachers")
    shutil.copytree(faces.parent, tmp_path / "faces")
    (tmp_path / "faces/images/f0003.jpg").write_bytes((faces.parent / "images/f0004.jpg").read_bytes())
    result = recompute(sound(), manifest=tmp_path / "faces" / faces.name)
    assert failed(result) == ["drawn images"]
    assert detail(result, "drawn images") == (
        '1 of 70 are not the ones that the teachers decoded: row 4 "images/f0003.jpg" (other bytes)'
    )
    assert detail(result, "logits again").startswith("69 rows predicted again")


def test_a_calibrated_bundle_is_verified_where_its_temperature_says_how(local_place, recompute, sound, tmp_path):
    local_place.run("calibrate", "--bundle", sound(), "--export", "true", "--in-sample", "true")
    run_id = local_place.runs("export")[0].info.run_id
    calibrated = SoftLabels.open(local_place.stored(run_id))
    assert calibrated.report["calibration"]["temperature"] != 1
    assert verdicts(recompute(calibrated.folder))["logits again"] == "pass"
    folder = shutil.copytree(calibrated.folder, tmp_path / "vector")
    edit_json(folder, "alignmentreport.json", lambda report: report["calibration"].update(method="vector"))
    rehash(folder)
    result = recompute(folder)
    assert verdicts(result)["logits again"] == "skip"
    assert detail(result, "logits again").startswith("calibrated (vector)")
