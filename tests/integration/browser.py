"""What the browser's tests share: a site with two stores' worth of runs, and how a table of MLflow's UI is read."""

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import pandas as pd
import seeded
import toys
from conftest import Server, Workplace, move_experiments
from mlflow import MlflowClient

from fer_mlflow.tracking import store

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Five configurations, and what differs; the first one is exported on all three splits.
CONFIGURATIONS = (
    {"weights": "A=0.6,B=0.4"},
    {"weights": "A=0.6,B=0.4", "space": "prob"},
    {"weights": "A=0.6,B=0.4", "clahe": "true"},
    {"weights": "A=0.3,B=0.7"},
    {"weights": "A=0.5,B=0.3,C=0.2"},
)
RECIPE = ("--arch", "test_resnet", "--img-size", "32", "--epochs", "1", "--workers", "0", "--batch-size", "16")
_ROWS = """() => {
    const rows = new Map();
    for (const cell of document.querySelectorAll('[role=gridcell][col-id]')) {
        const at = Number(cell.closest('[role=row]').getAttribute('row-index'));
        const row = rows.get(at) ?? {}, link = cell.querySelector('a[href]');
        row[cell.getAttribute('col-id')] = (link ?? cell).textContent.trim();
        if (link && link.getAttribute('href').includes('/runs/')) {
            row.run_id ??= link.getAttribute('href').match(/runs\\/([0-9a-f]{32})/)[1];
            row.shown ??= shown(link);
        }
        rows.set(at, row);
    }
    return [...rows.entries()].sort((a, b) => a[0] - b[0]).map(entry => entry[1]);

    function shown(link) {  // the letters that an ellipsis leaves
        const walker = document.createTreeWalker(link, NodeFilter.SHOW_TEXT), range = document.createRange();
        let node, text = '', end = link.closest('[role=gridcell]').getBoundingClientRect().right;
        for (let box = link; box.getAttribute('role') != 'gridcell'; box = box.parentElement)
            if (getComputedStyle(box).overflowX == 'hidden') end = Math.min(end, box.getBoundingClientRect().right);
        while (node = walker.nextNode())
            for (let at = 0; at < node.length; at++) {
                range.setStart(node, at);
                range.setEnd(node, at + 1);
                if (range.getBoundingClientRect().right > end - 10) return text;
                text += node.data[at];
            }
        return text;
    }
}"""


@dataclass
class Site:
    """A running server, an experiment of 200 seeded runs, one of real runs, and one of a first export."""

    server: Server
    seeded: seeded.Seeded
    board: pd.DataFrame = field(default_factory=pd.DataFrame)  # all of triage's leaderboards
    tested: pd.DataFrame = field(default_factory=pd.DataFrame)  # the first runs of each, with paired tests
    printed: dict[str, str] = field(default_factory=dict)  # command -> what it printed
    real: dict[str, str] = field(default_factory=dict)  # what -> the run's id
    configurations: list[str] = field(default_factory=list)  # exports of CONFIGURATIONS on the test split
    splits: list[str] = field(default_factory=list)  # exports of the first one on test, val and train

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.server.folder}/mlflow.db")

    def experiment_id(self, name: str) -> str:
        """Return the id of an experiment: `Default`, which is seeded, `real` or `first`."""
        return self.client.get_experiment_by_name(name).experiment_id

    def address(self, printed: str) -> str:
        """Return the address at the end of a command's output, at this server."""
        (found,) = re.findall(r"^ *ui  .*?(?:http://127\.0\.0\.1:\d+)(/\S+)$", printed, re.MULTILINE)
        return self.server.uri + found

    def page(self, path: str, **query: str) -> str:
        """Return the address of a page in the model training mode; MLflow wants its `runs` first."""
        more = urlencode({**query, "workflowType": "machine_learning"}, quote_via=quote)
        return f"{self.server.uri}/#/{path}?{more}"

    def run_page(self, run_id: str, tab: str = "") -> str:
        """Return the address of a run's page, or of one of its tabs."""
        return self.page(
            f"experiments/{self.client.get_run(run_id).info.experiment_id}/runs/{run_id}/{tab}".rstrip("/")
        )

    def view(self, name: str, run_id: str) -> str:
        """Return the address of a saved view of a run's benchmark."""
        run = self.client.get_run(run_id)
        view = store.view_id(name, run.data.tags["fer.selection_sha256"])
        return self.page(f"experiments/{run.info.experiment_id}/runs", viewStateShareKey=view)

    def comparison(self, run_ids: list[str], experiment: str) -> str:
        """Return the address of the page to which the button Compare leads."""
        return self.page("compare-runs", runs=json.dumps(run_ids), experiments=json.dumps([experiment]))


