"""KD and DKD: the papers' formulas, their identity, and nothing that becomes NaN."""

import pytest
import torch
from torch.nn import functional

from fer_mlflow.errors import ContractError
from fer_mlflow.student.losses import decoupled_rows, dkd_loss, kd_loss, kd_rows

ALPHA, BETA = 1.5, 8.0


def draw(rows=6, classes=7, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, classes, generator=generator, dtype=torch.float64) * scale for _ in "st")
    return student.requires_grad_(), teacher, torch.arange(rows) % classes


def plain_kd(student, teacher, T):
    """Hinton's formula as it is written: probabilities and their logarithms."""
    p, q = functional.softmax(teacher / T, 1), functional.softmax(student / T, 1)
    return T**2 * (p * (p.log() - q.log())).sum() / len(student)


def plain_dkd(student, teacher, target, alpha, beta, T):
    """Zhao's formula row by row, with the binary and the other distribution made from probabilities."""
    total = 0.0
    for s, t, y in zip(student, teacher, target.tolist(), strict=True):
        p, q = functional.softmax(t / T, 0), functional.softmax(s / T, 0)
        others = [k for k in range(len(s)) if k != y]
        tckd = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        hat_p, hat_q = p[others] / p[others].sum(), q[others] / q[others].sum()
        total = total + alpha * tckd + beta * (hat_p * (hat_p / hat_q).log()).sum()
    return T**2 * total / len(student)


def test_kd_by_hand():
    # softmax(log 3, 0) = (3/4, 1/4) beside (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2
    teacher = torch.tensor([[3.0, 1.0]]).log() * 2
    student = torch.zeros(1, 2)
    expected = 4 * (0.75 * 0.4054651081 + 0.25 * -0.6931471806)
    assert float(kd_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-6)


def test_the_mean_is_over_rows_not_over_classes():
    student, teacher, target = draw(4)
    twice = [torch.cat([each, each]) for each in (student, teacher, target)]
    torch.testing.assert_close(kd_loss(*twice[:2], 3.0), kd_loss(student, teacher, 3.0))
    torch.testing.assert_close(dkd_loss(*twice, 1, 2, 3.0), dkd_loss(student, teacher, target, 1, 2, 3.0))
    one = torch.stack([kd_loss(s[None], t[None], 3.0) for s, t in zip(student, teacher, strict=True)])
    torch.testing.assert_close(kd_loss(student, teacher, 3.0), one.mean())


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("T", [0.5, 1.0, 4.0])
def test_values_and_gradients_are_those_of_the_plain_formulas(classes, T):
    student, teacher, target = draw(classes=classes)
    for ours, plain in (
        (kd_loss(student, teacher, T), plain_kd(student, teacher, T)),
        (
            dkd_loss(student, teacher, target, ALPHA, BETA, T),
            plain_dkd(student, teacher, target, ALPHA, BETA, T),
        ),
    ):
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (ours, plain)))


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_gradients_are_the_slopes(T):
    student, teacher, target = draw(3, 4)
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, T), student)
    assert torch.autograd.gradcheck(lambda s: dkd_loss(s, teacher, target, ALPHA, BETA, T), student)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_kd_is_tckd_and_what_the_teacher_leaves_of_nckd(classes):
    student, teacher, target = draw(20, classes)
    tckd, nckd = decoupled_rows(student, teacher, target, 2.0)
    left = 1 - functional.softmax(teacher / 2.0, 1)[torch.arange(20), target]
    torch.testing.assert_close(kd_rows(student, teacher, 2.0) / 4, tckd + left * nckd)
    assert (tckd > 0).all()
    assert bool((nckd == 0).all()) == (classes == 2)


