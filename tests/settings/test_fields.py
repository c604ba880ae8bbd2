"""Settings: values are parsed, checked and written in one place, whoever gives them."""

import logging
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import click
import pytest
from click.testing import CliRunner

from fer_mlflow.cli.options import settings_command
from fer_mlflow.errors import ContractError
from fer_mlflow.scoring.fusion import SPACES
from fer_mlflow.settings import Option, Settings
from fer_mlflow.settings.groups import SpaceWord
from fer_mlflow.settings.texts import parse_duration, rising_numbers
from fer_mlflow.workflows import workflow


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """Settings with a field of each kind."""

    source: Annotated[str, Option("A text.")]
    space: Annotated[Literal["logit", "prob"], Option("A choice.")] = "logit"
    rows: Annotated[int, Option("A whole number.", least=1, renamed_from="lines")] = 32
    share: Annotated[float, Option("A number.", above=0, most=1)] = 0.5
    check_all: Annotated[bool, Option("A yes or no.")] = False
    folds: Annotated[int | None, Option("A number, or none.", least=2, none_text="none")] = 5
    name: Annotated[str | None, Option("A text that may be left out.")] = None


@settings_command("example", Example)
def command(settings):
    """Print the settings."""
    click.echo(settings)


def test_texts_are_parsed_and_python_values_are_taken_as_they_are():
    typed = Example(source="a", space="prob", rows="8", share="0.25", check_all="true", folds="3")
    assert typed == Example(source="a", space="prob", rows=8, share=0.25, check_all=True, folds=3)
    assert typed.params == {
        "source": "a",
        "space": "prob",
        "rows": "8",
        "share": "0.25",
        "check_all": "true",
        "folds": "3",
    }


def test_an_empty_text_gives_the_default_and_the_word_none_gives_none():
    assert Example(source="a", rows="", folds="", name="") == Example(source="a")
    assert Example(source="a", folds="none").folds is Example(source="a", folds=None).folds is None
    assert Example(source="a", folds=None).params["folds"] == "none"
    assert "name" not in Example(source="a").params


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": ""}, "source: a value is required"),
        ({"source": None}, "source: a value is required"),
        ({"source": 3}, "source: 3 is not a text"),
        ({"space": "mean"}, "space: 'mean' is not one of logit, prob"),
        ({"rows": 0}, "rows: 0 is not a whole number of at least 1"),
        ({"rows": 1.5}, "rows: 1.5 is not a whole number of at least 1"),
        ({"rows": True}, "rows: True is not a whole number of at least 1"),
        ({"rows": None}, "rows: a value is required"),
        ({"share": float("nan")}, "share: nan is not a number above 0"),
        ({"share": 1.5}, "share: 1.5 is not a number above 0"),
        ({"check_all": 1.5}, "check_all: 1.5 is neither true nor false"),
        ({"folds": "one"}, "folds: 'one' is not a whole number of at least 2, nor none"),
    ],
)
def test_a_value_that_a_field_does_not_take_is_named(values, message):
    with pytest.raises(ContractError) as caught:
        Example(**{"source": "a"} | values)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("words", "folds"), [([], 5), (["--folds", ""], 5), (["--folds", "none"], None)])
def test_the_command_line_tells_not_given_from_none(words, folds):
    result = CliRunner().invoke(command, ["--source", "a", *words])
    assert result.stdout == f"{Example(source='a', folds=folds)}\n", result.output


def test_a_former_name_works_with_a_warning_on_the_command_line_and_in_python(caplog):
    @workflow(Example)
    def run(settings):
        return settings

    with caplog.at_level(logging.WARNING):
        assert run(source="a", lines=7) == Example(source="a", rows=7)
        assert CliRunner().invoke(command, ["--source", "a", "--lines", "7"]).stdout == f"{run(source='a', rows=7)}\n"
    assert [record.getMessage() for record in caplog.records] == [
        "lines is now called rows; the former name works until the next minor version"
    ] * 2
    assert "--lines" not in CliRunner().invoke(command, ["--help"]).stdout


def test_the_words_for_spaces_are_those_that_fusion_knows():
    assert get_args(SpaceWord) == tuple(SPACES)


@pytest.mark.parametrize("text", ["1", "1,2,3.5", " 0.5 , 2e3"])
def test_rising_numbers(text):
    assert rising_numbers(text) == tuple(float(part) for part in text.split(","))


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "1,,2", "1,1", "2,1", "0,1", "-1,1", "1,nan", "nan", "1,inf", "inf", "1 2"]
)
def test_numbers_that_do_not_rise_are_refused(text):
    with pytest.raises(ValueError, match="is not rising numbers above 0, comma-separated"):
        rising_numbers(text)


def test_as_many_rising_numbers_as_are_wanted():
    assert rising_numbers("0.5,0.8", 2) == (0.5, 0.8)
    for text in ("0.5", "0.5,0.6,0.7"):
        with pytest.raises(ValueError, match="is not 2 rising numbers above 0"):
            rising_numbers(text, 2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h", 3600),
        ("2d", 172_800),
        ("1.5h", 5400),
        ("0.5m", 30),
        (".5h", 1800),
        ("007s", 7),
    ],
)
def test_a_duration_is_a_number_and_its_unit(text, seconds):
    assert parse_duration(text) == seconds
    assert parse_duration(parse_duration(text)) == seconds  # a value that is parsed already


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h",
        "1",
        "60",
        ".h",
        "-1h",
        "+1h",
        "1 h",
        "h1",
        "1w",
        "1H",
        "1h30m",
        "1.2.3h",
        "1e3s",
        "nans",
        "infh",
        "1,5h",
    ],
)
def test_a_time_without_a_unit_or_a_number_is_refused(text):
    with pytest.raises(ValueError, match=r"is not a time such as 90s, 30m, 1h or 2d"):
        parse_duration(text)
