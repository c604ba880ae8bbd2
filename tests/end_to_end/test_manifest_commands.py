"""`fer-mlflow manifest …`, driven as a user does: files in, files and words out."""

import subprocess
import sys

import pytest
import toys
from mlflow import MlflowClient
from toys import CLASSES
from trees import FERPLUS_HEADER, fer2013_csv, put, rafdb

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.manifest import read_benchmark

RAFDB_CSV = """path,label,split,source
RAF-DB/Image/aligned/train_00001_aligned.jpg,Sad,train,rafdb
RAF-DB/Image/aligned/train_00002_aligned.jpg,Happy,train,rafdb
RAF-DB/Image/aligned/train_00003_aligned.jpg,Surprise,train,rafdb
RAF-DB/Image/aligned/test_0001_aligned.jpg,Neutral,test,rafdb
RAF-DB/Image/aligned/test_0002_aligned.jpg,Disgust,test,rafdb
RAF-DB/Image/aligned/test_0003_aligned.jpg,Angry,test,rafdb
RAF-DB/Image/aligned/test_0004_aligned.jpg,Fear,test,rafdb
"""


@pytest.fixture
def data(workplace):
    """Return a folder with RAF-DB in it."""
    rafdb(workplace.folder / "data/RAF-DB")
    return workplace.folder / "data"


def test_build_writes_a_manifest_and_says_what_it_found(workplace, data):
    result = workplace.run_installed("manifest", "build", "rafdb", "data/RAF-DB", "--out", "data/rafdb.csv")
    assert (data / "rafdb.csv").read_text() == RAFDB_CSV
    assert (
        result.stdout
        == f"""rafdb in data/RAF-DB: 7 of 7 images
  test: 4 labels, rafdb published 3,068 (test) or others per class; are the label files complete?
  train: 3 labels, rafdb published 12,271 (train) or others per class; are the label files complete?
  split  class     expected  found  missing  published
  test   Angry            1      1        0        162
  test   Disgust          1      1        0        160
  test   Fear             1      1        0         74
  test   Neutral          1      1        0        680
  train  Happy            1      1        0      4,772
  train  Sad              1      1        0      1,982
  train  Surprise         1      1        0      1,290

manifest  {data}/rafdb.csv, 7 rows
"""
    )
    assert result.stderr == ""
    assert workplace.runs() == []


def test_a_manifest_beside_the_data_needs_a_root_and_says_which(workplace, data):
    words = ["manifest", "build", "rafdb", "data/RAF-DB", "--out", "lists/rafdb.csv"]
    refused = workplace.run(*words, status=2)
    assert f"give --root {workplace.folder} here and in every command" in refused.stderr
    assert not (workplace.folder / "lists").exists()
    result = workplace.run(*words, "--root", "data")
    assert f"root      {data}: give it as --root to every command that reads this manifest" in result.stdout
    assert (workplace.folder / "lists/rafdb.csv").read_text() == RAFDB_CSV
    assert len(read_benchmark(workplace.folder / "lists/rafdb.csv", FER7, root=data)) == 7


def test_missing_images_fail_unless_they_are_allowed_and_are_reported(workplace, data):
    (data / "RAF-DB/Image/aligned/test_0004_aligned.jpg").rename(data / "RAF-DB/test_0004.jpg")
    words = ["manifest", "build", "rafdb", "data/RAF-DB", "--out", "data/rafdb.csv"]
    refused = workplace.run(*words, status=2)
    assert refused.stderr.startswith("fer-mlflow: data/RAF-DB: 1 of 7 images are missing, first tried ")
    assert "similar files lie in data/RAF-DB (1, such as test_0004.jpg)" in refused.stderr
    assert not (data / "rafdb.csv").exists()
    result = workplace.run(*words, "--allow-missing", "true", "--report", "report.md")
    assert "  test   Fear             1      0        1         74\n" in result.stdout
    assert "| test | Fear | 1 | 0 | 1 | 74 |" in (workplace.folder / "report.md").read_text()
    assert len((data / "rafdb.csv").read_text().splitlines()) == 7


