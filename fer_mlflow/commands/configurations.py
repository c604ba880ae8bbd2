"""What a sweep scores: lists of configurations, their counts (kept while they are made), their table."""

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
from fer_mlflow.files import written_file
from fer_mlflow.progress import show_progress
from fer_mlflow.search.choice import Choice, Variants, count_weightings, finest_step, simplex_grid, steps_in
from fer_mlflow.search.plateau import best_of
from fer_mlflow.search.teacher_logits import CountTables, RowScores, TeacherLogits, count_rows
from fer_mlflow.settings.weights import parse_weights

_CHUNK = 128  # configurations that are lost at most when a sweep is stopped


@dataclass(frozen=True)
class Configurations:
    """M configurations of K teachers.

    Attributes
    ----------
    pools, spaces : (M,) text
    weights : (M, K) float64
    """

    pools: np.ndarray
    spaces: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    @classmethod
    def product(cls, pools: Sequence[str], spaces: Sequence[str], weights: np.ndarray) -> "Configurations":
        """Return every weighting in every pool and space."""
        arms = [(pool, space) for pool in pools for space in spaces]
        return cls(
            np.repeat([pool for pool, _ in arms], len(weights)).astype(object),
            np.repeat([space for _, space in arms], len(weights)).astype(object),
            np.tile(weights, (len(arms), 1)),
        )

    @property
    def panels(self) -> np.ndarray:
        """(M,) text: space and how the teachers were asked."""
        return np.array(
            [" · ".join(filter(None, (s, p))) for s, p in zip(self.spaces, self.pools, strict=True)], object
        )

    def choice(self, m: int) -> Choice:
        """Return one of them."""
        return Choice(str(self.pools[m]), str(self.spaces[m]), self.weights[m])

    def row_scores(self, pools: Variants, m: int) -> RowScores:
        """Return what one of them says of each row of pools."""
        return pools[self.pools[m]].row_scores(str(self.spaces[m]), self.weights[m])


def read_weightings(options: Mapping, names: Sequence[str], arms: int) -> np.ndarray:
    """Return the (M, K) weights that options ask for: a list of them, or a grid.

    Raises
    ------
    ContractError
        too many of them (the message says which step would fit), or a list that cannot be read
    """
    if options["weights_list"]:
        weights = _read_list(Path(options["weights_list"]), names)
        found = f"{len(weights):,} weightings"
        fitting = "shorten the list"
        count = len(weights)
    else:
        steps, K = steps_in(options["step"]), len(names)
        count = count_weightings(K, steps)
        found = f"step {options['step']:g} of {K} teachers gives {count:,} weightings"
        finest = finest_step(K, options["most"] // arms)
        fitting = f"--step {finest:g} would fit" if finest else "name fewer teachers by --members"
        weights = simplex_grid(K, steps) if count * arms <= options["most"] else np.empty((0, K))
    if count * arms > options["most"]:
        times = f", times {arms} spaces and ways to ask" if arms > 1 else ""
        raise ContractError(
            f"{found}{times}: {count * arms:,} configurations, and at most {options['most']:,} are scored; {fitting}, "
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


def count_kept(
    pools: Variants, configurations: Configurations, cache: Path, benchmark: str, temperature: float = 1.0
) -> CountTables:
    """Return the counts of configurations at a temperature, with a progress bar.

    Those of a search that was stopped are taken over. What is kept is named by the hash of everything that it follows
    from, and removed when all is done.
    """
    parts: dict[int, CountTables] = {}
    folders = []
    with show_progress(f"scoring on {benchmark}", len(configurations)) as count:
        for name, pool in pools.items():
            for space in sorted(set(configurations.spaces)):
                chosen = np.flatnonzero((configurations.pools == name) & (configurations.spaces == space))
                # Weightings of the same teachers follow each other, since each set of teachers is prepared once.
                used = (configurations.weights[chosen] > 0) @ (1 << np.arange(pool.teachers))
                chosen = chosen[np.argsort(used, kind="stable")]
                folder = cache / "sweeps" / _digest(pool, space, configurations.weights[chosen], temperature)
                folders.append(folder)
                for start in range(0, len(chosen), _CHUNK):
                    rows = chosen[start : start + _CHUNK]
                    path = folder / f"{start}.npz"
                    found = _count_chunk(pool, space, configurations.weights[rows], temperature, path)
                    parts |= {int(m): found.of(slice(at, at + 1)) for at, m in enumerate(rows)}
                    count(len(rows))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return CountTables.concatenated(parts[m] for m in range(len(configurations)))


def _count_chunk(pool: TeacherLogits, space: str, weights: np.ndarray, temperature: float, path: Path) -> CountTables:
    if path.exists():
        with np.load(path, allow_pickle=False) as arrays:
            return CountTables(**arrays)
    found = count_rows(pool, space, weights, np.full(len(weights), temperature), workers=os.cpu_count() or 1)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **found.arrays())
    with written_file(path) as file:
        file.write(buffer.getvalue())
    return found


def _digest(pool: TeacherLogits, space: str, weights: np.ndarray, temperature: float) -> str:
    digest = hashlib.sha256(f"{space} {temperature!r}".encode())
    for array in (pool.logits(), pool.labels, pool.groups, weights):
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


def format_span(name: str, low: float, high: float) -> str:
    """Return a teacher's least and greatest share."""
    return f"{name} {low:.3g} to {high:.3g}" if low < high else f"{name} {low:.3g}"


def configurations_table(
    configurations: Configurations, names: Sequence[str], scores: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return one row for each configuration: how it was asked, space, a weight for each teacher, and its scores."""
    columns: dict[str, np.ndarray] = {"asked": configurations.pools, "space": configurations.spaces}
    columns |= {f"w/{name}": configurations.weights[:, k] for k, name in enumerate(names)}
    return pd.DataFrame(columns | dict(scores))
