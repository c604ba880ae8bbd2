"""Runs read themselves in MLflow's UI: a description on every run, and at most five sections of charts."""

import re
from collections import Counter

import numpy as np
import pytest
import toys
from mlflow import MlflowClient

import fer_mlflow

LINK = re.compile(r"\[([^\]]+)\]\(#/experiments/0/runs/([0-9a-f]{32})\)")


@pytest.fixture
def called(workplace, monkeypatch):
    """Give a workplace whose store and cache this process uses."""
    for name in ("MLFLOW_TRACKING_URI", "FER_MLFLOW_CACHE"):
        monkeypatch.setenv(name, workplace.env[name])
    return workplace


@pytest.fixture
def published(called, tmp_path):
    """Give two teachers' runs and the exports of their mean, on two splits: export ids, and the logits and labels."""
    exports, drawn = {}, {}
    for split in ("val", "test"):
        a, labels = toys.draw_logits(120, seed=len(split))
        b = (a + np.random.default_rng(9).normal(size=a.shape)).astype(np.float32)
        parts = {"benchmark": f"faces:{split}", "split": split, "sources": ["web", "lab"] * 60}
        parts["paths"] = [f"images/{split}{row:03d}.jpg" for row in range(120)]
        weights = {"A": 0.5, "B": 0.5}
        exports[split], _ = toys.publish_ensemble(called, tmp_path / split, {"A": a, "B": b}, labels, weights, **parts)
        drawn[split] = a, b, labels
    return exports, drawn


def sections(run) -> set[str]:
    """Return the sections of charts that MLflow 3.17 makes: what is before the last `/` of a metric's key."""
    return {key.rpartition("/")[0] for key in run.data.metrics}


def only(called, kind):
    (run,) = called.runs(kind)
    return run


def lines_of(run) -> list[str]:
    """Return the lines of a description; triage's is a paragraph of its own."""
    return re.split("  \n|\n\n", run.data.tags["mlflow.note.content"])


def links(run) -> dict[str, str]:
    """Return the links of a description: name -> run id."""
    return dict(LINK.findall(lines_of(run)[2]))


def test_every_kind_of_run_has_few_sections_and_says_what_it_found(called, published):
    (exports, _), by = published, ["source", "label", "split"]
    test, val = exports["test"], exports["val"]
    scored = fer_mlflow.evaluate(run=test, by=by)
    fer_mlflow.calibrate(run=test, by=by, method="vector", crossfit=2)
    fitted = fer_mlflow.calibrate(run=test, fit_run=val, by=by, export=True)
    inspected = fer_mlflow.inspect(run=test)
    fer_mlflow.compare(run_a=test, run_b=fitted.exported_run)
    swept = fer_mlflow.sweep(benchmark=["faces:test", "faces:val"], step=0.25, log_top=1, clahe="both")
    numbers = {name: swept.table.iloc[2][name] for name in ("accuracy", "macro_f1")}
    fer_mlflow.reproduce(benchmark=["faces:test"], step=0.25, clahe="both", **numbers)
    judged = fer_mlflow.triage()
    found = called.runs()
    kinds = {run.data.tags["fer.kind"] for run in found}
    assert kinds == {
        *("export", "teacher", "evaluate", "calibrate", "inspect", "compare", "sweep", "reproduce", "triage")
    }
    for run in found:
        if "fer.bundle_sha256" in run.data.tags:  # the UI compares what has one name at the root
            names = {file.path for file in MlflowClient(called.uri).list_artifacts(run.info.run_id)}
            assert names == {"softlabels", "confusion_matrix.png", "reliability.png"}
        assert "" in sections(run), run.info.run_name  # else the section of plain keys is empty
        assert len(sections(run)) <= 5, (run.info.run_name, sections(run))
        assert len(lines_of(run)) >= 2
    run = next(run for run in found if run.info.run_id == scored.run_id)
    low, high = (run.data.metrics[f"ci95/macro_f1_{end}"] for end in ("low", "high"))
    begins = f"macro\\_f1 **{scored.metrics['macro_f1']:.4f}** \\[{low:.4f}, {high:.4f}\\] · accuracy "
    assert lines_of(run)[0].startswith(begins)
    assert links(run) == {"source": test}
    run = next(run for run in found if run.info.run_id == fitted.run_id)
    fit, metrics = fitted.calibration.fit, run.data.metrics
    assert lines_of(run)[0] == (
        f"temperature · T **{fit.temperature:.4f}** ± {fit.standard_error:.4f} · "
        f"nll {metrics['before/nll']:.4f} → **{metrics['after/nll']:.4f}** · "
        f"ece {metrics['before/ece']:.4f} → **{metrics['after/ece']:.4f}**"
    )
    assert links(run) == {"source": test, "fitted on": val, "exported": fitted.exported_run}
    exported = next(run for run in found if run.info.run_id == fitted.exported_run)
    assert links(exported) == {"source": test, "made by": fitted.run_id}
    low, high = inspected.recommended
    assert lines_of(only(called, "inspect"))[0].startswith(f"recommended T **{low:.2f} to {high:.2f}**")
    compared = only(called, "compare")
    assert lines_of(compared)[0].startswith("**not significantly different**: macro\\_f1 B − A +0.0000 ")
    assert links(compared) == {"A": test, "B": fitted.exported_run}
    (nested,), sweep = swept.nested, only(called, "sweep")
    assert f"macro\\_f1 **{sweep.data.metrics['macro_f1']:.4f}** · " in lines_of(sweep)[0]
    assert " over equal weights · " in lines_of(sweep)[0]
    assert links(sweep)["rank 1"] == nested
    assert {"A", "B"} < set(links(sweep))
    nested = next(run for run in found if run.info.run_id == nested)
    assert links(nested)["made by"] == sweep.info.run_id
    reproduced = only(called, "reproduce")
    matches = f"**{reproduced.data.metrics['matches']:.0f}** candidates give these numbers; the nearest: "
    assert lines_of(reproduced)[0].startswith(matches)
    counts = Counter(each.status for each in judged.judgements.values())
    statuses = ("good", "warn", "bad", "superseded")
    verdict, best, _ = lines_of(only(called, "triage"))
    assert verdict == ", ".join(f"**{counts[status]}** {status}" for status in statuses)
    assert best.startswith("best on faces&#58;")
    assert set(links(only(called, "triage")).values()) == set(judged.leaderboard.query("rank == 1")["run_id"])


