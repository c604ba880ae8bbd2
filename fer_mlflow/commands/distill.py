"""`distill`: a student from a manifest's labels and its teachers' soft labels."""

import click

from fer_mlflow.commands.options import (
    AboveZero,
    Share,
    Text,
    TrueFalse,
    option,
    option_group,
    preprocessing_options,
    run_options,
    typed_options,
)
from fer_mlflow.commands.train import recipe_options, rows_options, training_compute_options

distillation_options = option_group(
    option("softlabels", "", Text(), "Soft labels of the training rows: RUN, FOLDER or best:METRIC@BENCHMARK."),
    option("even-bad", "false", TrueFalse(), "Take soft labels of a run that triage called bad, too."),
    option("loss", "kd", click.Choice(["ce", "kd", "dkd"]), "Labels alone, or with soft labels by KD or DKD."),
    option("target", "", Text(), "logit, prob or mixture.  [default: the space that the soft labels were fused in]"),
    option("temperature", "4", AboveZero(), "Divides the logits of teachers and student."),
    option("alpha", "1", Share(most=float("inf")), "Weight of KD, or of DKD's target-class term."),
    option("beta", "8", Share(most=float("inf")), "Weight of DKD's non-target-class term."),
    option("ce-weight", "1", Share(most=float("inf")), "Weight of the cross-entropy with the labels."),
    option("distill-warmup-epochs", "0", click.IntRange(min=0), "Epochs in which the distillation term rises."),
    option("missing", "fail", click.Choice(["fail", "ce"]), "Rows without soft labels: stop, or use their labels."),
)


@click.command("distill")
@rows_options
@option("test-split", "test", Text(), "Rows that the (best) student is measured on; empty: none.")
@distillation_options
@option("grid", "", Text(), "Values to try, such as temperature=4,5,6;loss=kd,dkd;seed=0,1,2.")
@recipe_options
@preprocessing_options
@training_compute_options
@option("onnx", "false", TrueFalse(), "Log the (best) student as an MLflow model that takes images.")
@run_options
@option("out", "", Text(), "Also put the (best) checkpoint into this file.")
def command(**options) -> None:
    """Train a student on labels and soft labels, and log its best checkpoint as an MLflow run.

    It is trained as `train` trains a teacher, and its checkpoint is a teacher's: name it in teachers.yaml, export it.
    """
    from fer_mlflow.commands.distilling import distill

    distill(options, typed_options())
