"""Lists of configurations that are searched, and their count tables, which are kept while they are computed."""

import hashlib
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_mlflow.errors import ContractError
from fer_mlflow.files import cache_folder, written_file
from fer_mlflow.progress import Progress
from fer_mlflow.search.choice import Choice, Variants, count_weightings, finest_step, simplex_grid, steps_in
from fer_mlflow.search.plateau import best_of
from fer_mlflow.search.teacher_logits import CountTables, RowScores, TeacherLogits, count_rows
from fer_mlflow.settings.search import SearchSettings
from fer_mlflow.settings.weights import parse_weights

_DIGITS = 6
_CHUNK = 128  # configurations that are lost at most when a sweep is stopped


@dataclass(frozen=True)
class Configurations:
    """M configurations of K teachers.

    Attributes
    ----------
    variants, spaces : (M,) text: name of the preprocessing, fusion space
    weights : (M, K) float64
    """

    variants: np.ndarray
    spaces: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    @classmethod
    def product(cls, variants: Sequence[str], spaces: Sequence[str], weights: np.ndarray) -> "Configurations":
        """Return every weighting in every variant and space."""
        arms = [(variant, space) for variant in variants for space in spaces]
        names, own = (np.repeat(np.array(each, object), len(weights)) for each in zip(*arms, strict=True))
        return cls(names, own, np.tile(weights, (len(arms), 1)))

    @property
    def panels(self) -> np.ndarray:
        """(M,) text: space and preprocessing."""
        pairs = zip(self.spaces, self.variants, strict=True)
        return np.array([" · ".join(filter(None, pair)) for pair in pairs], object)

    def choice(self, m: int) -> Choice:
        """Return one of them."""
        return Choice(str(self.variants[m]), str(self.spaces[m]), self.weights[m])

    def row_scores(self, variants: Variants, m: int) -> RowScores:
        """Return one configuration's predictions and losses on the rows of teachers' logits."""
        return variants[self.variants[m]].row_scores(str(self.spaces[m]), self.weights[m])


def read_weightings(settings: SearchSettings, names: Sequence[str], variants: int) -> np.ndarray:
    """Return (M, K) weights: those of a list, or of a grid.

    Raises
    ------
    ContractError
        too many of them (the message says which step would fit), or a list that cannot be read
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


def count_configurations(
    variants: Variants,
    configurations: Configurations,
    benchmark: str,
    progress: Progress,
    temperature: float = 1.0,
) -> CountTables:
    """Return the count tables of configurations at a temperature.

    Those of a search that was stopped are reused. What is kept is named by the hash of everything that it follows
    from, and removed when all is done.
    """
    parts: dict[int, CountTables] = {}
    folders = []
    with progress(f"scoring on {benchmark}", len(configurations)) as count:
        for name, logits in variants.items():
            for space in sorted(set(configurations.spaces)):
                chosen = np.flatnonzero((configurations.variants == name) & (configurations.spaces == space))
                # Weightings of the same teachers follow each other, since each set of teachers is prepared once.
                used = (configurations.weights[chosen] > 0) @ (1 << np.arange(logits.teachers))
                chosen = chosen[np.argsort(used, kind="stable")]
                folder = cache_folder() / "sweeps" / _digest(logits, space, configurations.weights[chosen], temperature)
                folders.append(folder)
                for start in range(0, len(chosen), _CHUNK):
                    rows = chosen[start : start + _CHUNK]
                    path = folder / f"{start}.npz"
                    found = _count_chunk(logits, space, configurations.weights[rows], temperature, path)
                    parts |= {int(m): found.of(slice(at, at + 1)) for at, m in enumerate(rows)}
                    count(len(rows))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return CountTables.concatenated(parts[m] for m in range(len(configurations)))


def _count_chunk(logits: TeacherLogits, space: str, weights: np.ndarray, temperature: float, path: Path) -> CountTables:
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return CountTables(**arrays)
    found = count_rows(logits, space, weights, np.full(len(weights), temperature), workers=os.cpu_count() or 1)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **found.arrays())
    with written_file(path) as file:
        file.write(buffer.getvalue())
    return found


def _digest(logits: TeacherLogits, space: str, weights: np.ndarray, temperature: float) -> str:
    digest = hashlib.sha256(f"{space} {temperature!r}".encode())
    for array in (logits.logits(), logits.labels, logits.groups, weights):
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def best_in(
    configurations: Configurations,
    counts: CountTables,
    metric: str,
    classes: tuple[str, ...],
    groups: np.ndarray | None = None,
) -> Choice:
    """Return the best configuration on a union of groups of rows, (G,) bool; None means all."""
    scores = counts.scores(classes, groups)
    values = scores.get(metric, np.zeros(len(counts)))
    return configurations.choice(best_of(values, metric, scores["nll"]))


def shares_of(names: Sequence[str], choice: Choice) -> dict[str, float]:
    """Return the teachers that a choice uses and their weights, to 6 digits, as they are shown and exported."""
    shares = {name: round(float(share), _DIGITS) for name, share in zip(names, choice.weights, strict=True)}
    return {name: share for name, share in shares.items() if share > 0}


def describe_shares(names: Sequence[str], weights: np.ndarray) -> str:
    """Return each teacher's least and greatest share in (M, K) weights."""
    spans = zip(names, weights.min(axis=0), weights.max(axis=0), strict=True)
    return ", ".join(
        f"{name} {low:.3g} to {high:.3g}" if low < high else f"{name} {low:.3g}" for name, low, high in spans
    )


def configurations_table(
    configurations: Configurations, names: Sequence[str], scores: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return one row for each configuration: preprocessing, space, a weight for each teacher, and its scores."""
    columns: dict[str, np.ndarray] = {"preprocessing": configurations.variants, "space": configurations.spaces}
    columns |= {f"w/{name}": configurations.weights[:, k] for k, name in enumerate(names)}
    return pd.DataFrame(columns | dict(scores))
