import argparse
import json
import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from toys import CLASSES, TEACHERS, make_model

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import TeacherError
from fer_mlflow.teachers.checkpoint import load_teacher
from fer_mlflow.teachers.spec import TeacherSpec

ARCH, SIZE = TEACHERS["A"][:2]
STATE = make_model("A").state_dict()
IMAGE = torch.linspace(-1, 1, 3 * SIZE * SIZE).reshape(1, 3, SIZE, SIZE)
EXPECTED = make_model("A")(IMAGE).detach()


def spec(path, **fields):
    own = {"img_size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    own |= {name: fields.pop(name) for name in list(fields) if name in own}
    return TeacherSpec("A", path, **({"arch": ARCH} | fields), preprocessing=Preprocessing(**own))


def saved(folder, content, name="a.pt"):
    torch.save(content, folder / name)
    return folder / name


def logits(teacher):
    with torch.no_grad():
        return teacher.model(IMAGE)[:, teacher.columns]


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
def test_weights_are_found_wherever_trainers_put_them(tmp_path, key, prefix):
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    teacher = load_teacher(spec(saved(tmp_path, {key: state, "epoch": 3} if key else state)), FER7)
    assert torch.equal(logits(teacher), EXPECTED)
    assert teacher.description["weights_under"] == (key or "(bare)")
    assert not teacher.model.training


def test_an_ema_wrapper_is_opened(tmp_path):
    content = {"ema": {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}, "decay": 0.999}}
    assert torch.equal(logits(load_teacher(spec(saved(tmp_path, content)), FER7)), EXPECTED)


def test_half_precision_is_loaded_as_float32(tmp_path):
    half = {name: t.half() if t.is_floating_point() else t for name, t in STATE.items()}
    teacher = load_teacher(spec(saved(tmp_path, half)), FER7)
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}
    assert torch.allclose(logits(teacher), EXPECTED, atol=0.05)


def test_old_file_format_is_read(tmp_path):
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(logits(load_teacher(spec(tmp_path / "a.pth"), FER7)), EXPECTED)


def test_safetensors_and_its_metadata_are_read(tmp_path):
    path = tmp_path / "a.safetensors"
    metadata = {"arch": ARCH, "img_size": str(SIZE), "mean": "[0.1, 0.2, 0.3]", "classes": json.dumps(CLASSES)}
    safetensors.torch.save_file(STATE, path, metadata)
    teacher = load_teacher(TeacherSpec("A", path, preprocessing=Preprocessing(std=(0.5,) * 3)), FER7)
    assert torch.equal(logits(teacher), EXPECTED)
    assert (teacher.preprocessing.img_size, teacher.preprocessing.mean, teacher.assumed) == (SIZE, (0.1, 0.2, 0.3), ())


def test_options_of_a_training_script_do_no_harm(tmp_path):
    content = {"state_dict": STATE, "args": argparse.Namespace(lr=0.1, model=ARCH), "epoch": 1}
    assert torch.equal(logits(load_teacher(spec(saved(tmp_path, content)), FER7)), EXPECTED)


def test_the_checkpoint_fills_what_the_file_leaves_open(tmp_path):
    content = {"model": STATE, "arch": ARCH, "img_size": SIZE, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}
    teacher = load_teacher(TeacherSpec("A", saved(tmp_path, {**content, "classes": list(CLASSES)})), FER7)
    assert (teacher.preprocessing.img_size, teacher.preprocessing.mean, teacher.preprocessing.std) == (
        SIZE,
        (0.1, 0.2, 0.3),
        (1.0, 1.0, 1.0),
    )
    assert teacher.assumed == ()


def test_what_no_file_gives_is_assumed_and_listed(tmp_path):
    teacher = load_teacher(TeacherSpec("A", saved(tmp_path, STATE), arch=ARCH), FER7)
    assert teacher.preprocessing.img_size == 224
    assert teacher.preprocessing.mean == (0.5, 0.5, 0.5)  # timm's configuration of the test models
    assert [sentence.split()[0] for sentence in teacher.assumed] == ["outputs", "img_size", "mean", "std"]


def test_columns_follow_the_projects_class_order(tmp_path):
    other = ["neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger"]
    teacher = load_teacher(spec(saved(tmp_path, STATE), classes=tuple(other)), FER7)
    for column, name in enumerate(CLASSES):
        assert logits(teacher)[0, column] == EXPECTED[0, [FER7.index_of(o) for o in other].index(FER7.index_of(name))]
    assert np.array_equal(np.sort(teacher.columns), np.arange(7))


class Runs:
    """Pickles as a call."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, save in enumerate((torch.save, lambda value, path: path.write_bytes(pickle.dumps(value)))):
        path = tmp_path / f"{number}.pt"
        save({"model": STATE, "extra": Runs()}, path)
        with pytest.raises(TeacherError, match="would run code from the file"):
            load_teacher(spec(path), FER7)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.weight"), "1 missing (fc.weight)"),
        (lambda s: s.update(more=torch.zeros(1)), "1 left over (more)"),
        (lambda s: s.update({"fc.weight": torch.zeros(8, 96)}), "fc.weight (8, 96) where test_resnet has (7, 96)"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(tmp_path, change, message):
    state = dict(STATE)
    change(state)
    with pytest.raises(TeacherError) as caught:
        load_teacher(spec(saved(tmp_path, {"model": state})), FER7)
    assert message in str(caught.value)
    assert "correct arch or classes" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "carried", "message"),
    [
        ({"arch": "resnet_18"}, {}, "has no model 'resnet_18'; did you mean resnet18"),
        ({"arch": None}, {}, "no arch; name a timm model"),
        ({"arch": ARCH}, {"arch": "resnet18"}, f"arch is {ARCH} in teachers.yaml and resnet18 in the checkpoint"),
        ({"mean": (0.5,) * 3}, {"mean": [0.4, 0.5, 0.5]}, "mean is (0.5, 0.5, 0.5) in teachers.yaml and"),
        ({"classes": (*CLASSES[:-1], "Contempt")}, {}, "are not Angry, Disgust"),
        ({}, {"img_size": "large"}, "img_size 'large' is not the side"),
    ],
)
def test_contradictions_and_unknown_values_are_errors(tmp_path, fields, carried, message):
    with pytest.raises(TeacherError) as caught:
        load_teacher(spec(saved(tmp_path, {"model": STATE, **carried}), **fields), FER7)
    assert message in str(caught.value)
    assert "teacher A (" in str(caught.value)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(TeacherError, match=r"not a checkpoint|would run code"):
        load_teacher(spec(tmp_path / name), FER7)


def test_a_checkpoint_without_weights_names_what_it_holds(tmp_path):
    with pytest.raises(TeacherError, match="found epoch, optimizer; weights must be"):
        load_teacher(spec(saved(tmp_path, {"epoch": 1, "optimizer": {}})), FER7)


def test_architectures_of_a_fixed_input_are_built_for_the_image_size(tmp_path):
    import timm

    model = timm.create_model("test_vit", num_classes=7, img_size=96)
    path = saved(tmp_path, model.state_dict())
    teacher = load_teacher(spec(path, arch="test_vit", img_size=96), FER7)
    assert teacher.model(torch.zeros(1, 3, 96, 96)).shape == (1, 7)
    with pytest.raises(TeacherError, match="pos_embed"):
        load_teacher(spec(path, arch="test_vit", img_size=64), FER7)
