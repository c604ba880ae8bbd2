"""Steps that nobody watches on a terminal say how far they are now and then, and short ones say nothing."""

from fer_mlflow.commands import progress


def test_a_short_step_says_nothing(capsys):
    with progress.watched("hashing images", 10) as count:
        count(10)
    assert capsys.readouterr() == ("", "")


def test_a_long_step_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUIET_INTERVAL_S", 0.0)
    with progress.watched("hashing images", 2000) as count:
        count(1500)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hashing images: 1,500 of 2,000, 00:00 left")
