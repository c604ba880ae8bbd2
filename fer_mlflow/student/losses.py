"""Distillation losses for anyone's training loop: batch means, in nats, times T².

Everything is in log space. Half precision is widened to float32 first, and a probability of 0 (log p = -inf in the
teacher's logits) adds nothing, where 0 · log 0 would be NaN.
"""

import torch
from torch import Tensor

from fer_mlflow.errors import ContractError


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · mean over rows of KL(softmax(teacher / T) ‖ softmax(student / T)).

    The mean is over rows, not over rows and classes: PyTorch's `kl_div(reduction="mean")` is C times too small.

    Parameters
    ----------
    student : (B, C) float, finite logits; the gradient flows here
    teacher : (B, C) float, logits up to a constant per row, or log-probabilities; -inf is a probability of 0
    temperature : > 0

    Returns
    -------
    () float32, float64 where `student` is

    Raises
    ------
    ContractError
        shapes disagree, no row, fewer than two classes, or a temperature that is not above 0

    References
    ----------
    Hinton, Vinyals & Dean 2015, section 2.

    Examples
    --------
    >>> same = torch.tensor([[2.0, 1.0, 0.0]])
    >>> float(kd_loss(same, same + 5, 4.0))
    0.0
    """
    return kd_rows(student, teacher, temperature).mean()


def dkd_loss(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Return T² · mean over rows of alpha · TCKD + beta · NCKD, the decoupled distillation loss.

    With b = (p_y, 1 - p_y) and q the distribution over all classes but y: TCKD = KL(b_teacher ‖ b_student),
    NCKD = KL(q_teacher ‖ q_student), and KD = TCKD + (1 - p_teacher,y) NCKD. With two classes NCKD is 0, and so it is
    for a row whose teacher leaves no probability to any other class.

    Parameters
    ----------
    student, teacher, temperature : as for `kd_loss`, and so are the result and the errors
    target : (B,) int64 labels in 0..C-1; ContractError for another shape or type
    alpha, beta : weights of the target-class and the non-target-class term

    References
    ----------
    Zhao et al. 2022, eq. 7; their code takes log(softmax), which is -inf from a gap of 103 · T on.
    """
    return dkd_rows(student, teacher, target, alpha, beta, temperature).mean()


def kd_rows(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the (B,) terms of `kd_loss`."""
    log_s, log_t = _log_probs(student, teacher, temperature)
    return temperature**2 * _kl(log_t, log_s)


def dkd_rows(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float) -> Tensor:
    """Return the (B,) terms of `dkd_loss`."""
    tckd, nckd = decoupled_rows(student, teacher, target, temperature)
    return temperature**2 * (alpha * tckd + beta * nckd)


def decoupled_rows(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return (B,) TCKD and (B,) NCKD in nats, without the factor T²."""
    log_s, log_t = _log_probs(student, teacher, temperature)
    if target.shape != log_s.shape[:1] or target.dtype != torch.int64:
        raise ContractError(
            f"target is {target.dtype} of shape {tuple(target.shape)}; it must be int64 of shape ({len(log_s)},)"
        )
    at = target[:, None]
    is_target = torch.zeros_like(log_s, dtype=torch.bool).scatter_(1, at, True)
    rest_s, rest_t = (each.masked_fill(is_target, -torch.inf) for each in (log_s, log_t))
    others_s, others_t = (each.logsumexp(dim=1, keepdim=True) for each in (rest_s, rest_t))  # log(1 - p_y)
    tckd = _kl(torch.cat([log_t.gather(1, at), others_t], 1), torch.cat([log_s.gather(1, at), others_s], 1))
    shares_others = others_t > -torch.inf
    within_t = torch.where(shares_others, rest_t - others_t, -torch.inf)
    return tckd, _kl(within_t, rest_s - others_s)


def _kl(log_t: Tensor, log_s: Tensor) -> Tensor:
    """Return (B,) KL(t ‖ s) of log-probabilities; where t is 0 nothing is added and no gradient flows."""
    p = log_t.exp()
    counts = p > 0
    # Masked before the product: the gradient of an entry that `where` leaves out would be 0 · inf.
    gap = torch.where(counts, log_t, 0.0) - log_s.masked_fill(~counts, 0.0)
    return (p * gap).sum(dim=1)


def _log_probs(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Check both and return their log-softmax at T, the teacher's without a gradient."""
    check_temperature(temperature)
    if student.shape != teacher.shape or student.ndim != 2 or student.shape[1] < 2 or not len(student):
        raise ContractError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must both be (rows, 2 or more classes)"
        )
    wide = torch.promote_types(student.dtype, torch.float32)
    return (
        torch.log_softmax(student.to(wide) / temperature, dim=1),
        torch.log_softmax(teacher.detach().to(wide) / temperature, dim=1),
    )


def check_temperature(temperature: float) -> None:
    """Raise ContractError for a temperature that is not a finite number above 0."""
    if not 0 < temperature < float("inf"):
        raise ContractError(f"temperature {temperature}: must be a finite number above 0")
