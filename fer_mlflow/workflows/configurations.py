"""Configurations that are scored: their weights, count tables (kept while they are computed), runs of the best ones."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.errors import ContractError
from fer_mlflow.files import cache_folder, sha256_of_json, written_file
from fer_mlflow.progress import Progress
from fer_mlflow.scoring.evaluation import evaluate
from fer_mlflow.scoring.metrics import DEFAULT
from fer_mlflow.search.choices import Choice, Variants, count_weightings, finest_step, simplex_grid, steps_in
from fer_mlflow.search.teacher_logits import CountTables, TeacherLogits, count_rows
from fer_mlflow.settings.search import SearchSettings
from fer_mlflow.settings.texts import parse_weights
from fer_mlflow.softlabels.configuration import Calibration
from fer_mlflow.softlabels.ensemble import calibrated, rows_of_fit
from fer_mlflow.tracking import bundles, store
from fer_mlflow.tracking.runs import TrackedRun
from fer_mlflow.workflows.evaluate import SEED
from fer_mlflow.workflows.export import log_export
from fer_mlflow.workflows.sources import FILES, TeacherSet

_CHUNK = 128  # configurations that are lost at most when a sweep is stopped


@dataclass(frozen=True)
class Configurations:
    """M configurations of K teachers."""

    teachers: tuple[str, ...]
    variants: np.ndarray  # (M,) names of preprocessings
    spaces: np.ndarray  # (M,) text
    weights: np.ndarray  # (M, K) float64

    def __len__(self) -> int:
        return len(self.weights)

    @classmethod
    def product(
        cls, teachers: Sequence[str], variants: Sequence[str], spaces: Sequence[str], weights: np.ndarray
    ) -> "Configurations":
        """Return every weighting in every variant and space."""
        arms = [(variant, space) for variant in variants for space in spaces]
        names, own = (np.repeat(np.array(each, object), len(weights)) for each in zip(*arms, strict=True))
        return cls(tuple(teachers), names, own, np.tile(weights, (len(arms), 1)))

    @property
    def panels(self) -> np.ndarray:
        """(M,) text: space and preprocessing."""
        pairs = zip(self.spaces, self.variants, strict=True)
        return np.array([" · ".join(filter(None, pair)) for pair in pairs], object)

    def choice(self, m: int) -> Choice:
        """Return one of them."""
        return Choice(str(self.variants[m]), str(self.spaces[m]), self.weights[m])

    def describe(self, m: int) -> str:
        """Return one of them in a few words."""
        return self.choice(m).describe(self.teachers)

    def fused(self, variants: Variants, m: int) -> np.ndarray:
        """Return the (N, C) logits of one of them."""
        return self.choice(m).fused(variants)

    def describe_weights(self, chosen: np.ndarray) -> str:
        """Return each teacher's least and greatest share in some of the configurations."""
        weights = self.weights[chosen]
        spans = zip(self.teachers, weights.min(axis=0), weights.max(axis=0), strict=True)
        return ", ".join(
            f"{name} {low:.3g} to {high:.3g}" if low < high else f"{name} {low:.3g}" for name, low, high in spans
        )

    def table(self, scores: Mapping[str, np.ndarray]) -> pd.DataFrame:
        """Return one row for each configuration: preprocessing, space, a weight for each teacher, and its scores."""
        weights = {f"w/{name}": self.weights[:, k] for k, name in enumerate(self.teachers)}
        return pd.DataFrame({"preprocessing": self.variants, "space": self.spaces, **weights, **scores})

    def count(self, variants: Variants, benchmark: str, progress: Progress, temperature: float = 1.0) -> CountTables:
        """Return their count tables on a benchmark at a temperature.

        Those of a search that was stopped are reused. What is kept is named by the hash of everything that it follows
        from, and removed when all is done.
        """
        tables, places, folders = [], [], []
        with progress(f"scoring on {benchmark}", len(self)) as count:
            for name, logits in variants.items():
                for space in sorted(set(self.spaces)):
                    chosen = np.flatnonzero((self.variants == name) & (self.spaces == space))
                    # Weightings of the same teachers follow each other, since each set of teachers is prepared once.
                    used = (self.weights[chosen] > 0) @ (1 << np.arange(logits.teachers))
                    chosen = chosen[np.argsort(used, kind="stable")]
                    folder = cache_folder() / "sweeps" / _digest(logits, space, self.weights[chosen], temperature)
                    folders.append(folder)
                    for start in range(0, len(chosen), _CHUNK):
                        rows, path = chosen[start : start + _CHUNK], folder / f"{start}.npz"
                        tables.append(_count_chunk(logits, space, self.weights[rows], temperature, path))
                        places.append(rows)
                        count(len(rows))
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return CountTables.concatenated(tables).of(np.argsort(np.concatenate(places)))


