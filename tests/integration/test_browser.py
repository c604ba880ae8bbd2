"""MLflow's own UI in a real browser: what stands there on a store of 200 runs, and after the command line's runs.

Needs Chromium (`apt-get install chromium`) and playwright, which `make browser` installs; else it is skipped.
"""

import re

import pytest
import seeded
from conftest import Server

from fer_mlflow.tracking import store

pytest.importorskip("playwright.sync_api", reason="playwright is missing; `make integration` installs it")

from playwright.sync_api import expect

from integration import browser
from integration.browser import visit

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no Chromium is installed; `apt-get install chromium` does it"
)
WIDE, USUAL = {"width": 2600, "height": 1900}, {"width": 1500, "height": 900}
MACRO_F1, NAME = "metrics.`macro_f1`", "attributes.`Run Name`"


@pytest.fixture(scope="module")
def site(tmp_path_factory, migrated_store):
    """Return the running site."""
    folder = tmp_path_factory.mktemp("site")
    server = Server(folder / "server", migrated_store)
    try:
        yield browser.open_site(server, folder)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def window(site):
    """Return a browser's context, whose pages share a cache."""
    with browser.opened(site.server.uri) as context:
        yield context


@pytest.fixture
def page(window):
    """Return an empty page, wide enough for all columns and high enough for 50 rows."""
    page = window.new_page()
    page.set_viewport_size(WIDE)
    yield page
    page.close()


def rows_of(page, address: str, count: int | None = None) -> list[dict[str, str]]:
    """Open a table of runs, wait until it says how many it has, and return the rows that are rendered."""
    visit(page, address)
    expect(page.get_by_text("matching run")).to_have_text(re.compile(r"[1-9]" if count is None else rf"^{count} "))
    expect(page.get_by_role("gridcell").get_by_role("link").first).to_be_visible()
    return browser.read_rows(page)


def leaderboard_of(site, benchmark: str) -> list[str]:
    """Return triage's leaderboard of a benchmark, best first."""
    board = site.board[site.board["selection_sha256"] == site.seeded.selections[benchmark]]
    return list(board["run_id"])


# --- the runs table ----------------------------------------------------------------------------------------------


def test_the_first_page_is_the_table_of_model_training(site, page):
    rows = rows_of(page, site.page(f"experiments/{site.experiment_id('real')}/runs"))
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Evaluation runs")).to_have_count(0)
    expect(page.get_by_text("Detect Issues")).to_have_count(0)
    shown = {row["run_id"] for row in rows}
    assert set(site.configurations) | set(site.splits) <= shown
    kinds = {run_id: site.client.get_run(run_id).data.tags["fer.kind"] for run_id in shown}
    assert set(kinds.values()) <= {"export", "teacher", "train", "distill", "compare"}  # others stand below


def test_the_address_that_triage_prints_shows_the_best_with_their_metrics(site, page):
    rows = rows_of(page, site.address(site.printed["triage"]))
    assert all(0 <= float(row[MACRO_F1]) <= 1 for row in rows)
    assert {row["tags.`fer.kind`"] for row in rows} <= {"export", "teacher", "student"}
    assert page.get_by_role("button", name=re.compile("^leaderboard · ")).count() == 1