def test_a_student_that_says_the_same_has_no_loss_and_a_constant_does_not_count():
    student, teacher, target = draw()
    moved = torch.linspace(-50, 50, 6, dtype=torch.float64)[:, None]
    assert float(kd_loss(teacher + moved, teacher, 4.0)) == pytest.approx(0, abs=1e-12)
    assert float(dkd_loss(teacher + moved, teacher, target, 1, 8, 4.0)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(kd_loss(student + moved, teacher, 4.0), kd_loss(student, teacher + moved, 4.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("who", ["teacher", "student", "both"])
@pytest.mark.parametrize("T", [1.0, 4.0])
def test_extreme_logits_give_finite_losses_and_gradients(dtype, who, T):
    extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 1e4]], dtype=dtype)
    mild = torch.tensor([[0.1, 0.2, 0.3]], dtype=dtype).repeat(3, 1)
    student = (mild if who == "teacher" else -extreme if who == "both" else extreme).clone().requires_grad_()
    teacher = mild if who == "student" else extreme
    target = torch.tensor([0, 0, 2])
    for loss in (kd_loss(student, teacher, T), dkd_loss(student, teacher, target, 1.0, 8.0, T)):
        assert loss.isfinite()
        assert loss > 0
        (gradient,) = torch.autograd.grad(loss, student)
        assert gradient.isfinite().all()


def test_a_large_gap_is_measured_not_cut():
    # The teacher is sure of column 0, the student of column 1: KL = the gap, 20,000 nats at T = 1.
    student, teacher = torch.tensor([[-1e4, 1e4]]), torch.tensor([[1e4, -1e4]])
    assert float(kd_loss(student, teacher, 1.0)) == pytest.approx(2e4)
    assert float(dkd_loss(student, teacher, torch.tensor([0]), 1.0, 8.0, 1.0)) == pytest.approx(2e4)


def test_a_probability_of_zero_adds_nothing():
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.float64).repeat(2, 1).requires_grad_()
    q = functional.softmax(student, 1)
    halves, sure = 0.5 * (0.5 / q[0, :2]).log().sum(), -q[1, 0].log()
    kd = kd_loss(student, p.log(), 1.0)
    torch.testing.assert_close(kd, (halves + sure) / 2)
    (gradient,) = torch.autograd.grad(kd, student, retain_graph=True)
    torch.testing.assert_close(gradient, (q - p) / 2)  # of cross-entropy with soft targets
    for target in ([0, 0], [2, 1], [1, 3]):
        dkd = dkd_loss(student, p.log(), torch.tensor(target), 1.0, 8.0, 1.0)
        assert dkd.isfinite()
        assert torch.autograd.grad(dkd, student, retain_graph=True)[0].isfinite().all()
    # Sure of the label: there is no distribution over the others, and TCKD is all there is.
    tckd, nckd = decoupled_rows(student[1:], p[1:].log(), torch.tensor([0]), 1.0)
    torch.testing.assert_close(tckd[0], sure)
    assert float(nckd.detach()) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_anything_is_computed(dtype):
    student, teacher, target = draw(scale=8.0)
    halved = teacher.to(dtype)
    wide = halved.to(torch.float64)
    torch.testing.assert_close(kd_loss(student, halved, 4.0), kd_loss(student, wide, 4.0))
    low = student.detach().to(dtype).requires_grad_()
    loss = dkd_loss(low, halved, target, 1.0, 8.0, 4.0)
    assert loss.dtype == torch.float32
    expected = dkd_loss(low.detach().double(), wide, target, 1.0, 8.0, 4.0)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.autograd.grad(loss, low)[0].dtype == dtype


def test_no_gradient_flows_to_the_teacher():
    student, teacher, target = draw()
    teacher.requires_grad_()
    (kd_loss(student, teacher, 2.0) + dkd_loss(student, teacher, target, 1, 8, 2.0)).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_0_is_refused(temperature):
    student, teacher, target = draw()
    with pytest.raises(ContractError, match="must be a finite number above 0"):
        kd_loss(student, teacher, temperature)
    with pytest.raises(ContractError, match="must be a finite number above 0"):
        dkd_loss(student, teacher, target, 1, 8, temperature)


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3), (2, 4)), ((2, 1), (2, 1)), ((0, 3), (0, 3)), ((3,), (3,))], ids=str
)
def test_shapes_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ContractError, match="must both be"):
        kd_loss(torch.zeros(student), torch.zeros(teacher), 1.0)


@pytest.mark.parametrize("target", [torch.zeros(3, dtype=torch.int64), torch.zeros(2), torch.zeros(2, 1).long()])
def test_labels_that_do_not_fit_are_refused(target):
    with pytest.raises(ContractError, match=r"must be int64 of shape \(2,\)"):
        dkd_loss(torch.zeros(2, 3), torch.zeros(2, 3), target, 1, 8, 1.0)