def test_a_calibration_that_cannot_be_fitted_says_why(called, tmp_path):
    labels = np.arange(40) % 7
    logits = 3 * np.eye(7, dtype=np.float32)[labels]  # separable
    toys.write_bundle(tmp_path / "b", logits, labels)
    fer_mlflow.calibrate(bundle=tmp_path / "b", crossfit=2)
    run = only(called, "calibrate")
    assert lines_of(run)[0].startswith("separable: ")
    assert sections(run) == {"", "before", "slices"}


# --- triage's line ------------------------------------------------------------------------------------------------


def line_of(called, run_id) -> str:
    """Return the last line of a run's description."""
    return lines_of(next(run for run in called.runs() if run.info.run_id == run_id))[-1]


def test_triage_says_its_verdict_in_the_description_and_writes_nothing_twice(called, published):
    exports, _ = published
    fer_mlflow.triage()
    board = fer_mlflow.triage()
    assert board.changes == {}
    board = board.leaderboard.query("benchmark == 'faces:test'").set_index("run_id")
    row = board.loc[exports["test"]]
    mark = "≈ not significantly different from the best · " if row["level"] else ""
    numbers = f"macro\\_f1 {row['macro_f1']:.3f} \\[{row['macro_f1_low']:.3f}, {row['macro_f1_high']:.3f}\\]"
    assert (
        line_of(called, exports["test"]) == f"triage: good · rank {row['rank']} of 3 on test · faces · {mark}{numbers}"
    )
    # What was tested stays where it is not tested now.
    assert fer_mlflow.triage(benchmark="faces:val", deep="false").changes == {}


def test_a_persons_text_stays_and_clear_takes_back_the_line(called, published):
    exports, _ = published
    client, run_id = MlflowClient(called.uri), exports["test"]
    client.set_tag(run_id, "mlflow.note.content", "mine\n\ntriage: old\n\nand *this*")
    fer_mlflow.triage()
    first, second, line = lines_of(client.get_run(run_id))
    assert (first, second) == ("mine", "and *this*")
    assert line.startswith("triage: good · rank ")
    fer_mlflow.triage(bad=run_id, reason="wrong crop")
    assert line_of(called, run_id) == "triage: bad · wrong crop"
    assert "mlflow.note.content" not in fer_mlflow.triage().changes.get(run_id, {})  # it stays as it was described
    fer_mlflow.triage(clear="true")
    assert client.get_run(run_id).data.tags["mlflow.note.content"] == "mine\n\nand *this*"
    assert all("triage: " not in "".join(lines_of(run)) for run in called.runs())


def test_the_reasons_of_a_bad_run_are_in_its_description(called, published):
    client = MlflowClient(called.uri)
    client.set_tag(published[0]["test"], "fer.error", "no *room*")
    client.set_terminated(published[0]["test"], "FAILED")
    fer_mlflow.triage()
    assert line_of(called, published[0]["test"]) == r"triage: bad · ended badly: FAILED: no \*room\*"
