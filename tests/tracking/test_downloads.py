"""What a server offers is not trusted: neither its names, nor its sizes, nor its tags."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fer_mlflow.errors import BundleError, JobError, RunError
from fer_mlflow.tracking.bundles import bundle_digest, download_files

NAMES = {
    "softlabels.npz",
    "softlabels_index.jsonl",
    "classorder.json",
    "alignmentreport.json",
    "ensemble_metrics.json",
    "hash_manifest.json",
}


class Store:
    """A client of a server that offers these files: path -> (the size that it lists, the bytes that it sends)."""

    def __init__(self, files):
        self.files, self.requested = files, []

    def list_artifacts(self, run_id, path):
        return [SimpleNamespace(path=name, file_size=size, is_dir=False) for name, (size, _) in self.files.items()]

    def download_artifacts(self, run_id, path, dst_path):
        self.requested.append(path)
        target = Path(dst_path) / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b" " * self.files[path][1])
        return str(target)


def run_with(**tags):
    return SimpleNamespace(info=SimpleNamespace(run_id="ab" * 16, status="FINISHED"), data=SimpleNamespace(tags=tags))


def test_only_the_names_of_a_bundle_are_requested(tmp_path):
    wanted = {f"softlabels/{name}": (3, 3) for name in NAMES}
    foreign = ("softlabels/../../evil", "/etc/passwd", "softlabels/more.txt", "softlabels/sub/softlabels.npz", "x")
    store = Store(wanted | {name: (3, 3) for name in foreign})
    (tmp_path / "into").mkdir()
    assert set(download_files(store, run_with(), tmp_path / "into")) == NAMES
    assert set(store.requested) == set(wanted)
    assert {path.name for path in (tmp_path / "into").iterdir()} == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["into"]


@pytest.mark.parametrize(("listed", "sent", "requested"), [(65 << 20, 3, 0), (3, 65 << 20, 1), (None, 65 << 20, 1)])
def test_a_file_larger_than_any_bundles_is_refused_whatever_size_is_listed(tmp_path, listed, sent, requested):
    store = Store({"softlabels/classorder.json": (listed, sent)})
    with pytest.raises(BundleError, match=r"softlabels/classorder\.json has 68,157,440 bytes, more than any bundle's"):
        download_files(store, run_with(), tmp_path)
    assert len(store.requested) == requested


def test_a_disk_without_room_is_reported_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    store = Store({"softlabels/softlabels.npz": (3 << 20, 3)})
    with pytest.raises(JobError, match="3 MiB are to be downloaded, 1 are free"):
        download_files(store, run_with(), tmp_path)
    assert store.requested == []


@pytest.mark.parametrize("tag", ["../../x", "", "AB" * 32, "ab" * 33])
def test_a_tag_that_is_no_digest_names_no_folder(tag):
    with pytest.raises(RunError, match=r"its tag fer\.bundle_sha256 is not 64 hex digits"):
        bundle_digest(run_with(**{"fer.bundle_sha256": tag}))
