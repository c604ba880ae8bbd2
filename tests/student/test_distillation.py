"""The objective of a student: its rows, its weights, its key; and the training loop that it shares with teachers."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional
from toys import write_soft_labels

from fer_mlflow.data.classes import FER7, ClassOrder
from fer_mlflow.data.manifest import read_benchmark
from fer_mlflow.errors import BundleError, ContractError
from fer_mlflow.settings.training import LossSettings, Recipe
from fer_mlflow.student.distillation import SoftObjective, make_targets
from fer_mlflow.student.losses import dkd_loss, kd_loss
from fer_mlflow.training.loop import LabelObjective, NotFiniteError, train_teacher, training_key

RECIPE = Recipe(arch="test_resnet", img_size=32, epochs=2, lr=0.01, batch_size=16, flip=0.5, affine=5)
ROWS = torch.tensor([5, 0, 17, 40])


def objective_of(part, train_bundle, how=None, recipe=RECIPE, **more):
    how = how or LossSettings()
    return SoftObjective(part, recipe, train_bundle, make_targets(train_bundle, {}, None, how.temperature), how, **more)


@pytest.fixture
def batch(train_part):
    """Return logits of a student and the labels of four rows."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 7, generator=generator, requires_grad=True), torch.from_numpy(train_part.labels[ROWS.numpy()])


@pytest.mark.parametrize("loss", ["kd", "dkd"])
def test_the_loss_is_the_weighted_sum_of_its_parts(train_part, train_bundle, batch, loss):
    how = LossSettings(loss=loss, temperature=3.0, alpha=0.7, beta=2.0, ce_weight=0.4)
    student, labels = batch
    teacher = torch.from_numpy(train_bundle.logits[ROWS.numpy()])
    soft = {
        "kd": lambda: 0.7 * kd_loss(student, teacher, 3.0),
        "dkd": lambda: dkd_loss(student, teacher, labels, 0.7, 2.0, 3.0),
    }[loss]()
    expected = 0.4 * functional.cross_entropy(student, labels) + soft
    torch.testing.assert_close(objective_of(train_part, train_bundle, how)(student, labels, ROWS, 0), expected)
    without = LossSettings(loss=loss, temperature=3.0, alpha=0.7, beta=2.0, ce_weight=0.0)
    torch.testing.assert_close(objective_of(train_part, train_bundle, without)(student, labels, ROWS, 0), soft)


def test_the_divergence_rises_over_the_warm_up(train_part, train_bundle, batch):
    how = LossSettings(distill_warmup_epochs=3)
    objective, plain = objective_of(train_part, train_bundle, how), objective_of(train_part, train_bundle)
    ce = LabelObjective(train_part, RECIPE)(*batch, ROWS, 0)
    full = plain(*batch, ROWS, 0) - ce
    for epoch, share in enumerate([0.25, 0.5, 0.75, 1.0, 1.0]):
        torch.testing.assert_close(objective(*batch, ROWS, epoch), ce + share * full)


def test_label_smoothing_and_class_weights_are_the_labels_part_alone(train_part, train_bundle, batch):
    recipe = Recipe(arch="test_resnet", balance="loss", label_smoothing=0.1)
    difference = objective_of(train_part, train_bundle, recipe=recipe)(*batch, ROWS, 0) - objective_of(
        train_part, train_bundle
    )(*batch, ROWS, 0)
    labels_alone = LabelObjective(train_part, recipe)(*batch, ROWS, 0) - LabelObjective(train_part, RECIPE)(
        *batch, ROWS, 0
    )
    torch.testing.assert_close(difference, labels_alone)


@pytest.fixture
def partial(tmp_path, split_faces):
    """Return soft labels of all training rows but rows 1 and 18 (from 1): of the batch, rows 0 and 17."""
    lines = split_faces.read_text().splitlines()
    part = read_benchmark(split_faces, FER7, split="train")
    gone = {part.paths[0], part.paths[17]}
    shorter = split_faces.with_name("shorter.csv")
    shorter.write_text("\n".join(line for line in lines if line.split(",")[0] not in gone) + "\n")
    return write_soft_labels(tmp_path / "partial", read_benchmark(shorter, FER7, split="train"))