def test_pixels_are_written_beside_the_manifest_and_a_second_build_changes_nothing(workplace):
    fer2013_csv(workplace.folder / "fer/fer2013.csv", [(0, "Training"), (6, "PublicTest"), (4, "PrivateTest")])
    words = ["manifest", "build", "fer2013", "fer", "--out", "data/fer.csv"]
    workplace.run(*words)
    csv = workplace.folder / "data/fer.csv"
    assert csv.read_text().splitlines()[1:] == [
        "fer_images/train/fer0000000.png,Angry,train,fer2013",
        "fer_images/val/fer0000001.png,Neutral,val,fer2013",
        "fer_images/test/fer0000002.png,Sad,test,fer2013",
    ]
    files = {path: path.stat().st_mtime_ns for path in (csv.parent / "fer_images").rglob("*.png")}
    before = csv.read_text()
    workplace.run(*words)
    assert csv.read_text() == before
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert len(read_benchmark(csv, FER7)) == 3
    refused = workplace.run(*words, "--images", workplace.folder / "elsewhere", status=2)
    assert "outside of" in refused.stderr
    assert not (workplace.folder / "elsewhere").exists()


def test_contempt_comes_with_a_class_file(workplace):
    folder = workplace.folder / "ferplus"
    fer2013_csv(folder / "fer2013.csv", [(0, "Training"), (0, "Training")])
    votes = ["Training,fer0000000.png,0,0,0,0,0,0,0,9,1,0", "Training,fer0000001.png,0,10,0,0,0,0,0,0,0,0"]
    (folder / "fer2013new.csv").write_text("\n".join([FERPLUS_HEADER, *votes]))
    (workplace.folder / "eight.yaml").write_text(f"[{', '.join(CLASSES)}, Contempt]")
    words = ["manifest", "build", "ferplus", "ferplus", "--out", "f.csv", "--min-agreement", "0.9"]
    result = workplace.run(*words)
    assert "1 left out: of class contempt, which is not among the classes" in result.stdout
    workplace.run(*words, "--classes", "eight.yaml")
    assert (workplace.folder / "f.csv").read_text().splitlines() == [
        "path,label,split,source,agreement",
        "f_images/FER2013Train/fer0000000.png,Contempt,train,ferplus,0.9",
        "f_images/FER2013Train/fer0000001.png,Happy,train,ferplus,1",
    ]


@pytest.fixture
def two_manifests(workplace):
    """Write a.csv and b/b.csv, which share an image across splits."""
    folder = workplace.folder
    for path, number in (("x/1.jpg", 1), ("x/2.jpg", 2), ("b/1.jpg", 1), ("b/3.jpg", 3)):
        put(folder / path, number)
    (folder / "a.csv").write_text("path,label,split\nx/1.jpg,Happy,train\nx/2.jpg,Sad,val\n")
    (folder / "b/b.csv").write_text("path,label,split\n1.jpg,happiness,test\n3.jpg,Fear,train\n")
    return folder


def test_merge_reports_leakage_and_writes_valid_paths(workplace, two_manifests):
    result = workplace.run("manifest", "merge", "a.csv", "b/b.csv", "--out", "all.csv")
    assert (two_manifests / "all.csv").read_text() == (
        "path,label,split,source\nx/2.jpg,Sad,val,a\nb/1.jpg,Happy,test,b\nb/3.jpg,Fear,train,b\n"
    )
    assert "leakage: 1 images are in two splits\n  x/1.jpg of a.csv is b/1.jpg of b/b.csv\n" in result.stdout
    assert "1 rows left out, whose image is there already (same bytes)" in result.stdout
    assert "a.csv has no row of Fear, others have" in result.stdout


def test_merge_takes_splits_roots_and_sources_per_input(workplace, two_manifests):
    (two_manifests / "lists").mkdir()
    (two_manifests / "b/b.csv").rename(two_manifests / "lists/b.csv")
    more = ["--out", "all.csv", "--from-root", ",b", "--source", "one,two"]
    workplace.run("manifest", "merge", "a.csv:val", "lists/b.csv:train", *more)
    assert (two_manifests / "all.csv").read_text().splitlines()[1:] == ["x/2.jpg,Sad,val,one", "b/3.jpg,Fear,train,two"]
    commas = workplace.run("manifest", "merge", "a.csv:val,lists/b.csv:train", *more)
    assert "all.csv, 2 rows" in commas.stdout
    refused = workplace.run(
        "manifest", "merge", "a.csv", "lists/b.csv", "--out", "c.csv", "--source", "1,2,3", status=2
    )
    assert refused.stderr == "fer-mlflow: --source: found 3 for 2 inputs; give one, or one for each\n"


