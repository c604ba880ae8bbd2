"""What commands print: in a terminal of 80 columns, in a pipe, and as JSON for scripts."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from toys import draw_logits, publish, publish_ensemble, write_bundle

pytestmark = pytest.mark.usefixtures("coarse_figures")
ROWS = 90
WEIGHTS = {"ConvNeXtAtto": 0.25, "EfficientNetB3": 0.25, "RegNetX002": 0.25, "ResNet18": 0.25}


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory) -> dict[str, str]:
    """Return runs: two ensembles of four teachers on one benchmark, one of them called bad, and one on another."""
    rng, (logits, labels) = np.random.default_rng(1), draw_logits(ROWS, seed=5)
    noisy = {name: (logits + rng.normal(0, 2, logits.shape)).astype(np.float32) for name in WEIGHTS}
    folder = tmp_path_factory.mktemp("bundles")
    parts = {"sources": [("lab", "street photographs")[row % 2] for row in range(ROWS)]}
    a, _ = publish_ensemble(place, folder / "a", noisy, labels, WEIGHTS, **parts)
    b = publish(place, write_bundle(folder / "b", logits, labels, weights=WEIGHTS, space="prob", **parts))
    other = [f"images/other{row}.jpg" for row in range(ROWS)]
    c = publish(
        place,
        write_bundle(folder / "c", logits, labels, weights=WEIGHTS, split="val", benchmark="faces:val", paths=other),
    )
    place.run("triage", "--bad", a, "--reason", "faces are blurred where the camera moved, and nobody knows since when")
    return {"a": a, "b": b, "c": c}


COMMANDS = {
    "triage": ["--classes", "Fear,Sad", "--across", "true"],
    "compare": ["{a}", "{b}"],
    "evaluate": ["--run", "{a}", "--by", "source"],
    "inspect": ["--run", "{a}"],
    "sweep": ["--benchmark", "faces:test", "--step", "0.5"],
}


def arguments(command: str, runs) -> list[str]:
    return [command, *(each.format(**runs) for each in COMMANDS[command])]


def in_a_terminal(place, *words: str, columns: int = 80) -> list[str]:
    """Return the lines that the installed command line writes into a terminal."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: text for name, text in place.env.items() if name != "COLUMNS"}
    program = Path(sys.executable).with_name("fer-mlflow")
    command = subprocess.Popen([program, *words], cwd=place.folder, env=env, stdout=side, stderr=subprocess.DEVNULL)
    os.close(side)
    read = b""
    try:
        while block := os.read(main, 65536):
            read += block
    except OSError:  # what Linux gives at the end
        pass
    os.close(main)
    assert command.wait(timeout=100) == 0
    return read.decode().replace("\r\n", "\n").split("\n")


def too_wide(lines: list[str], columns: int) -> list[str]:
    """Return the lines that are too wide, and have no address or path, which is not broken."""
    return [line for line in lines if len(line) > columns and "/" not in line.strip().split()[-1]]


@pytest.mark.parametrize("command", COMMANDS)
def test_everything_fits_into_80_columns(place, runs, command):
    words = arguments(command, runs)
    narrow, piped = in_a_terminal(place, *words), place.run(*words).stdout.split("\n")
    assert too_wide(narrow, 80) == []
    assert not any("not fit into" in line for line in piped)
    assert too_wide(piped, 80)  # so that this is no test of narrow results
    if command == "triage":
        board = " ".join(narrow)
        assert "columns do not fit into 80: accuracy" in board
        assert "a pipe or --format json has them" in " ".join(board.split())
        wide = in_a_terminal(place, *words, columns=250)
        assert [line for line in wide if line.startswith("  1 ")] == [line for line in piped if line.startswith("  1 ")]