def read_weightings(settings: SearchSettings, names: Sequence[str], variants: int) -> np.ndarray:
    """Return (M, K) weights: those of a list, or of a grid.

    Where they are too many, a ContractError says which step would fit.
    """
    arms, K = variants * len(settings.space), len(names)
    if settings.weights_list:
        weights = _read_list(Path(settings.weights_list), names)
        count = len(weights)
        found, fitting = f"{count:,} weightings", "shorten the list"
    else:
        steps = steps_in(settings.step)
        count = count_weightings(K, steps)
        found = f"step {settings.step:g} of {K} teachers gives {count:,} weightings"
        finest = finest_step(K, settings.most // arms)
        fitting = f"--step {finest:g} would fit" if finest else "name fewer teachers by --members"
        weights = simplex_grid(K, steps) if count * arms <= settings.most else np.empty((0, K))
    if count * arms > settings.most:
        times = f", times {arms} spaces and preprocessings" if arms > 1 else ""
        raise ContractError(
            f"{found}{times}: {count * arms:,} configurations, and at most {settings.most:,} are scored; {fitting}, "
            "or raise --most"
        )
    return weights


def _read_list(path: Path, names: Sequence[str]) -> np.ndarray:
    """Return the weights of a file: one ensemble in each line; # begins a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"--weights-list {path}: {getattr(error, 'strerror', None) or 'not text'}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            weights = parse_weights(text)
        except ContractError as error:
            raise ContractError(f"--weights-list {path}, line {number}: {error}") from error
        if unknown := [name for name in weights if name not in names]:
            raise ContractError(
                f"--weights-list {path}, line {number}: no teacher {', '.join(unknown)}; there are {', '.join(names)}"
            )
        rows.append([weights.get(name, 0.0) for name in names])
    if not rows:
        raise ContractError(f"--weights-list {path}: no line with weights; write NAME=share,NAME=share")
    return np.array(rows)


def _count_chunk(logits: TeacherLogits, space: str, weights: np.ndarray, temperature: float, path: Path) -> CountTables:
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return CountTables(**arrays)
    found = count_rows(logits, space, weights, np.full(len(weights), temperature), workers=os.cpu_count() or 1)
    with written_file(path) as file:
        np.savez(file, allow_pickle=False, **vars(found))
    return found


def _digest(logits: TeacherLogits, space: str, weights: np.ndarray, temperature: float) -> str:
    digest = hashlib.sha256(f"{space} {temperature!r}".encode())
    for array in (logits.logits(), logits.labels, logits.groups, weights):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def log_choice(
    run: TrackedRun,
    teachers: TeacherSet,
    choice: Choice,
    rank: int,
    elsewhere: Mapping[str, float],
    params: Mapping[str, str],
) -> str:
    """Log a configuration as a nested run with all metrics of the benchmark that is reported on; return the run.

    `elsewhere` has metrics on other benchmarks; `params` are the sweep's.
    """
    bundle = teachers.bundle
    weights = choice.shares(teachers.names)
    configuration = replace(teachers.configuration, weights=weights, space=choice.space)
    logits = teachers.labelled_logits().fused(choice.space, choice.weights)
    result = evaluate(logits, teachers.labels, bundle.classes, np.random.default_rng(SEED))
    with run.sibling(f"#{rank} {configuration.run_name(teachers.benchmark)}", nested=True) as own:
        given = {key: params[key] for key in ("manifest", "root", "teachers") if key in params}
        own.log(bundles.derived_params(bundle, configuration, given))
        own.log_benchmark(teachers.benchmark, bundle)
        own.log(metrics={**result.named(), **elsewhere})
        tags = {"fer.benchmark": teachers.benchmark, "fer.selection_sha256": bundle.selection_sha256}
        tags |= {"fer.kind": "evaluate", "fer.sweep_rank": str(rank)}
        verdict = bundles.describe_scores(result.metrics, result.intervals[DEFAULT])
        own.describe(verdict, bundles.describe_rows(bundle, configuration), teachers.run_ids, **tags)
    return own.run_id


def export_choice(run: TrackedRun, teachers: TeacherSet, choice: Choice, fitted: TeacherSet) -> tuple[str, str]:
    """Log the soft labels of a configuration, unless a finished run has them; return its name and the run.

    `teachers` are of the benchmark that is reported on, `fitted` of the benchmark of the choice.
    """
    assert teachers.gathered is not None  # the settings refuse an export from stored runs
    ensemble = teachers.gathered.ensemble
    weights = choice.shares(teachers.names)
    total = sum(weights.values())  # rounded
    weights = {name: share / total for name, share in weights.items()} if abs(total - 1) > 1e-7 else weights
    configuration = replace(ensemble.configuration, weights=weights, space=choice.space)
    key = replace(ensemble, configuration=configuration).key
    calibration = {
        "method": "temperature",
        "temperature": choice.temperature,
        "fitted_on": rows_of_fit(fitted.bundle),
        "in_sample": fitted.bundle.selection_sha256 == teachers.bundle.selection_sha256,
    }
    plain, is_calibrated = configuration, choice.temperature != 1
    if is_calibrated:
        key = f"{key.partition('.')[0]}.{sha256_of_json({'of': key, 'calibration': calibration})[:32]}"
        configuration = replace(configuration, calibration=Calibration.of(calibration))
    name = configuration.name
    if there := bundles.find_runs(run.client, "export", [key])[key]:
        return name, there[0].info.run_id
    bundle, settings = teachers.gathered.fused(plain), ensemble.settings
    tags = {f"{store.TEACHER_RUN}{each}": teachers.run_ids[each] for each in weights}
    if is_calibrated:
        bundle = calibrated(bundle, bundle.logits / choice.temperature, calibration)
        tags["fer.calibration_in_sample"] = str(calibration["in_sample"]).lower()
    files = {each: settings.params[each] for each in FILES if each in settings.params}
    return name, log_export(run, bundle, key, files, tags, nested=True)
