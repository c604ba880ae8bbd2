"""Progress that nobody watches on a terminal is a line now and then; short work prints nothing."""

import pytest

from fer_mlflow import progress


def test_short_work_prints_nothing(capsys):
    with progress.show_progress("hashing images", 10) as count:
        count(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("done", "shown"), [(0, "1,500"), (400, "1,900")], ids=["from the start", "resumed"])
def test_long_work_prints_how_far_it_is(capsys, monkeypatch, done, shown):
    monkeypatch.setattr(progress, "QUIET_INTERVAL_S", 0.0)
    seconds = iter([100.0, 103.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with progress.show_progress("hashing images", 2000 + done, done) as count:
        count(1500)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"hashing images: {shown} of {2000 + done:,}, 500.0/s, 00:01 left\n")


def test_items_are_counted_once_the_next_one_is_requested():
    counted = []

    class Report:
        def __enter__(self):
            return counted.append

        def __exit__(self, *_):
            counted.append("end")

    items = progress.track("ab", "letters", 2, lambda description, total, done=0: Report())
    assert next(items) == "a"
    assert counted == []
    assert list(items) == ["b"]
    assert counted == [1, 1, "end"]
