"""The run that is meant is found, in a local store and on a server, and what is not there is named."""

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from fer_mlflow.errors import ContractError, RunError
from fer_mlflow.tracking.records import choose_run, find_best

RAF, OTHER, FER = "aa11" * 16, "aa22" * 16, "bb33" * 16
# name -> benchmark, its digest, params, metrics, other tags; in the order of their age
RUNS = {
    "leader": ("raf:sel", RAF, {"ensemble": "A=1", "space": "logit"}, {"macro_f1": 0.6, "nll": 0.9}, {}),
    "second": ("raf:sel", RAF, {"ensemble": "B=1", "space": "prob"}, {"macro_f1": 0.5, "nll": 0.7, "ece": 0.2}, {}),
    "tied": ("raf:sel", RAF, {"ensemble": "A=0.5,B=0.5", "space": "prob"}, {"macro_f1": 0.5, "ece": 0.1}, {}),
    "bad": ("raf:sel", RAF, {"ensemble": "C=1"}, {"macro_f1": 0.9}, {"triage.status": "bad", "triage.reasons": "NaN"}),
    "failed": ("raf:sel", RAF, {"ensemble": "D=1"}, {"macro_f1": 0.95}, {"status": "FAILED"}),
    "no bundle": ("raf:sel", RAF, {"ensemble": "E=1"}, {"macro_f1": 0.96}, {"fer.bundle_sha256": None}),
    "evaluation": ("raf:sel", RAF, {"ensemble": "F=1"}, {"macro_f1": 0.97}, {"fer.kind": "evaluate"}),
    "student": ("raf:sel", RAF, {"ensemble": "S=1"}, {"macro_f1": 0.98}, {"fer.kind": "student"}),
    "undefined": ("raf:sel", RAF, {"ensemble": "G=1"}, {"macro_f1": float("nan")}, {}),
    "older": ("raf:sel", RAF, {"ensemble": "H=1"}, {"brier": 0.1}, {"fer.config_key": "same"}),
    "newer": ("raf:sel", RAF, {"ensemble": "H=1"}, {"brier": 0.2}, {"fer.config_key": "same"}),
    "twice 1": ("twice:sel", OTHER, {"rows": "70"}, {"macro_f1": 0.5}, {}),
    "twice 2": ("twice:sel", FER, {"rows": "69"}, {"macro_f1": 0.4}, {}),
    "odd": ('it\'s "odd":sel', FER[::-1], {}, {"macro_f1": 0.3}, {}),
    "spoilt": ("spoilt:sel", "cc44" * 16, {}, {"macro_f1": 0.3}, {"triage.status": "bad"}),
}


def stocked(place):
    """Return a client of a store that has the runs above; `ids` of them by their names."""
    client, client_ids = MlflowClient(place.uri), {}
    for age, (name, (benchmark, digest, params, metrics, more)) in enumerate(RUNS.items()):
        run = client.create_run("0", run_name=name, start_time=1000 + age)
        tags = {
            "fer.kind": "export",
            "fer.benchmark": benchmark,
            "fer.selection_sha256": digest,
            "fer.bundle_sha256": "0" * 64,
            "fer.config_key": name,
            **more,
        }
        status = tags.pop("status", "FINISHED")
        client.log_batch(
            run.info.run_id,
            params=[Param(*pair) for pair in params.items()],
            metrics=[Metric(*pair, 0, 0) for pair in metrics.items()],
            tags=[RunTag(*pair) for pair in tags.items() if pair[1] is not None],
        )
        client.set_terminated(run.info.run_id, status)
        client_ids[name] = run.info.run_id
    client.ids = client_ids
    return client


@pytest.fixture(scope="module")
def client(local_place):
    return stocked(local_place)


