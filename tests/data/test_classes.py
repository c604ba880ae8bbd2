"""Words for expressions find their column, and a class file that would mislead is refused."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fer_mlflow.data.classes import FER7, SYNONYMS, ClassOrder
from fer_mlflow.errors import ManifestError

RAF_CODES = {"Surprise": 1, "Fear": 2, "Disgust": 3, "Happy": 4, "Sad": 5, "Angry": 6, "Neutral": 7}


def class_file(folder, text):
    path = folder / "classes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_canonical_order_is_fer2013s():
    assert FER7.names == ("Angry", "Disgust", "Fear", "Happy", "Sad", "Surprise", "Neutral")
    assert len(FER7) == 7


@pytest.mark.parametrize(("column", "name"), list(enumerate(FER7.names)))
def test_a_name_is_found_in_any_case_with_blanks_and_by_its_position(column, name):
    for text in (name, name.upper(), f"  {name.lower()} ", str(column), f"{column}.0", f"0{column}"):
        assert FER7.index_of(text) == column


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("anger", "Angry"),
        ("Disgusted", "Disgust"),
        ("fearful", "Fear"),
        ("HAPPINESS", "Happy"),
        ("joy", "Happy"),
        ("sadness", "Sad"),
        ("surprised", "Surprise"),
        ("neutrality", "Neutral"),
    ],
)
def test_the_usual_synonyms_are_understood(word, name):
    assert FER7.names[FER7.index_of(word)] == name


@pytest.mark.parametrize("word", ["", "bored", "contempt", "7", "-1", "3.5", "1e0", "nan", "3.", "Happy!"])
def test_other_words_mean_nothing(word):
    assert FER7.index_of(word) is None


def test_a_number_of_any_length_means_nothing_rather_than_failing():
    assert FER7.index_of("9" * 400) is None


@settings(deadline=None)
@given(st.permutations(range(7)), st.data())
def test_columns_from_undoes_any_other_order_and_spelling(order, data):
    spelled = [data.draw(st.sampled_from(SYNONYMS[column])) for column in order]
    logits = np.array([[float(column) for column in order]])
    np.testing.assert_array_equal(logits[:, FER7.columns_from(spelled)], [range(7)])


@pytest.mark.parametrize("names", [FER7.names[:6], (*FER7.names, "Contempt"), ("Angry", *FER7.names[:6]), ()])
def test_columns_from_refuses_other_classes(names):
    with pytest.raises(ManifestError, match=r"are not Angry, Disgust, .* in some order; add other words .*--classes"):
        FER7.columns_from(names)


def test_a_list_in_a_file_is_an_order_of_its_own(tmp_path):
    classes = ClassOrder.read(class_file(tmp_path, "- Neutral\n- Glücklich\n- Contempt\n"))
    assert classes.names == ("Neutral", "Glücklich", "Contempt")
    assert [classes.index_of(word) for word in ("2", "contemptuous", "GLÜCKLICH", "happy")] == [2, 2, 1, None]


def test_a_mapping_in_a_file_adds_words(tmp_path):
    text = "Angry: [rage, cross]\nHappy: smiling\nNeutral:\n"
    classes = ClassOrder.read(class_file(tmp_path, text))
    assert classes.names == ("Angry", "Happy", "Neutral")
    assert [classes.index_of(w) for w in ("Rage", "cross", "SMILING", "neutral", "joy", "1")] == [0, 0, 1, 2, 1, 1]


def test_integer_codes_replace_positions(tmp_path):
    text = "".join(f"{name}: [{RAF_CODES[name]}]\n" for name in FER7.names)
    classes = ClassOrder.read(class_file(tmp_path, text))
    assert {name: classes.index_of(str(code)) for name, code in RAF_CODES.items()} == dict(
        zip(FER7.names, range(7), strict=True)
    )
    assert classes.index_of("7.0") == FER7.names.index("Neutral")
    assert classes.index_of("0") is None  # not a code of this data set, though a position
    assert classes.index_of("anger") == 0


def test_one_integer_code_switches_positions_off_for_all_classes():
    classes = ClassOrder.of(("a", "b", "c"), {"b": ["10"]})
    assert [classes.index_of(word) for word in ("10", "0", "1", "2", "a")] == [1, None, None, None, 0]


def test_two_names_of_one_synonym_group_keep_just_their_own_words():
    classes = ClassOrder.of(("joy", "happy", "sad"))
    assert [classes.index_of(word) for word in ("joy", "happy", "happiness", "sadness")] == [0, 1, None, 2]


def test_aliases_win_over_synonyms():
    classes = ClassOrder.of(("Happy", "Sad"), {"Sad": ["joy"]})
    assert (classes.index_of("joy"), classes.index_of("sadness")) == (1, 1)


@pytest.mark.parametrize(
    ("names", "aliases", "message"),
    [
        ((), {}, r"needs two or more names, none of them empty; found \[\]"),
        (("one",), {}, r"found \['one'\]"),
        (("one", " "), {}, "none of them empty"),
        (("Happy", "happy"), {}, 'class word "happy" stands for two classes of Happy, happy'),
        (("a", "b"), {"a": ["x"], "b": ["X"]}, 'class word "X" stands for two classes of a, b'),
        (("a", "b"), {"a": [1], "b": [1]}, 'class word "1" stands for two classes'),
    ],
)
def test_an_order_that_is_none_is_refused(names, aliases, message):
    with pytest.raises(ManifestError, match=message):
        ClassOrder.of(names, aliases)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[Angry, Happy", r"classes\.yaml: not YAML \(.*\)$"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"", "found NoneType; give a list of names, or name: "),
        (b"Angry", "found str; give a list"),
        (b"- Angry", "needs two or more names"),
    ],
)
def test_a_file_that_is_no_class_order_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "classes.yaml"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message) as caught:
        ClassOrder.read(path)
    assert "\n" not in str(caught.value)


def test_a_class_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"no\.yaml: No such file or directory; give a YAML file with --classes"):
        ClassOrder.read(tmp_path / "no.yaml")
