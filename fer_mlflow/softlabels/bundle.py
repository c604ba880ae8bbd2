"""Soft labels: logits with their index and report, in memory or as a bundle on disk. Format: docs/bundle-format.md."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fer_mlflow.data.manifest import selection_digest
from fer_mlflow.data.preprocessing import CHOICES
from fer_mlflow.files import sha256_of_file, written_folder
from fer_mlflow.scoring.metrics import ECE_BINS, score
from fer_mlflow.softlabels import files
from fer_mlflow.softlabels.configuration import Configuration, shared_text

FOLDER = "softlabels"  # the artifact folder of a run


@dataclass(frozen=True, eq=False, repr=False)
class SoftLabels:
    """Verified soft labels: N rows of logits over C classes, and what they were computed from.

    Attributes
    ----------
    logits : (N, C) float32 or float16; softmax(logits / T) is the target at temperature T
    index : N rows of row (int64, position in the selected benchmark, ascending), path, label (empty where there
        is none), split, source, image_sha256 (64 hex digits), and what further columns were kept, such as group
    classes : the C class names in column order
    report : the alignment report
    metrics : name -> number, empty where no row has a label
    manifest_sha256, selection_sha256 : of the manifest file, and of the rows in `index`
    checkpoints : teacher name -> SHA-256 of its checkpoint file
    environment : on what and with which versions it was computed; in no digest
    folder : where the bundle is; None in memory
    """

    logits: np.ndarray
    index: pd.DataFrame
    classes: tuple[str, ...]
    report: Mapping[str, Any]
    metrics: Mapping[str, float]
    manifest_sha256: str
    selection_sha256: str
    checkpoints: Mapping[str, str]
    environment: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    _sha256: str = ""

    def __len__(self) -> int:
        return len(self.logits)

    def __repr__(self) -> str:
        """Return one line, without arrays."""
        try:
            what = f"{self.name}, "
        except (KeyError, TypeError, ValueError):  # a report of somebody else's
            what = ""
        where = f"in {self.folder}" if self.folder else "in memory"
        return f"<SoftLabels {what}{len(self):,} rows, {len(self.classes)} classes, {self.logits.dtype}, {where}>"

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.report["benchmark"]["name"]

    @cached_property
    def configuration(self) -> Configuration:
        """What the logits were fused from, and how."""
        return Configuration.of(self.report)

    @property
    def name(self) -> str:
        """The configuration and the benchmark, for people."""
        return f"{self.configuration.name}  on  {self.benchmark}"

    def run_name(self, *marks: str) -> str:
        """Return the name of a run on them, as `Configuration.run_name` does."""
        return self.configuration.run_name(self.benchmark, *marks)

    @property
    def protocol(self) -> dict[str, str]:
        """Everything that shaped the numbers, as label -> text, in the order in which people read it."""
        options, teachers = self.configuration.options, dict(sorted(self.report["teachers"].items()))
        steps = {name: each["preprocessing"] for name, each in teachers.items()}
        return {
            "benchmark": self.benchmark,
            "selection": self.selection_sha256[:12],
            "rows": f"{len(self):,}",
            "labelled rows": f"{int(self.labelled.sum()):,}",
            "classes": ", ".join(self.classes),
            "weights": options["weights"],
            "space": options["space"],
            "dtype": options["dtype"],
            "calibration": str(self.configuration.calibration or "none"),
            "clahe": shared_text({name: _describe_clahe(each["clahe"]) for name, each in steps.items()}),
            "decoding": shared_text({name: ", ".join(each[key] for key in CHOICES) for name, each in steps.items()}),
            "image size": shared_text({name: each["img_size"] for name, each in steps.items()}),
            "precision": options["precision"],
            "checkpoints": ", ".join(f"{name} {digest[:8]}" for name, digest in sorted(self.checkpoints.items())),
            "trained on these images": shared_text({name: each["in_sample"] for name, each in teachers.items()}),
            "ECE": f"{ECE_BINS} bins, (lo, hi]",
        }

    @cached_property
    def labels(self) -> np.ndarray:
        """The (N,) int64 class columns of the labels, -1 where a row has none."""
        return files.label_columns(self.index["label"], self.classes)

    @property
    def labelled(self) -> np.ndarray:
        """(N,) bool, the rows with a label."""
        return self.labels >= 0

    @property
    def in_sample(self) -> str:
        """Whether a teacher was trained on some of the images: `true`, `unknown` or `false`."""
        found = {each["in_sample"] for each in self.report["teachers"].values()}
        return next(word for word in ("true", "unknown", "false") if word in found)

    @cached_property
    def image_sha256(self) -> np.ndarray:
        """The (N, 32) uint8 hashes of the images' bytes."""
        hexadecimal = "".join(self.index["image_sha256"])
        return np.frombuffer(bytes.fromhex(hexadecimal), np.uint8).reshape(-1, 32)

    @cached_property
    def sha256(self) -> str:
        """The bundle's own digest, of its hash_manifest.json: 64 hex digits."""
        if self._sha256:
            return self._sha256
        hashes = {name: _hashed(chunks) for name, chunks in self._contents()}
        return hashlib.sha256(self._descriptor(hashes)).hexdigest()

    @classmethod
    def of(
        cls,
        *,
        logits: np.ndarray,
        index: pd.DataFrame,
        classes: tuple[str, ...],
        report: Mapping[str, Any],
        manifest_sha256: str,
        checkpoints: Mapping[str, str],
        metrics: Mapping[str, float] | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> "SoftLabels":
        """Return soft labels in memory, after the checks that `open` makes of a bundle's arrays.

        Without `metrics` they are taken from the logits. Raises a BundleError where the parts do not go together.
        """
        index = files.check_parts(logits, index, classes, [manifest_sha256], checkpoints)
        if metrics is None:
            labels = files.label_columns(index["label"], classes)
            known = labels >= 0
            metrics = score(logits[known], labels[known], classes) if known.any() else {}
        selection, checkpoints = selection_digest(index), dict(checkpoints)
        return cls(logits, index, classes, report, metrics, manifest_sha256, selection, checkpoints, environment or {})

    @classmethod
    def open(cls, folder: str | Path) -> "SoftLabels":
        """Read a bundle and verify all of it.

        Checked are: every file's hash, the class order, type, shape and finiteness of the logits, the rows'
        count and order, their labels, and that they give the selection digest that the bundle is tagged with.

        Raises
        ------
        BundleError
            the first thing that does not hold: which file, what was found, what to do
        """
        folder = Path(folder)
        reading = files.read_parts(folder)
        if reading.error is not None:
            raise files.BrokenFileError(reading.error, folder)
        read = ("logits", "index", "classes", "report", "metrics", "environment")
        parts: dict[str, Any] = {name: getattr(reading, name) for name in read}
        parts |= {name: reading.hashes[name] for name in ("manifest_sha256", "selection_sha256", "checkpoints")}
        return cls(**parts, folder=folder, _sha256=sha256_of_file(folder / files.HASHES))

    def write(self, folder: str | Path) -> "SoftLabels":
        """Write the bundle in the place of `folder`, whole or not at all, and return it as `open` would.

        The same content gives the same bytes. The files are read back and verified before the folder gets its name. On
        an OSError of the disk, `folder` is as it was.
        """
        with written_folder(folder) as temporary:
            hashes = {}
            for name, chunks in self._contents():
                with (temporary / name).open("wb") as file:
                    hashes[name] = _hashed(chunks, file.write)
            if self.environment:
                (temporary / files.ENVIRONMENT).write_bytes(_json(self.environment))
            (temporary / files.HASHES).write_bytes(self._descriptor(hashes))
            written = SoftLabels.open(temporary)
        return replace(written, folder=Path(folder))

    def _contents(self) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Yield the name and the bytes of each file that is hashed."""
        arrays = io.BytesIO()
        np.savez(arrays, logits=self.logits)
        yield files.ARRAYS, [arrays.getvalue()]
        yield files.INDEX, _index_lines(self.index)
        yield files.CLASSES, [_json(list(self.classes))]
        yield files.REPORT, [_json(self.report)]
        if self.metrics:
            yield files.METRICS, [_json(self.metrics)]

    def _descriptor(self, hashes: Mapping[str, str]) -> bytes:
        return _json(
            {
                "format": files.FORMAT,
                "manifest_sha256": self.manifest_sha256,
                "selection_sha256": self.selection_sha256,
                "checkpoints": self.checkpoints,
                "files": hashes,
            }
        )


def _describe_clahe(clahe: Mapping[str, Any] | None) -> str:
    """Return CLAHE's settings, and the start of the hash of what it makes of a fixed pattern."""
    if clahe is None:
        return "none"
    return f"clip {clahe['clip']:g}, {clahe['tile']} tiles, pattern {clahe['pattern_sha256'][:8]}"


def _hashed(chunks: Iterable[bytes], write=lambda chunk: None) -> str:
    """Return the SHA-256 of chunks of bytes, each of which is written."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        write(chunk)
    return digest.hexdigest()


def _index_lines(index: pd.DataFrame) -> Iterator[bytes]:
    """Yield one JSON line a row, a few thousand rows in memory at a time."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    for start in range(0, len(index), files.INDEX_BLOCK):
        block = index.iloc[start : start + files.INDEX_BLOCK]
        for values in zip(*(block[name].tolist() for name in block), strict=True):
            record = dict(zip(block, values, strict=True))
            yield (encode(record | {"label": record["label"] or None}) + "\n").encode()


def _json(value: Any) -> bytes:
    """Return JSON that people can read; NaN is an error, since JSON has none."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
