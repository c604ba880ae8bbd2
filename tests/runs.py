"""Run records and evidence as tests need them, without a store."""

import numpy as np

from fer_mlflow.scoring.metrics import row_losses, score
from fer_mlflow.tracking.records import Evidence, RunRecord

CLASSES = ("Angry", "Happy", "Sad")
SELECTION = "ab" * 32


def record(run_id: str = "r1", *, kind: str = "export", status: str = "FINISHED", start_ms: int = 1_000, **more):
    """Return a finished, sound export; `params`, `metrics` and `tags` are added to its own (None takes one away)."""
    own = {
        "params": {"ensemble": "A=0.5,B=0.5", "space": "logit", "clahe": "false", "rows": "6"},
        "metrics": {"macro_f1": 0.7, "accuracy": 0.8, "nll": 0.5, "ece": 0.1},
        "tags": {
            "fer.kind": kind,
            "fer.benchmark": "faces:test",
            "fer.selection_sha256": SELECTION,
            "fer.config_key": f"key of {run_id}",
            "fer.bundle_sha256": "cd" * 32,
            "fer.alignment": "pass",
        },
    }
    parts = {
        name: {key: value for key, value in {**values, **more.pop(name, {})}.items() if value is not None}
        for name, values in own.items()
    }
    return RunRecord(run_id, "0", more.pop("name", run_id), status, start_ms, **parts)


def evidence_of(labels, predictions, classes=CLASSES, **more) -> Evidence:
    """Return what a bundle with these predictions says."""
    labels, predictions = np.array(labels), np.array(predictions)
    logits = np.full((len(labels), len(classes)), -1.0)
    logits[np.arange(len(labels)), predictions] = 1.0
    own = {
        "classes": classes,
        "rows": len(labels),
        "selected_rows": len(labels),
        "metrics": score(logits, labels, classes),
        "labels": labels.astype(np.int16),
        "predictions": predictions.astype(np.int16),
        "selection": SELECTION,
        "losses": row_losses(logits, labels).astype(np.float32),
    }
    return Evidence(**own | more)