def test_merge_refuses_contradictions_and_writes_nothing(workplace, two_manifests):
    (two_manifests / "b/b.csv").write_text("path,label,split\n1.jpg,Sad,test\n")
    refused = workplace.run("manifest", "merge", "a.csv", "b/b.csv", "--out", "all.csv", status=2)
    assert 'two labels: "Happy" for x/1.jpg (a.csv) and "Sad" for b/1.jpg (b/b.csv)' in refused.stderr
    assert not (two_manifests / "all.csv").exists()


def test_check_says_clean_and_exits_with_0(workplace, two_manifests):
    result = workplace.run_installed("manifest", "check", "a.csv")
    lines = result.stdout.splitlines()
    assert lines[0] == "a.csv: clean"
    assert lines[2] == "  0 errors, 0 warnings, 1 notes"
    assert (result.stderr, workplace.runs()) == ("", [])


def test_check_exits_with_2_for_errors_and_with_strict_for_warnings(workplace, two_manifests):
    (two_manifests / "all.csv").write_text("path,label,split\nx/1.jpg,Happy,train\nb/1.jpg,Happy,test\n")
    result = workplace.run("manifest", "check", "all.csv", "--report", "r.md")
    assert (
        "warning: leak\n  1 x an image in two splits (same bytes)\n    x/1.jpg (train, Happy) = b/1.jpg"
        in result.stdout
    )
    assert "## warning: leak\n\n- 1 x an image in two splits (same bytes)" in (two_manifests / "r.md").read_text()
    strict = workplace.run("manifest", "check", "all.csv", "--strict", "true", status=2)
    assert strict.stderr == "fer-mlflow: all.csv: 0 errors and 1 warnings; the report above has them\n"
    assert strict.stdout == result.stdout
    (two_manifests / "bad.csv").write_text("path,label\nx/1.jpg,Happy\ngone.jpg,Sad\n")
    bad = workplace.run("manifest", "check", "bad.csv", status=2)
    assert bad.stdout.startswith("bad.csv: not to be trusted\n  1 rows, digest ")
    assert '1 x file that is not under .: row 2 "gone.jpg"' in bad.stdout
    assert bad.stderr == "fer-mlflow: bad.csv: 1 errors; the report above has them\n"


def test_check_of_one_split_leaves_the_others_alone(workplace, two_manifests):
    (two_manifests / "all.csv").write_text("path,label,split\nx/1.jpg,Happy,train\ngone.jpg,Happy,test\n")
    assert workplace.run("manifest", "check", "all.csv:train").stdout.startswith("all.csv:train: clean\n")


def test_check_against_another_manifest(workplace, two_manifests):
    result = workplace.run("manifest", "check", "a.csv", "--against", "b/b.csv")
    assert result.stdout.partition("\nagainst b/b.csv\n")[2] == (
        "  different benchmarks\n"
        "  2 rows only here, 2 only there\n"
        "    x/1.jpg: only here\n"
        "    x/2.jpg: only here\n"
        "    1.jpg: only there\n"
        "    3.jpg: only there\n"
        "  by content: 1 of 2 images here are among the 2 there\n"
        "  split here  there test\n"
        "  train                1\n"
    )
    same = workplace.run("manifest", "check", "a.csv", "--against", "a.csv")
    assert "the same benchmark: same rows, same order" in same.stdout
    (two_manifests / "far").mkdir()
    (two_manifests / "a.csv").rename(two_manifests / "far/a.csv")
    blind = workplace.run("manifest", "check", "b/b.csv", "--against", "far/a.csv")
    assert "warning: no image of far/a.csv is under far; give --against-root" in blind.stderr
    assert "by content" not in blind.stdout
    seen = workplace.run("manifest", "check", "b/b.csv", "--against", "far/a.csv", "--against-root", ".")
    assert "by content: 1 of 2 images" in seen.stdout