def open_site(server: Server, folder: Path) -> Site:
    """Start a server, log the runs of all experiments beside it, and judge them."""
    move_experiments(server.folder / "mlflow.db", str(server.folder / "mlruns" / "0"))
    server.launch()
    place = Workplace(server.folder, f"sqlite:///{server.folder}/mlflow.db")
    site = Site(server, seeded.seed(place, folder / "bundles"))
    log_real_runs(site, place, folder)
    site.printed["triage"] = place.run("triage").stdout
    site.tested = read_leaderboard(site, folder)
    place.run("triage", "--top", 100, "--deep", "false")  # tests nothing
    site.board = read_leaderboard(site, folder)
    server.wait()
    options = ("--manifest", folder / "faces/toy.csv", "--teachers", folder / "teachers/teachers.yaml")
    options += ("--split", "val", "--weights", "A=1", "--experiment", "first")
    site.printed["first"] = place.run("export", *options, env={"MLFLOW_TRACKING_URI": server.uri}).stdout
    return site


def read_leaderboard(site: Site, folder: Path) -> pd.DataFrame:
    """Return the leaderboards of the newest triage."""
    (run, *_) = site.client.search_runs(["0"], "tags.`fer.kind` = 'triage'", order_by=["start_time DESC"])
    return pd.read_csv(site.client.download_artifacts(run.info.run_id, "leaderboard.csv", str(folder)))


def log_real_runs(site: Site, place: Workplace, folder: Path) -> None:
    """Run the command line on toy faces and teachers, in an experiment of its own."""
    manifest = toys.write_faces(folder / "faces", 84).rename(folder / "faces/toy.csv")
    header, *rows = manifest.read_text().splitlines()
    rows = [row.replace(",test,", f",{('val', 'train', 'test')[at % 3]},") for at, row in enumerate(rows)]
    manifest.write_text("\n".join([header, *rows]) + "\n")
    teachers = toys.write_teachers(folder / "teachers")

    def run(command: str, *options) -> str:
        site.printed[command] = place.run(command, *options, "--experiment", "real").stdout
        kind = f"tags.`fer.kind` = '{command}'"
        (newest, *_) = site.client.search_runs([site.experiment_id("real")], kind, order_by=["start_time DESC"])
        return newest.info.run_id

    def export(split: str, configuration: dict[str, str]) -> str:
        options = [text for name, value in configuration.items() for text in (f"--{name}", value)]
        return run("export", "--manifest", manifest, "--teachers", teachers, "--split", split, *options)

    site.configurations = [export("test", each) for each in CONFIGURATIONS]
    site.splits = [site.configurations[0], *(export(split, CONFIGURATIONS[0]) for split in ("val", "train"))]
    site.real["evaluate"] = run("evaluate", "--run", site.splits[0], "--manifest", manifest)
    site.real["calibrate"] = run("calibrate", "--run", site.splits[0])
    site.real["compare"] = run("compare", *site.configurations[:2])
    site.real["train"] = run("train", "--manifest", manifest, "--out", folder / "trained.pt", *RECIPE)
    learnt = ("--manifest", manifest, "--softlabels", site.splits[2], "--even-bad", "true")
    site.real["distill"] = run("distill", *learnt, *RECIPE)


@contextmanager
def opened(uri: str):
    """Open Chromium for a block and give a context whose pages reach one server only."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # on a busy machine the first page takes 10 s
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = chromium.new_context()
        context.set_default_timeout(30_000)
        context.route(lambda address: not address.startswith(uri), lambda route: route.abort())
        yield context
        chromium.close()


def visit(page, address: str) -> None:
    """Open an address, and close the assistant's panel, which takes a quarter of the first page."""
    page.goto(address)
    page.get_by_role("main").wait_for()
    page.wait_for_load_state()
    if (panel := page.get_by_role("button", name="Close", exact=True)).count():
        panel.first.click()


def read_rows(page) -> list[dict[str, str]]:
    """Return the rows of the table of runs or models as column -> text, with `run_id`, and `shown` of its link."""
    return page.evaluate(_ROWS)