@pytest.mark.parametrize("loss", ["kd", "dkd"])
def test_rows_without_soft_labels_have_their_labels_alone(train_part, partial, train_bundle, batch, loss):
    with pytest.raises(BundleError, match=r"2 of 54 rows have no soft labels: row 1 .*, row 18 .*; .* --missing ce"):
        objective_of(train_part, partial, LossSettings(loss=loss))
    objective = objective_of(train_part, partial, LossSettings(loss=loss), allow_missing=True)
    assert objective.missing == 2
    student, labels = batch
    there = torch.tensor([0, 3])
    teacher = torch.from_numpy(train_bundle.logits[ROWS[there].numpy()])
    soft = {
        "kd": lambda: kd_loss(student[there], teacher, 4.0),
        "dkd": lambda: dkd_loss(student[there], teacher, labels[there], 1.0, 8.0, 4.0),
    }[loss]()
    value = objective(student, labels, ROWS, 0)
    torch.testing.assert_close(value, functional.cross_entropy(student, labels) + soft / 2)
    (gradient,) = torch.autograd.grad(value, student)
    ce = torch.autograd.grad(functional.cross_entropy(student, labels), student)[0]
    torch.testing.assert_close(gradient[[1, 2]], ce[[1, 2]])


def test_rows_that_would_have_no_loss_are_refused(train_part, partial):
    with pytest.raises(ContractError, match="--ce-weight 0 leaves them without any loss"):
        objective_of(train_part, partial, LossSettings(ce_weight=0.0), allow_missing=True)


def test_soft_labels_of_other_rows_are_refused(tmp_path, split_faces, train_part):
    others = write_soft_labels(tmp_path / "val", read_benchmark(split_faces, FER7, split="val"))
    with pytest.raises(BundleError, match="these soft labels are of other images"):
        objective_of(train_part, others, allow_missing=True)


def test_soft_labels_of_other_classes_are_refused(split_faces, train_bundle):
    order = ClassOrder.of(["Neutral", *FER7.names[:-1]])
    with pytest.raises(
        ContractError, match=r"soft labels are of the classes Angry, .* give the soft labels' with --classes"
    ):
        objective_of(read_benchmark(split_faces, order, split="train"), train_bundle)


