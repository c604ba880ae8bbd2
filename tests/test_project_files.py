"""MLproject, conda.yaml, pyproject.toml and README say the same things as the code."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import click
import pytest
import yaml
from packaging.requirements import Requirement

from fer_mlflow.cli import COMMANDS, main
from fer_mlflow.cli.options import FieldType
from fer_mlflow.cli.reference import reference

PROJECT = Path(__file__).parents[1]
MLPROJECT = yaml.safe_load((PROJECT / "MLproject").read_text())
CONDA = yaml.safe_load((PROJECT / "conda.yaml").read_text())
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
COMMAND = {name: main.get_command(click.Context(main), name) for name in COMMANDS}
# Groups: an entry point starts the sub-command that tracks; each sub-command is a part of the documentation.
GROUPS = {name: command for name, command in COMMAND.items() if isinstance(command, click.Group)}
STARTED = {name: f"{name} track" if name in GROUPS else name for name in COMMANDS}
COMMAND |= {f"{name} {each}": command for name, group in GROUPS.items() for each, command in group.commands.items()}
DOCUMENTED = [name for name in COMMAND if name not in GROUPS]


def pip_packages() -> list[str]:
    return next(entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))


def name_of(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower()


def test_conda_and_pyproject_name_the_same_packages():
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["onnx"]
    assert {name_of(r) for r in pip_packages()} == {name_of(r) for r in wanted}


def test_conda_pins_every_package_exactly_and_not_the_project():
    assert all(re.fullmatch(r"[a-z0-9_.-]+==[0-9][0-9a-z.]*", package) for package in pip_packages())
    assert not any(package.startswith(("-e", ".", "fer-mlflow")) for package in pip_packages())


def test_the_environment_that_runs_the_tests_is_the_pinned_one():
    from importlib.metadata import version

    pins = dict(package.split("==") for package in pip_packages())
    assert {name: version(name).split("+")[0] for name in pins} == pins


def test_the_readme_names_the_pinned_mlflow():
    named = re.findall(r"mlflow==[0-9.]+[0-9]", (PROJECT / "README.md").read_text())
    assert named
    assert set(named) <= set(pip_packages())


# Listed packages that no module imports by name, and who needs them.
NEEDED_BY_OTHERS = {
    "pyarrow": "pandas reads and writes Parquet with it",
    "onnx": "torch.onnx builds the file with it",
    "onnxscript": "torch.onnx translates operators with it",
}


def imports_of(package: Path) -> dict[str, str]:
    """Return the names of other packages that a package's modules import, inside functions too -> one such module."""
    found: dict[str, str] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"fer_mlflow"}:
                found.setdefault(name, str(path.relative_to(package)))
    return found


def disagreements(imports: dict[str, str], listed: set[str]) -> list[str]:
    """Return a sentence for each import whose package is not listed, and for each listed package without use."""
    distributions = packages_distributions()
    packages = {name: {each.lower() for each in distributions.get(name, [name])} for name in imports}
    missing = [
        f"{imports[name]} imports {name}, which is not listed" for name in imports if not packages[name] & listed
    ]
    unused = listed - set().union(*packages.values()) - set(NEEDED_BY_OTHERS)
    needless = set(NEEDED_BY_OTHERS) & set().union(*packages.values())
    return [
        *missing,
        *(f"{name} is listed and not imported" for name in sorted(unused)),
        *(f"{name} is imported: take it out of NEEDED_BY_OTHERS" for name in sorted(needless)),
    ]


def test_conda_lists_what_the_package_imports_and_nothing_else():
    listed = {name_of(package) for package in pip_packages()}
    assert set(NEEDED_BY_OTHERS) <= listed
    assert disagreements(imports_of(PROJECT / "fer_mlflow"), listed) == []


def test_an_import_that_is_not_listed_is_found_and_so_is_a_package_without_use(tmp_path):
    lines = ["import os, numpy.linalg", "def f():", "    from hypothesis import given", "    import not_installed.x"]
    (tmp_path / "planted.py").write_text("\n".join(lines))
    assert disagreements(imports_of(tmp_path), {"numpy", "click"}) == [
        "planted.py imports hypothesis, which is not listed",
        "planted.py imports not_installed, which is not listed",
        "click is listed and not imported",
    ]


