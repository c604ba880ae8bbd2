"""A student as an MLflow model that takes image files: what `mlflow models serve` and `predict` run."""

import base64
import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel
from mlflow.types.schema import ColSpec, Schema, TensorSpec
from scipy.special import softmax

from fer_mlflow.data.images import prepare_image, read_image_bytes
from fer_mlflow.data.preprocessing import Preprocessing
from fer_mlflow.errors import ImageError
from fer_mlflow.tracking.store import tracking_errors

NAME = "student"  # of the model in its run
IMAGE, PATH = "image", "path"
# What a served student imports; the package itself travels with the model.
PACKAGES = ("mlflow", "numpy", "pandas", "scipy", "opencv-python", "filelock", "onnxruntime")
# Code instead of a pickle: what is run when the model is loaded can be read.
_CODE = """\
from mlflow.models import set_model

from fer_mlflow.tracking.serving import Student

set_model(Student())
"""


class Student(PythonModel):
    """Image files in, a label with its probabilities out; decoding and CLAHE are those of an export."""

    def load_context(self, context) -> None:
        """Open the ONNX file, and read the classes and the preprocessing that the student was trained with."""
        import onnxruntime

        card = json.loads(Path(context.artifacts["card"]).read_text(encoding="utf-8"))
        self.classes = card.pop("classes")
        self.preprocessing = Preprocessing.parse(card)
        self.session = onnxruntime.InferenceSession(context.artifacts["onnx"], providers=["CPUExecutionProvider"])

    def predict(self, context, model_input: pd.DataFrame, params=None):
        """Return one row for each image: `label`, and the probability of each class under `p/<Class>`.

        The column `image` has the bytes of image files (JPEG, PNG, …), or their base64 text; without it the column
        `path` has files below the working folder.
        """
        side = self.preprocessing.side
        pixels = np.empty((len(model_input), side, side, 3), np.uint8)
        column = IMAGE if IMAGE in model_input else PATH
        for row, value in enumerate(model_input[column]):
            try:
                data = image_bytes(value) if column == IMAGE else read_image_bytes(Path.cwd(), value)
                pixels[row] = prepare_image(data, self.preprocessing)
            except ImageError as error:
                raise ImageError(f"image {row + 1}: {error}") from error
        (logits,) = self.session.run(["logits"], {"pixels": pixels})
        probs = softmax(logits.astype(np.float64), axis=1)
        table = pd.DataFrame({"label": np.array(self.classes, dtype=object)[logits.argmax(axis=1)]})
        return table.assign(**{f"p/{name}": probs[:, column] for column, name in enumerate(self.classes)})


def image_bytes(value: bytes | str) -> bytes:
    """Return an image file's bytes, of bytes or of base64 text; ImageError for anything else."""
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError) as error:
        raise ImageError("neither bytes nor base64 text of an image file") from error


def log_student(run_id: str, onnx: Path, card: dict, example: bytes) -> str:
    """Log an ONNX student as a run's model, and return its address.

    The card has `classes`, `img_size` and `clahe` (its settings, or None); the example is an image file's bytes.
    """
    probs: list[ColSpec | TensorSpec] = [ColSpec("double", f"p/{name}") for name in card["classes"]]
    # MLflow reads binary columns as base64 where the request is JSON.
    inputs = Schema([ColSpec("binary", IMAGE, required=False), ColSpec("string", PATH, required=False)])
    outputs = Schema([ColSpec("string", "label"), *probs])
    with tempfile.TemporaryDirectory(prefix="fer-mlflow.") as folder:
        code, described = Path(folder) / "served_student.py", Path(folder) / "card.json"
        code.write_text(_CODE, encoding="utf-8")
        described.write_text(json.dumps(card, indent=2), encoding="utf-8")
        with tracking_errors("logging the student as a model"):
            logged = mlflow.models.Model.log(
                artifact_path=None,
                name=NAME,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                python_model=str(code),
                code_paths=[str(Path(__file__).parents[1])],
                artifacts={"onnx": str(onnx), "card": str(described)},
                signature=mlflow.models.ModelSignature(inputs=inputs, outputs=outputs),
                input_example=pd.DataFrame({IMAGE: [example]}),
                pip_requirements=[f"{name}=={version(name)}" for name in PACKAGES],
            )
    return logged.model_uri