def test_check_needs_neither_mlflow_nor_torch(workplace, two_manifests):
    code = (
        "import sys; from fer_mlflow.cli import main\n"
        "try: main(['manifest', 'check', 'a.csv'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "print([name for name in ('mlflow', 'torch', 'timm') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=two_manifests, env=workplace.env
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_split_writes_a_manifest_that_export_reads(workplace):
    manifest = toys.write_faces(workplace.folder / "faces", 70)
    words = ["manifest", "split", manifest, "--splits", "train=0.6,test=0.4", "--seed", "3"]
    result = workplace.run(*words, "--out", "faces/new.csv")
    rows = read_benchmark(workplace.folder / "faces/new.csv", FER7).frame
    assert rows["split"].value_counts().to_dict() == {"train": 42, "test": 28}
    assert "  label     train  test\n  Angry         6     4\n" in result.stdout
    workplace.run(*words, "--out", "up.csv")
    up = read_benchmark(workplace.folder / "up.csv", FER7).frame
    assert up["path"].tolist() == [f"faces/{path}" for path in rows["path"]]
    assert up["split"].tolist() == rows["split"].tolist()


def test_split_of_one_split_leaves_the_others_and_keeps_groups_whole(workplace):
    manifest = toys.write_faces(workplace.folder / "faces", 40, split="train")
    header, *lines = manifest.read_text().splitlines()
    lines = [f"{line},p{number // 4}" for number, line in enumerate(lines)]
    lines[:8] = [line.replace(",train,", ",test,") for line in lines[:8]]
    manifest.write_text("\n".join([f"{header},person", *lines]))
    words = ["--out", "faces/new.csv", "--splits", "train=0.5,val=0.5", "--split", "train", "--group", "person"]
    result = workplace.run("manifest", "split", manifest, *words)
    rows = read_benchmark(workplace.folder / "faces/new.csv", FER7).frame
    assert rows["split"].value_counts().to_dict() == {"train": 16, "val": 16, "test": 8}
    assert (rows["split"][:8] == "test").all()
    assert (rows.groupby("person")["split"].nunique() == 1).all()
    assert "8 values of person, each in one split" in result.stdout
    refused = workplace.run("manifest", "split", manifest, *words[:4], "--split", "tset", status=2)
    assert 'no row has split "tset"; its splits are test, train' in refused.stderr


def test_track_logs_the_manifest_under_the_name_and_digest_that_an_export_has(workplace, data):
    words = ["--action", "build", "--dataset", "rafdb", "--folder", "data/RAF-DB", "--out", "data/rafdb.csv"]
    result = workplace.run("manifest", "track", *words)
    (run,) = workplace.runs("manifest")
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "build rafdb"
    assert {
        key: run.data.params[key] for key in ("action", "dataset", "out", "min_agreement", "benchmark", "rows")
    } == {
        "action": "build",
        "dataset": "rafdb",
        "out": "data/rafdb.csv",
        "min_agreement": "0",
        "benchmark": "rafdb",
        "rows": "7",
    }
    assert run.data.metrics["rows"] == 7
    assert (run.data.metrics["rows/test"], run.data.metrics["rows/test Fear"]) == (4, 1)
    splits = {split: read_benchmark(data / "rafdb.csv", FER7, split=split) for split in (None, "train", "test")}
    logged = {(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs}
    assert logged == {(part.name, part.selection_sha256[:32]) for part in splits.values()}
    client = MlflowClient(workplace.uri)
    assert {each.path for each in client.list_artifacts(run.info.run_id)} == {"rafdb.csv", "report.md"}
    assert run.info.run_id in result.stdout
    refused = workplace.run("manifest", "track", "--action", "merge", *words[2:], status=2)
    assert refused.stderr == "fer-mlflow: --action merge needs --inputs\n"
    refused = workplace.run("manifest", "track", *words, "--inputs", "a.csv", status=2)
    assert refused.stderr == "fer-mlflow: --inputs: no effect with --action build, only with merge; remove it\n"
    assert len(workplace.runs()) == 1


def test_the_run_that_mlflow_opened_is_that_of_the_manifest(workplace, data):
    words = ["--action", "build", "--dataset", "rafdb", "--folder", data / "RAF-DB", "--out", data / "rafdb.csv"]
    _, built = workplace.run_joined("manifest", "track", *words)
    assert (data / "rafdb.csv").read_text() == RAFDB_CSV
    assert (built.info.status, built.data.tags["fer.kind"]) == ("FINISHED", "manifest")
    put(data / "more/1.jpg", 77)
    (data / "more.csv").write_text("path,label,split\nmore/1.jpg,Sad,test\n")
    words = ["--action", "merge", "--inputs", f"{data}/rafdb.csv:test,{data}/more.csv", "--out", data / "all.csv"]
    _, merged = workplace.run_joined("manifest", "track", *words, "--name", "it's all")
    assert (data / "all.csv").read_text().splitlines()[1:] == [
        *RAFDB_CSV.splitlines()[4:],
        "more/1.jpg,Sad,test,more",
    ]
    assert (merged.info.run_name, merged.data.params["rows"], merged.info.status) == ("it's all", "5", "FINISHED")
    assert len(workplace.runs()) == 2
