"""The layers hold: who may import whom, what runs at import, and what a help text costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fer_mlflow

PACKAGE = Path(fer_mlflow.__file__).parent
ORDER = (
    *("errors", "settings", "files", "progress", "tables", "data", "datasets"),
    *("scoring", "calibration", "search", "figures", "teachers", "training", "softlabels", "student", "tracking"),
    *("workflows", "tour", "cli"),
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the full names of everything a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", [p for p in MODULES if layer(p) in ORDER], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_layer_imports_only_from_layers_below(path):
    own = ORDER.index(layer(path))
    names = imported(path)
    ours = {name.split(".")[1] for name in names if name.startswith("fer_mlflow.")}
    assert all(ORDER.index(name) <= own for name in ours), f"{path.name} imports {ours}"
    if layer(path) == "scoring":
        assert ours <= {"errors", "settings", "scoring"}, ours


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_tracking_knows_mlflow_and_only_teachers_and_students_know_torch(path):
    tops = {name.split(".")[0] for name in imported(path)}
    if layer(path) != "tracking":
        assert "mlflow" not in tops
    if layer(path) not in ("teachers", "training", "student"):
        assert not tops & {"torch", "timm"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "scoring").glob("*.py")), ids=lambda p: p.name)
def test_scoring_is_pure(path):
    assert not imported(path) & {"os", "time", "datetime", "pathlib", "random"}
    assert "print(" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_only_defines_when_it_is_imported(path):
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.FunctionDef,
        ast.ClassDef,
        ast.Assign,
        ast.AnnAssign,
        ast.AugAssign,
        ast.If,
    )
    for node in ast.parse(path.read_text()).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_docstring or isinstance(node, allowed), f"{path}:{node.lineno}"


def test_soft_labels_open_without_mlflow_and_torch():
    code = "import sys\nfrom fer_mlflow import SoftLabels\nprint([m for m in ('mlflow', 'torch') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_command_line_starts_without_heavy_imports():
    code = (
        "import sys, fer_mlflow.cli as cli, fer_mlflow.cli.export, fer_mlflow.cli.manifest\n"
        "print([m for m in ('torch', 'mlflow', 'numpy', 'pandas', 'cv2', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
