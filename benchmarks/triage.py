"""What triage costs on a store of 10,000 runs over 20 benchmarks, beside one plain query for the same runs.

    python benchmarks/triage.py
    python benchmarks/triage.py --runs 2000

Reading and judging is `--dry-run true`, which writes nothing; the first tags are the rest of a first triage. One run in
twenty is bad in a known way, and triage must find exactly those. Bundles are not read (reading 10,000 of them takes as
long as the artifact store does); the tests do that. Runs are written into MLflow's tables directly, since making 10,000
through its client takes a quarter of an hour.
"""

import argparse
import contextlib
import io
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from limits import finish, judged, verdict

BENCHMARKS = 20
CLASSES = ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
OPTIONS = (
    "manifest",
    "root",
    "split",
    "limit",
    "verify_paths",
    "teachers",
    "compile",
    "device",
    "batch_size",
    "workers",
)
FAULTS = ("failed", "killed", "silent", "no bundle", "other rows")
DAY_MS = 86_400_000
MOST_RATIO, MOST_MS = 1.5, 15.0


def insert_runs(path: Path, artifacts: Path, count: int, now_ms: int) -> set[str]:
    """Write finished exports, every twentieth bad, into a store's tables; return the ids of the bad ones."""
    tables: dict[str, list[tuple]] = {"runs": [], "params": [], "latest_metrics": [], "tags": []}
    bad = set()
    for number in range(count):
        run_id, benchmark = f"{number:032x}", number % BENCHMARKS
        # One run of every twenty, of another benchmark each time: what is usual on a benchmark must be right there.
        fault = FAULTS[number // 20 % len(FAULTS)] if (number + number // 20) % 20 == 7 else ""
        bad |= {run_id} if fault else set()
        began = now_ms - 40 * DAY_MS + number * 60_000
        status = {"failed": "FAILED", "killed": "KILLED", "silent": "RUNNING"}.get(fault, "FINISHED")
        end = None if fault == "silent" else began + 5000
        uri = str(artifacts / run_id / "artifacts")
        name = f"run {number}"
        tables["runs"].append((run_id, name, "LOCAL", "", "", "ann", status, began, end, "", "active", uri, 0, None))
        selection = f"{benchmark:064x}"
        rows = "2999" if fault == "other rows" else "3000"
        a = number % 97 / 100
        params = dict.fromkeys(OPTIONS, "some value") | {"ensemble": f"A={a},B={1 - a:.2f}", "rows": rows}
        params |= {"space": "logit", "clahe": "false", "benchmark": f"set{benchmark}", "w/A": str(a), "w/B": str(1 - a)}
        score = 0.5 + (number * 7919 % 10_000) / 25_000
        metrics = dict.fromkeys(("macro_f1", "accuracy", "ece", "nll", "brier", "mean_max_prob"), score)
        metrics |= {f"f1/{name}": score for name in CLASSES}
        tags = {"fer.kind": "export", "fer.benchmark": f"set{benchmark}", "fer.selection_sha256": selection}
        tags |= {"fer.config_key": f"{selection[:32]}.{run_id}", "fer.alignment": "pass", "mlflow.runName": name}
        tags |= {"mlflow.user": "ann", "mlflow.source.name": "fer-mlflow"}
        if fault not in ("no bundle", "failed", "killed", "silent"):
            tags["fer.bundle_sha256"] = run_id * 2
        tables["params"] += [(key, value, run_id) for key, value in params.items()]
        tables["latest_metrics"] += [(key, value, began, 0, 0, run_id) for key, value in metrics.items()]
        tables["tags"] += [(key, value, run_id) for key, value in tags.items()]
    connection = sqlite3.connect(path)
    with connection:
        for table, lines in tables.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(lines[0]))})", lines)
    connection.close()
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "mlflow.db"
        os.environ |= {
            "MLFLOW_TRACKING_URI": f"sqlite:///{store}",
            "FER_MLFLOW_CACHE": str(folder / "cache"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        os.chdir(folder)
        code = "from fer_mlflow.tracking.store import connect; connect()"
        subprocess.run([sys.executable, "-c", code], check=True)
        planted = insert_runs(store, folder / "mlruns" / "0", runs, int(time.time() * 1000))
        measure(planted, runs)
    finish()


def measure(planted: set[str], runs: int) -> None:
    """Time the plain query, reading and judging, and the first tags, and check what was found."""
    import mlflow

    import fer_mlflow.workflows.triage  # noqa: F401  (imports are not what is measured)
    from fer_mlflow.cli import main as command_line

    def triage(*arguments: str) -> None:
        command_line(["triage", "--deep", "false", "--top", "5", *arguments], standalone_mode=False)

    peer = timed(lambda: mlflow.search_runs(["0"], max_results=50_000))
    print(f"{f'mlflow.search_runs, {runs:,} runs':<44} {peer:6.2f} s")
    reading = timed(lambda: triage("--dry-run", "true"))
    line("reading and judging, nothing tagged", reading, peer)
    per_run_ms = (timed(triage) - reading) / runs * 1000
    print(f"{'first tags':<44} {per_run_ms:6.2f} ms a run  {verdict(per_run_ms, MOST_MS)}")
    check(planted)
    line("second triage, nothing changed", timed(triage), peer)


def timed(function) -> float:
    """Return the seconds of a call, whose output is dropped."""
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        function()
    return time.perf_counter() - began


def line(what: str, took: float, peer: float) -> None:
    """Print one claim: ours, the ratio to the peer, and whether it is within its limit."""
    ratio = took / peer
    print(f"{what:<44} {took:6.2f} s  {ratio:5.2f} x the query  {verdict(ratio, MOST_RATIO)}")


def check(planted: set[str]) -> None:
    """Check that exactly the planted runs are called bad."""
    import mlflow

    found = mlflow.search_runs(["0"], "tags.`triage.status` = 'bad'", max_results=50_000)
    called = set(found["run_id"])
    wrong = f"{len(planted - called)} bad runs not found, {len(called - planted)} good runs called bad"
    print(f"{'bad runs found':<44} {len(called):6,} of {len(planted):,} planted  {judged(called == planted, wrong)}")


if __name__ == "__main__":
    main()
