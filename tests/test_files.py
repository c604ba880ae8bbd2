"""Files and folders are whole or absent, whatever happens while they are written."""

import hashlib
import os
import stat

import pytest
from hypothesis import given, settings, strategies as st

from fer_mlflow.files import cache_folder, sha256_of_file, sha256_of_json, written_file, written_folder


class Stopped(BaseException):
    """What a signal raises: no Exception, so that nobody catches it on the way."""


def contents(folder) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def umask():
    """Set a usual umask for the test, whatever the shell has."""
    before = os.umask(0o022)
    yield 0o022
    os.umask(before)


def test_a_file_appears_whole_with_its_folders_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a/b/file.bin"
    before = None
    for content in (b"first", b"second, longer", b""):
        with written_file(path) as file:
            file.write(content)
            file.flush()
            assert (path.read_bytes() if path.exists() else None) == before  # what a reader sees meanwhile
        before = content
        assert contents(tmp_path) == {"a/b/file.bin": content}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    path = tmp_path / "file.bin"
    if old is not None:
        path.write_bytes(old)

    def write_half():
        with written_file(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert contents(tmp_path) == ({} if old is None else {"file.bin": old})


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_refuses_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="No space left"), written_file(path) as file:
        file.write(b"new")
    assert contents(tmp_path) == {"file.bin": b"old"}


def test_a_file_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append("fsync") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append("replace") or replace(*paths))
    with written_file(tmp_path / "file") as file:
        file.write(b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the last one keeps the name
    calls.clear()
    with written_folder(tmp_path / "folder") as folder:
        (folder / "a").write_bytes(b"a")
        (folder / "b").write_bytes(b"b")
    assert calls == ["fsync", "fsync", "fsync", "replace", "fsync"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "a/folder"
    for content in ({"x": b"1", "sub/y": b"2"}, {"z": b"3"}, {}):
        with written_folder(path) as folder:
            for name, data in content.items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_bytes(data)
            assert folder.parent == path.parent  # on the same disk, so that the rename is one
        assert contents(path) == content
        assert names(path.parent) == ["folder"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_leaves_the_old_folder_and_nothing_else(tmp_path, error, old):
    path = tmp_path / "folder"
    if old is not None:
        path.mkdir()
        (path / "x").write_bytes(old)

    def write_half():
        with written_folder(path) as folder:
            (folder / "x").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        write_half()
    assert contents(tmp_path) == ({} if old is None else {"folder/x": old})
    assert names(tmp_path) == ([] if old is None else ["folder"])


@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "x").write_bytes(b"old")
    calls, replace = [], os.replace

    def refuse(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="Input/output"), written_folder(path) as folder:
        (folder / "x").write_bytes(b"new")
    assert contents(tmp_path) == {"folder/x": b"old"}
    assert names(tmp_path) == ["folder"]


def test_a_file_in_the_place_of_the_folder_stays_as_it_was(tmp_path):
    (tmp_path / "taken").write_bytes(b"mine")
    with pytest.raises(OSError, match="directory"), written_folder(tmp_path / "taken") as folder:
        (folder / "x").write_bytes(b"new")
    assert contents(tmp_path) == {"taken": b"mine"}
    assert names(tmp_path) == ["taken"]


def test_files_and_folders_get_the_permissions_that_the_umask_gives(tmp_path, umask):
    with written_file(tmp_path / "file") as file:
        file.write(b"x")
    with written_folder(tmp_path / "folder") as folder:
        (folder / "inside").write_bytes(b"x")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder", "folder/inside")}
    assert modes == {"file": 0o644, "folder": 0o755, "folder/inside": 0o644}
    assert os.umask(umask) == umask  # reading it has not changed it


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_hash_of_a_file_is_hashlibs(tmp_path, size):
    data = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(data[:size])
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(data[:size]).hexdigest()


def test_the_hash_of_json_is_of_its_canonical_text():
    expected = hashlib.sha256('{"a":[1,2.5,null,true],"ä":"x"}'.encode()).hexdigest()
    assert sha256_of_json({"ä": "x", "a": [1, 2.5, None, True]}) == expected
    with pytest.raises(ValueError, match="not JSON compliant"):
        sha256_of_json({"a": float("nan")})


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_the_hash_of_json_does_not_depend_on_the_order_of_keys(value):
    assert sha256_of_json(dict(reversed(value.items()))) == sha256_of_json(value)


def test_the_cache_is_where_the_user_says_and_else_where_the_system_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    for value, expected in [("/named", "/named"), ("~/mine", "/home/me/mine"), ("here", str(tmp_path / "here"))]:
        monkeypatch.setenv("FER_MLFLOW_CACHE", value)
        assert str(cache_folder()) == expected
    monkeypatch.delenv("FER_MLFLOW_CACHE")
    assert str(cache_folder()) == "/xdg/fer_mlflow"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache_folder()) == "/home/me/.cache/fer_mlflow"
