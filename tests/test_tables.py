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
    report_markdown,
    report_text,
    text_lines,
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
    table = Table(["", "x"], [["a", "12 %"], ["bc", 0.25]], align="rl", digits=1)
    assert text_lines(table, indent=0, rule=True) == ["    x", "-----", " a  12 %", "bc  0.2"]


def test_columns_have_at_least_their_widths():
    table = Table(["", "x"], [["a", 0.25], ["bcd", None]], widths=[2, 8])
    assert text_lines(table) == ["              x", "  a      0.2500", "  bcd         –"]


@pytest.mark.parametrize("rule", [False, True])
def test_tables_without_rows_or_header(rule):
    assert text_lines(Table(), rule=rule) == []
    assert text_lines(Table(["a", "b"]), indent=0, rule=rule) == ["a  b", "----"][: 1 + rule]
    assert text_lines(Table(rows=[["accuracy", 0.5], ["ece", 0.25]]), 0, rule) == [
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
    assert report_text(sections).splitlines()[:4] == ["faces", "  3 rows", "    of 2|3", "  class      rows      f1"]
    assert report_text(sections).endswith("\n\nmanifest  m.csv\n\nend")
    page = report_markdown(sections)
    assert page.startswith("# faces\n\n- 3 rows\n- of 2\\|3\n\n| class |")
    assert page.endswith("|\n\n- manifest  m.csv\n\n## end\n")
    assert "\n#" not in report_markdown([Section("a\n# b")])


def test_nothing_breaks_a_line_or_steers_a_terminal():
    assert one_line("Łódź 🙂\x1b[2J\n") == "Łódź 🙂 [2J "
    assert escape_markdown("a\n\nb") == "a  b"
    assert report_text([Section("a\nb", ["c\rd"], Table(["e\x07"], [["f\n"]]))]) == "a b\n  c d\n  e\n  f"
