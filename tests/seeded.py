"""A store of 200 runs over 4 benchmarks, as weeks of work leave it: all kinds of runs, good, bad and superseded."""

from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import toys
from mlflow import MlflowClient

from fer_mlflow.scoring.fusion import fuse
from fer_mlflow.tracking.runs import open_run

BENCHMARKS = ("manifest:test", "manifest:train", "rafdb:test", "rafdb:val")
RUNS = 200
ROWS = 210
NAMES = ("CNXT", "L0", "RN18")  # from the worst to the best
NOISE = (2.4, 2.0, 1.6)
CLAHE = {"clip": 2.0, "tile": 8, "pattern_sha256": "cd" * 32}
WEIGHTS = [
    {name: tenths / 10 for name, tenths in zip(NAMES, (a, b, 10 - a - b), strict=True) if tenths}
    for a in range(3)
    for b in range(1, 4)
]
PARAMS = {"manifest": "faces/manifest.csv", "teachers": "teachers.yaml", "batch_size": "32", "device": "auto"}


@dataclass
class Seeded:
    """Benchmark name -> selection digest, and (benchmark, what) -> ids of runs in the order in which they were made."""

    selections: dict[str, str]
    runs: dict[tuple[str, str], list[str]]

    def of(self, benchmark: str, what: str) -> list[str]:
        """Return ids of runs: `teacher`, `export`, `student`, `superseded`, `chance`, `failed` or `evaluate`."""
        return self.runs[benchmark, what]


def seed(workplace, folder: Path) -> Seeded:
    """Log 200 runs to a workplace's store: 50 on each of four benchmarks, two of which are splits of one manifest."""
    seeded = Seeded({}, {})
    for number, benchmark in enumerate(BENCHMARKS):
        seed_benchmark(workplace, folder / f"{number}", benchmark, number, seeded)
    assert sum(map(len, seeded.runs.values())) == RUNS
    return seeded


def seed_benchmark(workplace, folder: Path, benchmark: str, number: int, seeded: Seeded) -> None:
    """Log 6 teachers, 20 exports, 3 students, 17 evaluations, and 4 runs that failed, guess or were made again."""
    rng = np.random.default_rng(100 + number)  # not the one of the truth
    truth, labels = toys.draw_logits(ROWS, seed=number, spread=2)
    split = benchmark.partition(":")[2]
    parts = {
        "split": split,
        "benchmark": benchmark,
        "paths": [f"{benchmark.partition(':')[0]}/{split}/{row:04d}.jpg" for row in range(ROWS)],
        "manifest_sha256": benchmark.partition(":")[0].encode().hex().ljust(64, "0"),
    }

    def log(what: str, logits, name: str = "", tags: dict[str, str] | None = None, **how) -> str:
        made = seeded.runs.setdefault((benchmark, what), [])
        bundle = toys.write_bundle(folder / f"{what}{len(made)}", logits.astype(np.float32), labels, **parts | how)
        seeded.selections[benchmark] = bundle.selection_sha256
        kind = what if what in ("teacher", "student") else "export"
        name = name or bundle.run_name()
        made.append(toys.publish(workplace, bundle, kind, name=name, params=PARAMS, **(tags or {})))
        return made[-1]

    links, logits = {}, {}
    for clahe in (None, CLAHE):
        for name, noise in zip(NAMES, NOISE, strict=True):
            own = truth + rng.normal(0, noise - 0.2 * (clahe is not None), truth.shape)
            logits[name, clahe is None] = own
            run_id = log("teacher", own, weights={name: 1.0}, clahe=clahe)
            links[name, clahe is None] = (f"fer.teacher_run/{name}", run_id)

    def log_export(weights, space: str, clahe, what: str = "export") -> None:
        used = {name: logits[name, clahe is None] for name in weights}
        tags = dict(links[name, clahe is None] for name in weights)
        log(what, fuse(used, weights, space), tags=tags, weights=weights, space=space, clahe=clahe)

    log_export(WEIGHTS[0], "logit", None, "superseded")  # the same configuration is exported again below
    for at, weights in enumerate(WEIGHTS):
        log_export(weights, "logit", None)
        log_export(weights, "prob", None)
        if at < 2:
            log_export(weights, "logit", CLAHE)
    for seed_number in range(3):
        own = truth + rng.normal(0, 2, truth.shape)
        log("student", own, f"kd-T{seed_number + 2}", weights={f"kd-T{seed_number + 2}-test_resnet": 1.0})
    log("chance", rng.normal(0, 1, truth.shape), weights={"CNXT": 0.5, "RN18": 0.5})
    log_others(workplace, benchmark, seeded)


def log_others(workplace, benchmark: str, seeded: Seeded) -> None:
    """Log exports that failed, and evaluations of those that did not."""
    client = MlflowClient(workplace.uri)
    with patch.dict("os.environ", workplace.env):
        for reason in ("teachers.yaml: no teacher RN81", "teachers/CNXT.pt is missing"):
            with open_run("export", f"export: {reason}") as run:
                run.log(PARAMS | {"benchmark": benchmark})
                run.log(tags={"fer.error": reason, "fer.benchmark": benchmark})
            client.set_terminated(run.run_id, "FAILED")
            seeded.runs.setdefault((benchmark, "failed"), []).append(run.run_id)
        about = {"fer.benchmark": benchmark, "fer.selection_sha256": seeded.selections[benchmark]}
        for run_id in seeded.of(benchmark, "export")[:17]:
            source = client.get_run(run_id)
            with open_run("evaluate", f"evaluate · {source.info.run_name}") as run:
                run.log(source.data.params)
                run.log(metrics=source.data.metrics)
                run.log(tags=about | {"fer.source_run": run_id})
            seeded.runs.setdefault((benchmark, "evaluate"), []).append(run.run_id)