def test_torch_and_torchvision_are_of_one_release_pair():
    from importlib.metadata import requires, version

    wanted = next(each for each in map(Requirement, requires("torchvision")) if each.name == "torch")
    assert version("torch") in wanted.specifier, wanted


def test_every_entry_point_is_a_command_and_the_other_way_round():
    assert set(MLPROJECT["entry_points"]) - {"main"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_declared_parameters_are_options_with_the_same_default(name):
    entry = MLPROJECT["entry_points"][name]
    declared = {
        key: value.get("default") if isinstance(value, dict) else None
        for key, value in entry.get("parameters", {}).items()
    }
    options = {p.name: p for p in COMMAND[STARTED[name]].params}
    assert {key for key, option in options.items() if option.required} <= set(declared) <= set(options)
    for key, default in declared.items():
        if options[key].required:
            assert default is None, key
        else:  # MLflow would log an empty one as a param without a value
            assert default == default_text(options[key]) != "", key


def default_text(option: click.Parameter) -> str:
    """Return an option's default as it is typed."""
    if isinstance(option.type, FieldType):
        return option.type.field.default_text
    return option.default


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_passes_every_parameter_unquoted(name):
    entry = MLPROJECT["entry_points"][name]
    words = entry["command"].split()
    arguments = [p.name for p in COMMAND[STARTED[name]].params if isinstance(p, click.Argument)]
    start = ["python", "-m", "fer_mlflow", *STARTED[name].split()]
    options = [each for each in entry.get("parameters", {}) if each not in arguments]
    passed = [word for each in options for word in (f"--{each.replace('_', '-')}", f"{{{each}}}")]
    assert words == [*start, *passed, *(f"{{{each}}}" for each in arguments)]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_docs_have_every_command_and_option(name):
    paths = ("README.md", "docs/commands.md", "docs/options.md")
    readme, commands, options = ((PROJECT / path).read_text() for path in paths)
    command = name.split()[0]
    assert f"[`{command}`](docs/commands.md#{command})" in readme
    assert f"\n## {command}\n" in commands
    assert f"(options.md#{name.replace(' ', '-')})" in commands
    section = options.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    own = [p.opts[0] for p in COMMAND[name].params if isinstance(p, click.Option) and not p.hidden]
    arguments = [p.metavar or p.name.upper() for p in COMMAND[name].params if isinstance(p, click.Argument)]
    assert not [option for option in own if f"| `{option}` |" not in section]
    assert f"`fer-mlflow {' '.join([name, *arguments])}`" in commands or not arguments


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", without_code(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in sorted(PROJECT.glob("docs/*.md")))])
def test_every_link_between_the_docs_leads_somewhere(name):
    page = PROJECT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_the_page_of_a_teams_server_has_the_tested_versions_and_whole_yaml():
    page = (PROJECT / "docs/team-server.md").read_text()
    tested = pip_packages() + PYPROJECT["project"]["optional-dependencies"]["dev"]
    pins = dict(package.split("==") for package in tested if "==" in package)
    named = dict(re.findall(r'"([a-z0-9]+(?:\[binary\])?)(?:\[auth\])?==([0-9.]+)"', page))
    assert set(named) == {"mlflow", "psycopg[binary]", "boto3"}
    assert named.items() <= pins.items()
    compose, job = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))
    assert set(compose["services"]) == {"database", "server"}
    assert job["spec"]["completionMode"] == "Indexed"


def test_mlflow_keeps_no_file_store_here():
    assert not list((PROJECT / "mlruns").glob("[0-9]*/meta.yaml"))


def test_the_page_of_options_is_the_one_that_the_code_makes():
    assert (PROJECT / "docs/options.md").read_text() == reference(), "run `make reference`"


def test_the_package_and_the_docs_use_the_terms_of_the_field():
    own = "asker|ask|asked|asking|said|told|rivals?|tally|tallies|surroundings|unwatched|torn|mended"
    texts = [*PROJECT.glob("fer_mlflow/**/*.py"), *PROJECT.glob("docs/*.md"), PROJECT / "README.md"]
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in texts
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(rf"\b({own})\b", line, re.IGNORECASE)
    ]
    assert found == []
