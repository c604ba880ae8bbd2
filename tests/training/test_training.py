"""Training: learns, goes on after a kill to the same weights, and says what is wrong before the first step."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from toys import write_faces

from fer_mlflow.data.classes import FER7
from fer_mlflow.data.images import image_prefixes
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.data.scan import hash_images
from fer_mlflow.errors import ContractError, ImageError, JobError, TeacherError
from fer_mlflow.settings.training import Recipe
from fer_mlflow.teachers.checkpoint import load_teacher
from fer_mlflow.teachers.spec import TeacherSpec
from fer_mlflow.training import loop as training
from fer_mlflow.training.images import class_weights
from fer_mlflow.training.loop import check_recipe, check_training_rows, train_teacher, training_key

RECIPE = Recipe(arch="test_resnet", img_size=32, epochs=3, lr=0.01, batch_size=16, affine=5, color_jitter=0.1)


@pytest.fixture
def parts(tmp_path):
    """Return the training and validation parts of 84 toy images."""
    manifest = write_faces(tmp_path / "faces", 84)
    lines = manifest.read_text().splitlines()
    rows = [line.replace(",test,", ",val," if i % 4 == 0 else ",train,") for i, line in enumerate(lines)]
    rows = [row for i, row in enumerate(rows) if i < 40 or ",Happy,train," not in row]  # classes are not balanced
    manifest.write_text("\n".join(rows) + "\n")
    return tuple(read_benchmark(manifest, FER7, split=split) for split in ("train", "val"))


def run(parts, tmp_path, recipe=RECIPE, name="state", **more):
    return train_teacher(*parts, recipe, tmp_path / name / "last.pt", device="cpu", workers=0, **more)


def same_weights(one, two):
    a, b = one.checkpoint["model"], two.checkpoint["model"]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def with_recipe(**changes):
    return replace(RECIPE, **changes)


def test_it_learns_what_it_is_shown(parts, tmp_path):
    trained = run(parts, tmp_path, with_recipe(epochs=12, affine=0.0, color_jitter=0.0, flip=0.0))
    assert trained.history[-1].train_loss < 0.7 * trained.history[0].train_loss
    assert [epoch.number for epoch in trained.history] == list(range(1, 13))
    assert trained.best.val_macro_f1 == max(epoch.val_macro_f1 for epoch in trained.history)
    rates = [epoch.learning_rate for epoch in trained.history]
    assert rates[-1] < rates[1] <= 0.01


def test_the_same_seed_gives_the_same_weights_and_another_does_not(parts, tmp_path):
    one, two = run(parts, tmp_path, name="one"), run(parts, tmp_path, name="two")
    assert same_weights(one, two)
    assert one.history == two.history
    assert not same_weights(one, run(parts, tmp_path, with_recipe(seed=1), name="three"))


@pytest.mark.parametrize("after", [1, 2])
def test_a_killed_training_goes_on_to_the_same_weights(parts, tmp_path, after):
    whole = run(parts, tmp_path, name="whole")
    seen = []

    def stop(epoch):
        seen.append(epoch)
        if epoch.number == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path, on_epoch=stop)
    again = []
    resumed = run(parts, tmp_path, on_epoch=again.append)
    assert again[:after] == seen  # the epochs of the first attempt are reported again, not computed
    assert resumed.history == whole.history
    assert same_weights(resumed, whole)


def test_a_state_of_other_images_is_not_taken_over(parts, tmp_path):
    run(parts, tmp_path)
    shutil.copyfile(parts[0].root / parts[0].paths[0], parts[0].root / parts[0].paths[1])
    messages = []
    assert len(run(parts, tmp_path, warn=messages.append).history) == 3
    assert any("starting from the first epoch" in message for message in messages)


def test_the_checkpoint_needs_only_its_path(parts, tmp_path):
    trained = run(parts, tmp_path, with_recipe(clahe=True, clahe_clip=3.0, clahe_tile=4))
    trained.write(tmp_path / "a.pt")
    teacher = load_teacher(TeacherSpec("A", tmp_path / "a.pt"), FER7)
    assert (teacher.preprocessing.img_size, teacher.assumed) == (32, ())
    assert teacher.description["trained_with_clahe"] == {"clip": 3.0, "tile": 4}
    digests = hash_images(parts[0].root, parts[0].paths)
    np.testing.assert_array_equal(teacher.trained_on, np.sort(image_prefixes(digests)))
    assert trained.checkpoint["trained_on"]["selection_sha256"] == parts[0].selection_sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"balance": "sampling"},
        {"balance": "loss"},
        {"label_smoothing": 0.1},
        {"random_erasing": 0.5},
        {"flip": 0.0},
        {"optimizer": "sgd"},
        {"precision": "bf16"},
        {"weight_decay": 0.5},
    ],
    ids=str,
)
def test_every_setting_shapes_the_weights_and_the_key(parts, tmp_path, changes):
    recipe = with_recipe(epochs=1)
    other = with_recipe(epochs=1, **changes)
    assert training_key(recipe, *parts, None) != training_key(other, *parts, None)
    assert not same_weights(run(parts, tmp_path, recipe, "one"), run(parts, tmp_path, other, "two"))


def test_balanced_classes_weigh_the_same(parts):
    labels = parts[0].labels
    weights = class_weights(parts[0])
    totals = np.bincount(labels, weights=weights[labels], minlength=7)
    np.testing.assert_allclose(totals, len(labels) / 7)


def test_pixels_read_again_each_epoch_are_the_ones_in_memory(parts, tmp_path, monkeypatch):
    kept = run(parts, tmp_path, name="kept")
    monkeypatch.setattr("fer_mlflow.training.images.KEPT_PIXELS_BYTES", 0)
    assert same_weights(kept, run(parts, tmp_path, name="read"))


def test_a_checkpoint_to_start_from_gives_all_but_another_head(parts, tmp_path):
    model = timm.create_model("test_resnet", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "init.pt")
    messages = []
    started = run(parts, tmp_path, with_recipe(epochs=1, lr=1e-9), init=tmp_path / "init.pt", warn=messages.append)
    assert any("fc.weight, fc.bias" in message and "starts at random" in message for message in messages)
    name, first = next(iter(model.named_parameters()))
    torch.testing.assert_close(started.checkpoint["model"][name], first.detach(), atol=1e-5, rtol=1e-4)
    with pytest.raises(TeacherError, match="not of this architecture"):
        run(parts, tmp_path, with_recipe(arch="test_convnext"), "other", init=tmp_path / "init.pt")


def test_a_loss_that_is_not_finite_stops_and_leaves_no_checkpoint(parts, tmp_path):
    with pytest.raises(JobError, match=r"epoch \d+, step \d+: the loss is (nan|inf); lower --lr"):
        run(parts, tmp_path, with_recipe(lr=1e30, optimizer="sgd", warmup_epochs=0))
    assert [path.name for path in (tmp_path / "state").glob("*")] in ([], ["last.pt"])


def test_every_broken_image_is_named_before_the_first_step(parts, tmp_path, monkeypatch):
    for row in (2, 5):
        (parts[0].root / parts[0].paths[row]).write_bytes(b"broken")
    monkeypatch.setattr(training, "train_epoch", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(ImageError, match=r"2 images cannot be decoded: row 3 .* row 6 .* in manifest:train; repair"):
        run(parts, tmp_path)


def test_images_in_both_parts_are_said(parts, tmp_path):
    shutil.copyfile(parts[0].root / parts[0].paths[0], parts[1].root / parts[1].paths[0])
    messages = []
    run(parts, tmp_path, with_recipe(epochs=1), warn=messages.append)
    assert any("1 of 21 validation images are also trained on" in message for message in messages)


def write(tmp_path, rows):
    (tmp_path / "m.csv").write_text("path,label,split\n" + "".join(f"{row}\n" for row in rows))
    return [read_benchmark(tmp_path / "m.csv", FER7, split=s, verify_paths=False) for s in ("train", "val")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,Happy,train", "b,Happy,train", "c,Sad,val"], "all 2 rows are Happy; training needs two or more classes"),
        (["a,Happy,train", "b,,train", "c,Sad,val"], "row 2 has no label; training needs one"),
        (["a,Happy,train", "b,Sad,train", "c,,val"], "row 1 has no label; validation needs one"),
        (["a,Happy,train", "b,Sad,train", "a,Happy,val"], "1 images are both in m:train and in m:val, a for one"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused(tmp_path, rows, message):
    with pytest.raises(ContractError) as caught:
        check_training_rows(*write(tmp_path, rows))
    assert message in str(caught.value)


def test_unknown_models_and_optimizers_are_refused_with_near_ones():
    with pytest.raises(TeacherError, match="no model 'resnet_18'; did you mean"):
        check_recipe(with_recipe(arch="resnet_18"))
    with pytest.raises(ContractError, match=r"timm has no 'adamww'; near are .*adamw"):
        check_recipe(with_recipe(optimizer="adamww"))
