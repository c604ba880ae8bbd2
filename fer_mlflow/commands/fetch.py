"""`fetch`: the chosen soft labels on this disk, verified, and proved to be aligned to the local manifest."""

import click

from fer_mlflow.commands.options import Text, TrueFalse, local_rows_options, option, option_group, typed_options

selection_options = option_group(
    option("run", "", Text(), "Fetch the soft labels of this export or teacher run; its first digits do."),
    option("best", "", Text(), "Or of the best run by this metric, such as macro_f1,"),
    option("benchmark", "", Text(), "on the benchmark of this name, or digest; its first digits do;"),
    option("where", "", Text(), "among runs that fulfil this MLflow filter: 'params.space = \"logit\"'."),
    option("even-bad", "false", TrueFalse(), "Take a run that triage called bad, too."),
)


@click.command("fetch")
@selection_options
@option("out", "", Text(), "Folder to put the bundle into.  [default: softlabels-<run's first 8 digits>]")
@local_rows_options
@option("reorder", "false", TrueFalse(), "Where only the order differs, rewrite the soft labels to the manifest's.")
@option("check-images", "false", TrueFalse(), "Check that the images are the ones that teachers saw.")
def command(**options) -> None:
    """Download a run's soft labels, verify all of them, and print the folder, ready for SoftLabels.open.

    With --manifest, prove row by row that they are aligned to it. A folder that has them already is verified again.
    """
    from fer_mlflow.commands.fetching import fetch

    fetch(options, typed_options())
