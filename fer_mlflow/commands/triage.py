"""`triage`: which runs to use. Leaderboards and tags, instead of folders."""

import click

from fer_mlflow.commands.options import Count, Duration, Text, TrueFalse, option, run_options, typed_options


@click.command("triage")
@option("benchmark", "", Text(), "Show only benchmarks of this name, or whose selection digest begins so.")
@option("metric", "macro_f1", str, "Rank by this metric.")
@option("classes", "", Text(), "Also show F1 of these classes, comma-separated.")
@option("top", "20", Count(1, "all"), "Runs shown and tested on each leaderboard; or all.")
@option("across", "false", TrueFalse(), "Also rank configurations over all benchmarks, and recommend one.")
@option("even-bad", "false", TrueFalse(), "Show runs on leaderboards whatever their status.")
@option("stale-after", "1h", Duration(), "A running run is dead when it was silent for so long (90s, 30m, 1h, 2d).")
@option("reap", "false", TrueFalse(), "End dead runs as KILLED.")
@option("deep", "auto", click.Choice(["auto", "true", "false"]), "Look into bundles; auto: of runs never judged.")
@option("dry-run", "false", TrueFalse(), "Show what would be tagged, and change nothing.")
@option("clear", "false", TrueFalse(), "Take all of triage's tags back, and do nothing else.")
@option("bad", "", Text(), "Call this run bad, whatever the rules say, and do nothing else.")
@option("keep", "", Text(), "Call this run good, whatever the rules say, and do nothing else.")
@option("reason", "", Text(), "Why, for --bad and --keep.")
@run_options
def command(**options) -> None:
    """Judge every run on the tracking server, tag it, and rank the good ones benchmark by benchmark.

    Nothing is moved or deleted, and every tag can be taken back.
    """
    from fer_mlflow.commands.triaging import triage

    triage(options, typed_options())