def test_the_key_follows_what_is_learned(tmp_path, train_part, train_bundle):
    def key(bundle=train_bundle, **loss):
        return training_key(
            RECIPE, train_part, train_part, None, objective_of(train_part, bundle, LossSettings(**loss))
        )

    same = key()
    assert key(write_soft_labels(tmp_path / "again", train_part)) == same
    assert key(beta=1.0) == same  # KD has no beta
    alone = [
        training_key(RECIPE, train_part, train_part, None, each) for each in (None, LabelObjective(train_part, RECIPE))
    ]
    assert alone[0] == alone[1]
    others = [
        alone[0],
        key(write_soft_labels(tmp_path / "half", train_part, dtype="float16")),
        key(temperature=5.0),
        key(alpha=2.0),
        key(ce_weight=0.5),
        key(distill_warmup_epochs=1),
        key(loss="dkd", beta=1.0),
        key(loss="dkd", beta=2.0),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_a_loss_or_a_temperature_that_is_none_is_refused(train_part, train_bundle):
    with pytest.raises(ContractError, match="loss ce learns from labels alone"):
        objective_of(train_part, train_bundle, LossSettings(loss="ce"))
    with pytest.raises(ContractError, match="is not a number above 0"):
        LossSettings(temperature=0.0)


def train_student(parts, folder, objective, recipe=RECIPE, **more):
    return train_teacher(*parts, recipe, folder / "last.pt", objective=objective, device="cpu", workers=0, **more)


@pytest.fixture
def parts(split_faces, train_part):
    return train_part, read_benchmark(split_faces, FER7, split="val")


def weights_of(trained):
    return torch.cat([each.flatten().double() for each in trained.checkpoint["model"].values()])


def test_a_killed_distillation_goes_on_to_the_same_weights(parts, train_bundle, tmp_path):
    how = LossSettings(loss="dkd", beta=2.0, distill_warmup_epochs=2)

    def stop(epoch):
        raise KeyboardInterrupt

    whole = train_student(parts, tmp_path / "whole", objective_of(parts[0], train_bundle, how))
    with pytest.raises(KeyboardInterrupt):
        train_student(parts, tmp_path / "stopped", objective_of(parts[0], train_bundle, how), on_epoch=stop)
    seen = []
    resumed = train_student(
        parts, tmp_path / "stopped", objective_of(parts[0], train_bundle, how), on_epoch=seen.append
    )
    assert [epoch.number for epoch in seen] == [1, 2]
    assert resumed.history == whole.history
    assert torch.equal(weights_of(resumed), weights_of(whole))
    alone = train_student(parts, tmp_path / "alone", None)
    assert not torch.equal(weights_of(alone), weights_of(whole))


def test_a_student_learns_what_its_teachers_say(parts, train_bundle, tmp_path):
    """Soft labels alone, of teachers that say the same of every image: the student ends near them."""
    logits = np.array([2.0, 0, 0, 1.0, 0, 0, -1.0], np.float32)
    targets = make_targets(train_bundle, {}, None, 2.0)
    targets.logits[:] = logits
    recipe = Recipe(arch="test_resnet", img_size=32, epochs=6, lr=0.01, batch_size=16, weight_decay=0.0)
    objective = SoftObjective(parts[0], recipe, train_bundle, targets, LossSettings(temperature=2.0, ce_weight=0.0))
    trained = train_student(parts, tmp_path, objective, recipe)
    assert trained.history[-1].train_loss < 0.2 * trained.history[0].train_loss


def test_images_that_changed_since_the_export_are_refused_before_the_first_step(parts, train_bundle, tmp_path):
    cv2.imwrite(str(parts[0].root / parts[0].paths[2]), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(BundleError, match=r"1 of 54 images are not the ones that the teachers decoded: row 3 "):
        train_student(parts, tmp_path, objective_of(parts[0], train_bundle))
    assert not (tmp_path / "last.pt").exists()


class FailsLater(SoftObjective):
    """Is not finite from the second step of the second epoch on."""

    calls = 0

    def __call__(self, logits, labels, rows, epoch):
        self.calls += epoch
        return super().__call__(logits, labels, rows, epoch) * (float("nan") if self.calls > 1 else 1.0)


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_best_epoch(parts, train_bundle, tmp_path):
    how = LossSettings()
    objective = FailsLater(parts[0], RECIPE, train_bundle, make_targets(train_bundle, {}, None, 4.0), how)
    epochs = []
    with pytest.raises(NotFiniteError, match=r"^epoch 2, step 2: the loss is nan") as caught:
        train_student(parts, tmp_path, objective, on_epoch=epochs.append)
    assert str(caught.value).endswith("use --precision fp32. The state after epoch 1 is kept")
    assert (tmp_path / "last.pt").exists()
    assert caught.value.kept.history == tuple(epochs)
    assert caught.value.kept.checkpoint["epoch"] == 1
    assert all(bool(each.isfinite().all()) for each in caught.value.kept.checkpoint["model"].values())


def test_a_first_epoch_that_is_not_finite_says_of_nothing_that_it_is_kept(parts, train_bundle, tmp_path):
    targets = make_targets(train_bundle, {}, None, 4.0)
    objective = FailsLater(parts[0], RECIPE, train_bundle, targets, LossSettings())
    objective.calls = 2
    with pytest.raises(NotFiniteError, match=r"^epoch 1, step 1: .*; lower --lr, or use --precision fp32$") as caught:
        train_student(parts, tmp_path, objective)
    assert caught.value.kept is None
    assert not (tmp_path / "last.pt").exists()


def test_a_checkpoint_says_how_it_was_distilled(train_part, partial):
    targets = make_targets(partial, {}, None, 4.0)
    objective = SoftObjective(train_part, RECIPE, partial, targets, LossSettings(), allow_missing=True)
    assert objective.describe()["distilled"] == {
        "loss": "kd",
        "temperature": 4.0,
        "alpha": 1.0,
        "ce_weight": 1.0,
        "distill_warmup_epochs": 0,
        "target": "logit",
        "effective_temperature": 4.0,
        "rows_without_soft_labels": 2,
        "bundle_sha256": partial.sha256,
        "ensemble": "A=0.7,B=0.3",
    }