@pytest.mark.parametrize("benchmark", seeded.BENCHMARKS)
def test_a_benchmarks_view_has_its_leaderboard_and_nothing_else(site, page, benchmark):
    order = leaderboard_of(site, benchmark)
    assert len(order) > 15
    selection = site.seeded.selections[benchmark]
    view = store.view_id("leaderboard", selection)
    rows = rows_of(page, site.page("experiments/0/runs", viewStateShareKey=view), len(order))
    manifest, split = benchmark.split(":")
    expect(page.get_by_role("button", name=f"leaderboard · {split} · {manifest}")).to_be_visible()
    scores = [float(row[MACRO_F1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert [row["run_id"] for row in rows] == order


@pytest.mark.parametrize(
    ("view", "what"), [("teachers", ["teacher"]), ("students", ["student"]), ("bad runs", ["chance"])]
)
def test_views_of_teachers_students_and_bad_runs(site, page, view, what):
    benchmark = "rafdb:val"
    address = store.view_id(view, site.seeded.selections[benchmark])
    wanted = {run_id for each in what for run_id in site.seeded.of(benchmark, each)}
    rows = rows_of(page, site.page("experiments/0/runs", viewStateShareKey=address), len(wanted))
    assert {row["run_id"] for row in rows} == wanted
    if view == "bad runs":
        assert "below majority" in rows[0]["tags.`triage.reasons`"]


def test_the_views_are_there_after_the_first_export(site, page):
    """No triage has run since."""
    run = site.client.search_runs([site.experiment_id("first")], "tags.`fer.kind` = 'export'")[0]
    view = store.view_id("leaderboard", run.data.tags["fer.selection_sha256"])
    (row,) = rows_of(page, site.page(f"experiments/{site.experiment_id('first')}/runs", viewStateShareKey=view), 1)
    assert row["run_id"] == run.info.run_id
    assert float(row[MACRO_F1]) == pytest.approx(run.data.metrics["macro_f1"])
    page.get_by_role("button", name="leaderboard · val · toy").click()
    for view in ("teachers", "students", "bad runs"):
        expect(page.get_by_text(f"{view} · val · toy").first).to_be_visible()


# --- an experiment's note ----------------------------------------------------------------------------------------


def test_an_experiments_note_begins_with_the_best_and_leads_to_runs(site, page):
    visit(page, site.page("experiments/0/runs"))
    expect(page.get_by_role("paragraph").filter(has_text="best on ").first).to_be_visible()
    note = page.get_by_role("main").inner_text()
    assert "<!--" not in note
    for benchmark in seeded.BENCHMARKS:
        manifest, split = benchmark.split(":")
        assert f"best on {split} · {manifest}: " in note
    best = leaderboard_of(site, "manifest:test")[0]
    link = page.get_by_role("link", name=best[:8])
    expect(link).to_have_attribute("href", re.compile(f"#/experiments/0/runs/{best}"))
    with page.expect_popup() as opened:
        link.dispatch_event("click")  # the note is folded
    expect(opened.value.get_by_role("tab", name="Overview")).to_be_visible()
    expect(opened.value.get_by_text(best).first).to_be_visible()


def test_the_list_of_experiments_says_what_is_best(site, page):
    visit(page, site.page("experiments"))
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="Default"))
    expect(row.get_by_role("cell").filter(has_text=re.compile("^best on "))).to_be_visible()


# --- comparing ---------------------------------------------------------------------------------------------------


def test_a_configurations_runs_on_three_splits_have_three_names(site):
    names = {site.client.get_run(run_id).info.run_name for run_id in site.splits}
    assert len(names) == 3


def test_names_differ_where_a_narrow_column_cuts_them(site, page):
    page.set_viewport_size({"width": USUAL["width"], "height": WIDE["height"]})
    rows = rows_of(page, site.page(f"experiments/{site.experiment_id('real')}/runs"))
    shown = {row["shown"] for row in rows if row["run_id"] in site.configurations}
    assert len(shown) == len(site.configurations), shown


def test_compare_begins_with_the_settings_that_differ(site, page):
    visit(page, site.comparison(site.configurations, site.experiment_id("real")))
    plot = page.get_by_role("tabpanel", name="Parallel Coordinates Plot")
    expect(plot.get_by_text("macro_f1").or_(plot.get_by_text("accuracy")).first).to_be_visible()
    axes = re.findall(r"Parameters: (.*)", plot.aria_snapshot())[0].split()
    settings = {"space", "clahe", "calibration", "ensemble", "w/A", "w/B", "w/C"}
    assert {"space"} <= {axis.strip('"') for axis in axes} <= settings
    params = page.get_by_role("switch", name="Parameters - Show diff only")
    table = page.get_by_role("table").filter(has=page.get_by_role("rowheader", name="benchmark", exact=True))
    names = table.get_by_role("rowheader").all_inner_texts()
    last = [name.rpartition("/")[2] for name in names if not name.startswith("w/")]
    assert len(last) == len(set(last)), names
    params.click()
    differing = page.get_by_role("rowheader").all_inner_texts()
    assert {"space", "w/A", "w/B"} <= set(differing)


@pytest.mark.parametrize("figure", ["reliability.png", "confusion_matrix.png"])
def test_compare_shows_the_figures_of_all_runs(site, page, figure):
    visit(page, site.comparison(site.configurations, site.experiment_id("real")))
    page.get_by_text(figure).first.dispatch_event("click")  # other parts of a high page cover it
    expect(page.get_by_role("img", name=figure)).to_have_count(len(site.configurations))


# --- a run's page ------------------------------------------------------------------------------------------------


def test_the_most_confident_mistakes_are_shown(site, page):
    visit(page, site.page(f"experiments/{site.experiment_id('real')}/runs/{site.real['evaluate']}/artifacts"))
    page.get_by_text("mistakes.png").first.click()
    picture = page.get_by_role("img", name="mistakes.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400


@pytest.mark.parametrize("what", ["export", "evaluate", "calibrate", "compare", "distill"])
def test_a_run_describes_itself_in_three_lines_with_links(site, page, what):
    run_id = site.configurations[0] if what == "export" else site.real[what]
    visit(page, site.run_page(run_id))
    expect(page.get_by_role("heading", name="Description")).to_be_visible()
    note = site.client.get_run(run_id).data.tags["mlflow.note.content"]
    lines = [line for line in note.splitlines() if line and not line.startswith("triage: ")]
    assert len(lines) == 3, note
    name, address = re.findall(r"\[([^]]*)\]\(([^)]*)\)", lines[2])[0]
    link = page.get_by_role("main").get_by_role("link", name=name, exact=True)
    expect(link.first).to_have_attribute("href", address)


@pytest.mark.parametrize("what", ["export", "evaluate", "calibrate", "distill"])
def test_a_runs_params_have_values(site, page, what):
    run_id = site.configurations[0] if what == "export" else site.real[what]
    visit(page, site.run_page(run_id))
    expect(page.get_by_role("heading", name=re.compile("^Parameters"))).to_be_visible()
    table = page.get_by_role("table").filter(has=page.get_by_text("Parameter", exact=True))
    values = [row.get_by_role("cell").last.inner_text() for row in table.get_by_role("row").all()[1:]]
    assert len(values) > 5
    assert not {"", "''", "None"} & set(values)


def test_a_run_has_its_interval_and_triages_verdict(site, page):
    of_benchmark = site.tested["selection_sha256"] == site.seeded.selections["manifest:test"]
    near = site.tested[of_benchmark & (site.tested["level"].astype(str) == "True")].iloc[0]
    visit(page, site.page(f"experiments/0/runs/{near['run_id']}"))
    main = page.get_by_role("main")
    interval = re.compile(r"macro_f1 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]")
    expect(main.get_by_role("paragraph").filter(has_text=interval).first).to_be_visible()
    verdict = main.get_by_role("paragraph").filter(has_text="triage: good · rank ")
    expect(verdict).to_contain_text(
        f"rank {near['rank']} of {len(leaderboard_of(site, 'manifest:test'))} on test · manifest"
    )
    expect(verdict).to_contain_text("≈ not significantly different from the best")


@pytest.mark.parametrize("what", ["export", "evaluate", "calibrate", "distill"])
def test_a_runs_charts_stand_in_at_most_five_sections(site, page, what):
    run_id = site.configurations[0] if what == "export" else site.real[what]
    visit(page, site.run_page(run_id, "model-metrics"))
    sections = page.get_by_role("figure").filter(has=page.get_by_role("button", name="Add chart"))
    expect(sections.first).to_be_visible()
    assert 1 <= sections.count() <= 5, sections.all_inner_texts()


# --- models ------------------------------------------------------------------------------------------------------


def test_the_models_tab_has_teachers_and_students_with_metrics(site, page):
    page.set_viewport_size({"width": 6000, "height": 1900})  # all benchmarks' metrics
    visit(page, site.page(f"experiments/{site.experiment_id('real')}/models"))
    expect(page.get_by_role("gridcell").get_by_role("link", name="A", exact=True).first).to_be_visible()
    columns = {row["name"]: row for row in browser.read_rows(page)}
    (student,) = [name for name in columns if name.startswith("kd-")]
    for name in ("A", "B", "C", student):
        scores = [text for column, text in columns[name].items() if "macro_f1" in column and text]
        assert scores, columns[name]
        assert all(0 <= float(score) <= 1 for score in scores)
