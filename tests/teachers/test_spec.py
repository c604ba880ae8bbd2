import pytest

from fer_mlflow.data.preprocessing import Clahe, Preprocessing
from fer_mlflow.errors import TeacherError
from fer_mlflow.teachers.spec import TeacherSpec, content_key, hash_checkpoints, read_teachers

FULL = """
A:
  arch: resnet18
  checkpoint: weights/a.pt
  img_size: 224
  mean: [0.5, 0.5, 0.5]
  std: [0.25, 0.25, 0.25]
  classes: [x, y]
B: {checkpoint: b.pt}
"""


@pytest.fixture
def teachers(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pt").write_bytes(b"aaa")
    (tmp_path / "b.pt").write_bytes(b"bbb")

    def write(text):
        (tmp_path / "teachers.yaml").write_text(text)
        return tmp_path / "teachers.yaml"

    return write


def test_values_are_read_and_paths_start_from_the_file(teachers, tmp_path):
    path = teachers(FULL)
    assert read_teachers(path, ["B", "A"]) == {
        "B": TeacherSpec("B", tmp_path / "b.pt"),
        "A": TeacherSpec(
            "A",
            tmp_path / "weights/a.pt",
            "resnet18",
            ("x", "y"),
            Preprocessing(224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ),
    }


def test_one_clahe_is_given_to_all(teachers):
    specs = read_teachers(teachers(FULL), ["A", "B"], Clahe(3.0, 4))
    assert [spec.preprocessing.name for spec in specs.values()] == ["clahe 3/4"] * 2
    assert specs["A"].preprocessing.img_size == 224


def test_only_the_named_teachers_are_read(teachers):
    path = teachers(FULL + "C: {checkpoint: not-there.pt, colour: blue}\n")
    assert list(read_teachers(path, ["A"])) == ["A"]


@pytest.mark.parametrize("size", ["[3, 96, 96]", "[96, 96]", "96"])
def test_img_size_may_be_written_as_timm_does(teachers, size):
    path = teachers(f"B: {{checkpoint: b.pt, img_size: {size}}}")
    assert read_teachers(path, ["B"])["B"].preprocessing.img_size == 96


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: {checkpoint: none.pt}", "no checkpoint file"),
        ("A: {arch: resnet18}", "no checkpoint; write A:"),
        ("A: resnet18", "no checkpoint; write A:"),
        ("A: {checkpoint: b.pt, archh: x}", "unknown key archh; known are arch, img_size"),
        ("A: {checkpoint: b.pt, arch: 18}", "arch 18 is not the name"),
        ("A: {checkpoint: b.pt, img_size: 0}", "img_size 0 is not the side"),
        ("A: {checkpoint: b.pt, img_size: [64, 96]}", "img_size [64, 96] is not the side"),
        ("A: {checkpoint: b.pt, mean: [0.5, 0.5]}", "mean [0.5, 0.5] is not a list of three numbers"),
        ("A: {checkpoint: b.pt, mean: [0.5, .nan, 0.5]}", "is not a list of three numbers"),
        ("A: {checkpoint: b.pt, std: [0, 1, 1]}", "not above 0"),
        ("A: {checkpoint: b.pt, resize: stretch}", "resize 'stretch' is not one of squash"),
        ("A: {checkpoint: b.pt, clahe: true}", "unknown key clahe"),
        ("A: {checkpoint: b.pt, classes: [x]}", "classes ['x'] is not a list of two or more names"),
        ("A: {checkpoint: b.pt}\nA: {checkpoint: b.pt}", '"A" is there twice'),
        ("A: {checkpoint: b.pt", "not YAML"),
        ("- A", "holds no mapping"),
        ("X: {checkpoint: b.pt}", "no teacher A among X"),
    ],
)
def test_what_is_wrong_is_named_and_where(teachers, text, message):
    with pytest.raises(TeacherError) as caught:
        read_teachers(teachers(text), ["A"])
    assert message in str(caught.value)
    assert "teachers.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TeacherError, match=r"No such file.*--teachers"):
        read_teachers(tmp_path / "none.yaml", ["A"])


def key(spec=None, **changes):
    given = {
        "checkpoint_sha256": "c" * 64,
        "selection_sha256": "s" * 64,
        "classes": ("x", "y"),
        "precision": "fp32",
    }
    return content_key(spec or TeacherSpec("A", "a.pt", "resnet18"), **given | changes)


def test_the_key_begins_with_the_benchmark():
    assert key().startswith("s" * 32 + ".")


@pytest.mark.parametrize(
    "other",
    [
        {"checkpoint_sha256": "d" * 64},
        {"selection_sha256": "t" * 64},
        {"classes": ("y", "x")},
        {"precision": "bf16"},
        {"spec": TeacherSpec("A", "a.pt", "resnet34")},
        {"spec": TeacherSpec("A", "a.pt", "resnet18", preprocessing=Preprocessing(img_size=64))},
        {"spec": TeacherSpec("A", "a.pt", "resnet18", preprocessing=Preprocessing(mean=(0.5, 0.5, 0.5)))},
        {"spec": TeacherSpec("A", "a.pt", "resnet18", preprocessing=Preprocessing(clahe=Clahe()))},
        {"spec": TeacherSpec("A", "a.pt", "resnet18", classes=("y", "x"))},
    ],
)
def test_the_key_changes_with_whatever_the_logits_depend_on(other):
    assert key(**other) != key()


def test_keys_are_golden():
    """These never change: a stored teacher run would not be found any more."""
    declared = Preprocessing(96, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    everything = TeacherSpec("A", "a.pt", "resnet18", ("y", "x"), declared)
    keys = [key(TeacherSpec("A", "a.pt")), key(), key(everything, precision="bf16")]
    assert [each.partition(".")[2] for each in keys] == [
        "852a96001e29a82e4c3638209f5fcbb0",
        "56a8f204d3606f4c50c96dd73046a6d0",
        "8979b62d38821a0e1e5c611beef233f2",
    ]


def test_the_key_does_not_depend_on_names():
    assert key(TeacherSpec("Z", "elsewhere.pt", "resnet18")) == key()


def test_checkpoints_are_hashed_by_content(teachers):
    import hashlib

    hashes = hash_checkpoints(read_teachers(teachers(FULL), ["A", "B"]))
    assert hashes == {"A": hashlib.sha256(b"aaa").hexdigest(), "B": hashlib.sha256(b"bbb").hexdigest()}
