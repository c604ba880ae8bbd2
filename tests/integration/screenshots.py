"""Pictures of MLflow's UI for the docs, of a store with the demo's runs: `make screenshots`, after `make demo`."""

import argparse
import json
import tempfile
from pathlib import Path
from urllib.parse import quote

from conftest import Server
from mlflow import MlflowClient

from fer_mlflow.tracking import store
from integration import browser

BENCHMARK = "manifest:test"
LEADERBOARD, COMPARISON, RUN = (1280, 680), (1160, 1000), (1280, 1000)  # sizes of the window


def main() -> None:
    """Take the pictures of a store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path, help="such as mlflow.db")
    parser.add_argument("images", type=Path, help="the folder to put them into")
    given = parser.parse_args()
    client = MlflowClient(f"sqlite:///{given.store.absolute()}")
    found = f"tags.`fer.benchmark` = '{BENCHMARK}' AND tags.`triage.status` = 'good' AND tags.`fer.kind` = 'export'"
    exports = client.search_runs(["0"], found, order_by=["metrics.`macro_f1` DESC"])
    assert exports, f"{given.store} has no good export on {BENCHMARK}; `make demo` makes some"
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "server", given.store)
        server.start()
        try:
            with browser.opened(server.uri) as context:
                take(context, server.uri, exports, given.images)
        finally:
            server.stop()


def take(context, uri: str, exports: list, images: Path) -> None:
    """Take the pictures of a leaderboard, of a comparison of exports, and of the best export."""
    mode, page = "workflowType=machine_learning", context.new_page()
    view = store.view_id("leaderboard", exports[0].data.tags["fer.selection_sha256"])
    runs = [run.info.run_id for run in exports]
    pages = {
        "leaderboard": (f"experiments/0/runs?{mode}&viewStateShareKey={view}", "nll", LEADERBOARD),
        "compare": (
            f"compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps(['0']))}&{mode}",
            "Run Name:",
            COMPARISON,
        ),
        "run": (f"experiments/0/runs/{runs[0]}?{mode}", "Metrics (", RUN),
    }
    for name, (path, text, (width, height)) in pages.items():
        page.set_viewport_size({"width": width, "height": height})
        browser.visit(page, f"{uri}/#/{path}")
        page.get_by_text(text).first.wait_for()
        if (banner := page.get_by_role("button", name="Hide banner")).count():
            banner.click()
        page.wait_for_timeout(2000)  # plots and banners move
        page.get_by_role("main").screenshot(path=images / f"{name}.png")


if __name__ == "__main__":
    main()