@pytest.fixture
def in_store(local_place, monkeypatch):
    """The local store is the one that messages name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", local_place.uri)


@pytest.mark.parametrize(
    ("metric", "benchmark", "options", "name", "how"),
    [
        ("macro_f1", "raf:sel", {}, "leader", "macro_f1 0.6000, best of 3 on raf:sel (1 bad left out)"),
        ("macro_f1", RAF, {}, "leader", "best of 3 on raf:sel"),
        ("macro_f1", RAF[:6], {}, "leader", "best of 3 on raf:sel"),
        ("nll", "raf:sel", {}, "second", "nll 0.7000, best of 2"),  # the smaller is the better
        ("ece", "raf:sel", {}, "tied", "ece 0.1000"),
        ("brier", "raf:sel", {}, "newer", "brier 0.2000, best of 1"),  # of one configuration the newest counts
        ("macro_f1", "raf:sel", {"where": 'params.space = "prob"'}, "tied", "best of 2"),  # a tie: by the ensemble
        ("macro_f1", "raf:sel", {"where": "metrics.nll < 0.8"}, "second", "where metrics.nll < 0.8; 1 bad left out"),
        ("macro_f1", "raf:sel", {"even_bad": True}, "bad", "best of 4 on raf:sel"),
        ("macro_f1", 'it\'s "odd":sel', {}, "odd", "best of 1"),
        ("macro_f1", FER[::-1], {}, "odd", "best of 1"),
        ("macro_f1", OTHER[:4], {}, "twice 1", "best of 1 on twice:sel"),
        ("macro_f1", "spoilt:sel", {"even_bad": True}, "spoilt", "best of 1"),
    ],
)
def test_the_best_run_is_found(in_store, client, metric, benchmark, options, name, how):
    chosen = find_best(client, metric, benchmark, **options)
    assert (chosen.run.info.run_id, how in chosen.how) == (client.ids[name], True), chosen
    source = f"best:{metric}@{benchmark}"
    assert choose_run(client, source, **options).run.info.run_id == client.ids[name]


@pytest.mark.parametrize(
    ("metric", "benchmark", "options", "message"),
    [
        ("macro_f1", "none:sel", {}, ["benchmark none:sel: ", " has no run on it; there are ", "raf:sel (7 runs)"]),
        ("macro_f1", "raf:sel%", {}, ["has no run on it"]),
        ("macro_f1", "' OR 1 = 1", {}, ["has no run on it"]),
        ("accuracy", "raf:sel", {}, ["metric accuracy: none of the 5 runs on raf:sel has it; they have brier, ece,"]),
        ("macro_f1", "twice:sel", {}, [f"{OTHER[:12]} (twice:sel, 70 rows, 1 run), {FER[:12]} (twice:sel, 69 rows"]),
        ("macro_f1", "aa", {}, ["has no run on it"]),  # too few digits to be a digest
        ("macro_f1", "raf:sel", {"where": "params.space = 'none'"}, ["none of its 6 runs fulfils params.space = 'no"]),
        ("macro_f1", "raf:sel", {"where": "attributes.status = 'FAILED'"}, ["none of its 6 runs fulfils"]),
        ("macro_f1", "raf:sel", {"where": "tags.`fer.kind` = 'evaluate'"}, ["none of its 6 runs fulfils"]),
        ("macro_f1", "spoilt:sel", {}, ["triage called all 1 of its runs bad", "--even-bad true"]),
    ],
)
def test_what_is_not_there_is_named(in_store, client, metric, benchmark, options, message):
    with pytest.raises(RunError) as caught:
        find_best(client, metric, benchmark, **options)
    assert all(part in str(caught.value) for part in message), caught.value


@pytest.mark.parametrize("where", ["space", "params.space = 'a' OR params.space = 'b'", "params.space ="])
def test_a_filter_that_mlflow_cannot_read_is_the_users_error(in_store, client, where):
    with pytest.raises(ContractError, match="MLflow cannot read it"):
        find_best(client, "macro_f1", "raf:sel", where=where)


def test_a_run_is_named_by_its_id_its_first_digits_or_its_uri(in_store, client):
    run_id = client.ids["second"]
    for source in (run_id, run_id[:12], f"runs:/{run_id}/softlabels", f"runs:/{run_id}"):
        assert choose_run(client, source).run.info.run_id == run_id
    bad = client.ids["bad"]
    with pytest.raises(RunError, match=r"triage called it bad \(NaN\); take it all the same with --even-bad true"):
        choose_run(client, bad)
    assert choose_run(client, bad, even_bad=True).run.info.run_id == bad


@pytest.mark.parametrize(
    ("source", "options", "error", "message"),
    [
        ("best:macro_f1", {}, ContractError, "write best:METRIC@BENCHMARK"),
        ("best:@raf:sel", {}, ContractError, "write best:METRIC@BENCHMARK"),
        ("runs:/abcdef/model", {}, ContractError, "soft labels are under runs:/abcdef/softlabels"),
        ("runs:/../../etc/softlabels", {}, ContractError, "soft labels are under"),
        ("../x", {}, RunError, "a run id is 4 to 32 digits"),
        ("0000000000", {}, RunError, "has no such run; look at MLFLOW_TRACKING_URI"),
        ("abcdef", {"where": "params.a = 'b'"}, ContractError, "leave it out"),
    ],
)
def test_a_text_that_means_no_run_is_refused(in_store, client, source, options, error, message):
    with pytest.raises(error, match=message):
        choose_run(client, source, **options)


def test_a_server_gives_the_same(server_place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_place.uri)
    client = stocked(server_place)
    ids = {name: client.ids[name] for name in ("leader", "tied", "odd")}
    assert find_best(client, "macro_f1", "raf:sel").run.info.run_id == ids["leader"]
    assert find_best(client, "macro_f1", RAF[:6], where='params.space = "prob"').run.info.run_id == ids["tied"]
    assert find_best(client, "macro_f1", 'it\'s "odd":sel').run.info.run_id == ids["odd"]
    assert choose_run(client, f"runs:/{ids['tied']}/softlabels").run.info.run_id == ids["tied"]
    with pytest.raises(
        RunError, match=rf"benchmark none: {server_place.uri} has no run on it; there are .*raf:sel \(7"
    ):
        find_best(client, "macro_f1", "none")
    with pytest.raises(RunError, match=f"means different rows: {OTHER[:12]}"):
        find_best(client, "macro_f1", "twice:sel")
    with pytest.raises(ContractError, match="MLflow cannot read it"):
        find_best(client, "macro_f1", "raf:sel", where="params.space =")


def test_an_empty_store_is_reported(workplace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", workplace.uri)
    with pytest.raises(RunError, match="has no finished runs with soft labels; export some, or look at MLFLOW_TRACK"):
        find_best(MlflowClient(workplace.uri), "macro_f1", "raf")