def test_the_variable_columns_counts_in_a_terminal_only(place, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert "not fit into" not in place.run("triage").stdout


def printed(place, runs, command: str, status: int = 0) -> dict:
    """Return what a command prints as JSON, which is one object in which no number is NaN or infinite."""

    def refuse(word):
        raise AssertionError(word)

    result = place.run(*arguments(command, runs), "--format", "json", status=status)
    return json.loads(result.stdout, parse_constant=refuse)


def logged(place, kind: str) -> dict[str, float]:
    return place.runs(kind)[0].data.metrics


def test_evaluate_as_json(place, runs):
    found = printed(place, runs, "evaluate")
    assert list(found) == ["run_id", "ui", "soft_labels", "temperature", "evaluation", "slices", "metrics", "figures",
                           "predictions_location"]  # fmt: skip
    run = place.runs("evaluate")[0]
    assert (found["run_id"], found["metrics"]) == (run.info.run_id, run.data.metrics)
    assert list(found["soft_labels"]) == ["rows", "name", "benchmark", "selection_sha256", "sha256"]
    assert (found["soft_labels"]["rows"], found["soft_labels"]["benchmark"]) == (ROWS, "faces:test")
    evaluation = found["evaluation"]
    assert list(evaluation) == ["metrics", "intervals", "ece_adaptive", "ece_classwise", "ece_null_p95"]
    assert evaluation["intervals"]["macro_f1"]["low"] == run.data.metrics["ci95/macro_f1_low"]
    assert found["slices"]["source"]["lab"]["rows"] == ROWS / 2


def test_compare_as_json(place, runs):
    found = printed(place, runs, "compare")
    assert list(found) == ["run_id", "ui", "a", "b", "protocols", "verdict", "comparison", "counts", "table",
                           "changed_rows_location"]  # fmt: skip
    metrics = logged(place, "compare")
    assert [found[side]["run_id"] for side in "ab"] == [runs["a"], runs["b"]]
    assert [found["counts"][name] for name in ("rows", "changed")] == [metrics["rows"], metrics["changed_rows"]]
    for row in found["table"]:
        assert list(row) == ["metric", "a", "b", "difference", "low", "high", "p_value"]
        metric = row["metric"].replace("/", " ")
        for name in ("a", "b", "difference"):
            assert row[name] == metrics[f"{name}/{metric}"]
        assert row["p_value"] == metrics[f"difference/{metric} p"]
    assert found["comparison"]["differences"]["nll"]["interval"]["low"] == metrics["difference/nll low"]


def test_what_cannot_be_compared_keeps_its_exit_status(place, runs):
    found = printed(place, runs | {"b": runs["c"]}, "compare", status=3)
    assert (found["comparison"], found["table"], found["counts"]) == (None, None, {})
    assert found["verdict"].startswith("not comparable")


def test_triage_as_json(place, runs):
    found = printed(place, runs, "triage")
    assert list(found) == ["run_id", "ui", "action", "dry_run", "changes", "judgements", "ended", "leaderboard",
                           "left_out", "across", "in_sample", "metric", "classes", "replaced"]  # fmt: skip
    boards = {}
    for row in found["leaderboard"]:
        boards.setdefault(row["benchmark"], []).append(row)
    known = {run.info.run_id: run.data for run in place.runs()}
    for rows in boards.values():
        assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
        assert all(row[name] == known[row["run_id"]].metrics[name] for row in rows for name in ("macro_f1", "nll"))
    best, second = boards["faces:test"][:2]
    assert (best["run_id"], best["p_value"], best["level"]) == (runs["b"], None, False)
    assert (second["level"], second["space"]) == (second["p_value"] >= 0.05, "")
    (reason,) = found["judgements"][runs["a"]]["reasons"]
    assert (reason[:17], found["judgements"][runs["a"]]["by_person"]) == ("faces are blurred", True)
    assert found["left_out"][best["selection_sha256"]] == [runs["a"]]
    assert {"configuration", "value/faces:test", "rank/faces:test", "mean_rank"} <= set(found["across"][0])
    cleared = json.loads(place.run("triage", "--clear", runs["a"], "--dry-run", "true", "--format", "json").stdout)
    assert (cleared["action"], cleared["changes"][runs["a"]]["triage.overruled"]) == ("clear", None)


def test_sweep_as_json(place, runs):
    found = printed(place, runs, "sweep")
    assert list(found) == ["run_id", "ui", "metric", "axes", "chosen_by", "choice", "assessment", "protocol",
                           "is_in_sample", "nested", "exported", "table_location", "shares",
                           "best_configurations"]  # fmt: skip
    run, best = place.runs("sweep")[0], found["best_configurations"]
    assert run.data.metrics["macro_f1"] == found["assessment"]["metrics"]["chosen"]["macro_f1"]
    differences = found["assessment"]["differences"]["best teacher"]["differences"]
    assert differences[found["chosen_by"]]["p_value"] == run.data.metrics["difference/best_teacher_p"]
    assert {f"w/{name}": str(share) for name, share in found["shares"].items()}.items() <= run.data.params.items()
    assert [row["macro_f1"] for row in best] == sorted((row["macro_f1"] for row in best), reverse=True)
    assert list(best[0])[:2] == ["space", "preprocessing"] or best[0]["space"] in ("logit", "prob")
