import csv
import io

import numpy as np
import pytest

from fer_mlflow.tables import (
    Section,
    Table,
    csv_text,
    escape_markdown,
    markdown_lines,
    one_line,
    part_lines,
    report_markdown,
    text_lines,
    wrapped,
)

TABLE = Table(
    ["class", "rows", "f1"], [["Angry", 12345, 0.5], ["Disgust", 7, None], ["Fear", np.int64(0), float("nan")]]
)


def test_numbers_stand_on_the_right_and_texts_on_the_left():
    assert text_lines(TABLE) == [
        "  class      rows      f1",
        "  Angry    12,345  0.5000",
        "  Disgust       7       –",
        "  Fear          0       –",
    ]


def test_alignment_digits_rule_and_indent_are_chosen():
    table = Table(["", "x"], [["a", "12 %"], ["bc", 0.25]], align="rl", digits=1, rule=True)
    assert text_lines(table, indent=0) == ["    x", "-----", " a  12 %", "bc  0.2"]


def test_columns_have_at_least_their_widths():
    table = Table(["", "x"], [["a", 0.25], ["bcd", None]], widths=[2, 8])
    assert text_lines(table) == ["              x", "  a      0.2500", "  bcd         –"]


@pytest.mark.parametrize("rule", [False, True])
def test_tables_without_rows_or_header(rule):
    assert text_lines(Table(rule=rule)) == []
    assert text_lines(Table(["a", "b"], rule=rule), indent=0) == ["a  b", "----"][: 1 + rule]
    assert text_lines(Table(rows=[["accuracy", 0.5], ["ece", 0.25]], rule=rule), indent=0) == [
        "accuracy  0.5000",
        "ece       0.2500",
    ]


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        text_lines(Table(["a", "b"], [["x"]]))


def test_markdown():
    assert markdown_lines(TABLE)[:3] == [
        "| class | rows | f1 |",
        "| --- | ---: | ---: |",
        "| Angry | 12,345 | 0.5000 |",
    ]
    hostile = markdown_lines(Table(["a|b"], [["<i>\n`x` &lt; **y** [z](w) ~~v~~ \\| #"]]))
    assert hostile[0] == r"| a\|b |"
    assert hostile[2] == r"| \<i\> \`x\` \&lt; \*\*y\*\* \[z\](w) \~\~v\~\~ \\\| \# |"


def test_csv_keeps_precision_and_holds_no_formulas():
    text = csv_text(["name", "value"], [["a,b\n", 0.1 + 0.2], [" =1+1", None], ["-5", -5]])
    assert text == "name,value\n\"a,b \",0.30000000000000004\n' =1+1,\n'-5,-5\n"
    assert [len(row) for row in csv.reader(io.StringIO(text))] == [2, 2, 2, 2]


def test_a_report():
    sections = [Section("faces", ["3 rows", "  of 2|3"], TABLE), Section("", ["manifest  m.csv"]), Section("end")]
    assert part_lines(sections)[:4] == ["faces", "  3 rows", "    of 2|3", "  class      rows      f1"]
    assert part_lines(sections)[-4:] == ["", "manifest  m.csv", "", "end"]
    page = report_markdown(sections)
    assert page.startswith("# faces\n\n- 3 rows\n- of 2\\|3\n\n| class |")
    assert page.endswith("|\n\n- manifest  m.csv\n\n## end\n")
    assert "\n#" not in report_markdown([Section("a\n# b")])


def test_nothing_breaks_a_line_or_steers_a_terminal():
    assert one_line("Łódź 🙂\x1b[2J\n") == "Łódź 🙂 [2J "
    assert escape_markdown("a\n\nb") == "a  b"
    assert part_lines([Section("a\nb", ["c\rd"], Table(["e\x07"], [["f\n"]]))]) == ["a b", "  c d", "  e", "  f"]


WIDE = Table(
    ["", "ensemble", "macro_f1", "ece", "nll"],
    [[1, "CN=0.25,L0=0.25,RN18=0.5 · clahe", 0.5, 0.25, 1234.5], [2, "A=1", 0.25, None, 2.0]],
    optional=["nll", "ece"],
    rule=True,
)


def test_a_table_loses_optional_columns_where_it_is_too_wide_and_then_wraps_texts():
    whole = text_lines(WIDE)
    assert text_lines(WIDE, len(max(whole, key=len))) == whole
    assert text_lines(WIDE, len(max(whole, key=len)) - 1, others=", a pipe or --format json") == [
        "     ensemble                          macro_f1     ece",
        "  -----------------------------------------------------",
        "  1  CN=0.25,L0=0.25,RN18=0.5 · clahe    0.5000  0.2500",
        "  2  A=1                                 0.2500       –",
        "  1 column does not fit into 65: nll; a wider terminal, a pipe or",
        "  --format json has them",
    ]
    assert text_lines(WIDE, 34) == [
        "     ensemble             macro_f1",
        "  --------------------------------",
        "  1  CN=0.25,L0=0.25,       0.5000",
        "     RN18=0.5 · clahe",
        "  2  A=1                    0.2500",
        "  2 columns do not fit into 34:",
        "  ece, nll; a wider terminal or a",
        "  pipe has them",
    ]


@pytest.mark.parametrize("width", [1, 10, 30])
def test_numbers_and_words_are_never_cut(width):
    words = " ".join(text_lines(WIDE, width)).split()
    assert {"0.5000", "CN=0.25,L0=0.25,", "RN18=0.5"} <= set(words)
    numbers = Table(["a", "b"], [[1234567.5, 12345678]])
    assert text_lines(numbers, width) == text_lines(numbers)


@pytest.mark.parametrize("width", [20, 40, 79])
def test_sentences_wrap_between_words_below_their_first_gap(width):
    text = "  folder    nothing was downloaded, since the folder has these soft labels already; /a/" + "long/" * 20
    lines = wrapped(text, width)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert all(len(line) <= width or "/long/" in line for line in lines)
    assert {len(line) - len(line.lstrip()) for line in lines[1:]} == {12 if width > 20 else 2}


@pytest.mark.parametrize("command", ["`triage --keep RUN`", "mlflow ui --backend-store-uri sqlite:////tmp/mlflow.db,"])
def test_a_command_stays_in_one_line(command):
    for width in range(10, 100):
        assert any(command in line for line in wrapped(f"left out: see {command} and the page", width))
    assert wrapped("no end `of a quote", 12) == ["no end `of a", "quote"]
    assert wrapped("", 5) == [""]
