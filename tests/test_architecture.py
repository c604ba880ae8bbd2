"""The layout holds: who imports whom, what runs at import, and what starts without the large libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import fer_mlflow

PACKAGE = Path(fer_mlflow.__file__).parent
# Each imports only what stands before it.
ORDER = (
    *("__init__", "errors", "settings", "files", "progress", "tables", "data", "datasets"),
    *("scoring", "calibration", "search", "figures", "teachers", "training", "softlabels", "student"),
    *("tracking", "workflows", "tour", "cli", "__main__"),
)
TORCH = ("teachers", "training", "student")
OWNERS = {"mlflow": ("tracking",), "torch": TORCH, "torchvision": TORCH, "timm": TORCH, "click": ("cli",)}
PURE = ("scoring", "calibration", "search")
GUARDS = ("TYPE_CHECKING", "__name__ == '__main__'")
IMPURE = {"os", "time", "datetime", "pathlib", "random", "logging", "subprocess", "tempfile", "shutil"}


def name_of(path: Path) -> str:
    """Return a file's module, such as `fer_mlflow.data.manifest`."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def unit_of(module: str) -> str:
    """Return the part of the package that a module belongs to: one of `ORDER`."""
    return f"{module}.__init__".split(".")[1]


def imports_of(node: ast.AST) -> Iterator[str]:
    """Yield the modules that code imports, inside functions too, without what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            home = "." * child.level + (child.module or "")
            names = (f"{home}.{alias.name}" for alias in child.names)
            yield from (name if name in MODULES else home for name in names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from imports_of(child)


def test_imports_follow_the_order_and_make_no_circle():
    imports = {module: set(imports_of(tree)) for module, tree in MODULES.items()}
    wrong = [
        f"{module} imports {name}"
        for module, names in imports.items()
        for name in sorted(names)
        if (name in MODULES and ORDER.index(unit_of(name)) > ORDER.index(unit_of(module)))
        or unit_of(module) not in OWNERS.get(name.split(".")[0], ORDER)
        or (unit_of(module) in PURE and name in MODULES and unit_of(name) not in (*PURE, "errors", "settings"))
        or name.startswith(".")
    ]
    assert not wrong, "\n".join(wrong)
    try:
        TopologicalSorter({module: names & MODULES.keys() for module, names in imports.items()}).prepare()
    except CycleError as error:
        circle = " imports ".join(reversed(error.args[1]))
        raise AssertionError(f"a circle: {circle}") from None


def test_importing_does_nothing_and_arithmetic_is_pure():
    definitions = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign)
    wrong = []
    for module, tree in MODULES.items():
        for node in tree.body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            is_guarded = isinstance(node, ast.If) and ast.unparse(node.test) in GUARDS
            if not (is_docstring or is_guarded or isinstance(node, definitions)):
                wrong.append(f"{module} line {node.lineno} runs {ast.unparse(node)!r} when it is imported")
        if unit_of(module) in PURE:
            wrong += [f"{module} imports {name}" for name in sorted(IMPURE & set(imports_of(tree)))]
            calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
            wrong += [f"{module} line {call.lineno} prints" for call in calls if ast.unparse(call.func) == "print"]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_and_soft_labels_start_without_large_libraries():
    commands = ", ".join(module for module in MODULES if unit_of(module) == "cli")
    for code, absent in (
        (f"import {commands}", ("torch", "mlflow", "numpy", "pandas", "cv2", "sklearn", "scipy", "matplotlib")),
        ("from fer_mlflow import SoftLabels", ("torch", "mlflow", "timm")),
    ):
        # An import of one of them fails, with the file and the line in the traceback.
        code = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n{code}"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
