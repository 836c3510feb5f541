"""Identifiers that look the same are the same; what a program destroyed is refused."""

import pytest

from training.datasets.identifiers import checked_identifier, identifier_warning, lookup_forms, table_identifier


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("kettle-1", "kettle-1"),
        (7, "7"),
        (-3, "-3"),
        (4006381333931, "4006381333931"),
        (" kettle\t", "kettle"),
        ("\u00a0kettle\u202f", "kettle"),
        ("kettle\r\n", "kettle"),
        ("\ufeffkettle", "kettle"),
        ("Ka\u0308se", "K\u00e4se"),
        ("\u304b\u3099\u3076", "\u304c\u3076"),
        ("kettle\u00a01", "kettle 1"),
        ("kettle\u20091", "kettle 1"),
        ("ket\u00adtle\u200b", "kettle"),
        ("ket\u2060tle\u200e", "kettle"),
        ("\u200b kettle \u200b", "kettle"),
        # Spelling: Persian, Malayalam, emoji of several characters, a flag of tag characters, an ideographic space.
        (
            "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("\u0d28\u0d4d\u200d", "\u0d28\u0d4d\u200d"),
        ("\U0001f469\u200d\U0001f467", "\U0001f469\u200d\U0001f467"),
        ("\u2764\ufe0f", "\u2764\ufe0f"),
        ("\U0001f3f4\U000e0067\U000e007f", "\U0001f3f4\U000e0067\U000e007f"),
        ("\u8336\u3000\u78d7", "\u8336\u3000\u78d7"),
        ("\uf8ff", "\uf8ff"),
        ("x" * 200, "x" * 200),
        ("e\u0301" * 200, "\u00e9" * 200),
    ],
    ids=ascii,
)
def test_an_identifier_is_normalised(value, expected):
    assert checked_identifier(value, "product_id") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "product_id is empty"),
        ("", "product_id is empty"),
        (" \u00a0\u200b", "product_id is empty"),
        ("\u200d", "product_id is empty"),
        ("\u3164", "product_id is empty"),
        (True, "must be text or an integer, got True"),
        (1.5, "got 1.5; write numbers as text"),
        (4006381.0, "got 4006381.0; write 4006381, without a decimal point"),
        (float("nan"), "must be text or an integer, got nan"),
        (["a"], r"got \['a'\]"),
        ({"a": 1}, "must be text"),
        (b"a", "must be text"),
        ("a\0b", r"'a\\x00b' contains a NUL character; remove it"),
        ("a\nb", r"'a\\nb' contains a line break; write it in one line"),
        ("a\u2028b", r"'a\\u2028b' contains a line break"),
        ("a\tb", r"'a\\tb' contains a control character"),
        ("a\x1b[31mb", "contains a control character"),
        ("a\x80b", "contains a control character"),
        ("\ud800", r"'\\ud800' contains a lone surrogate"),
        ("a\u202eb", r"'a\\u202eb' contains a character that reverses the direction of text; remove it"),
        ("a\u2066b", "reverses the direction"),
        ("a\ufffeb", "an invisible control character"),
        ("x" * 201, "has 201 characters; it is longer than 200 characters"),
        ("\u00e9" * 100_000, "longer than 200 characters"),
        (10**200, "an integer of more than 200 digits"),
        (10**5000, "an integer of more than 200 digits"),
    ],
    ids=lambda value: ascii(value)[:30] if not isinstance(value, int) else "integer",
)
def test_a_value_that_is_no_identifier_is_refused_with_the_reason(value, message):
    with pytest.raises(ValueError, match=message):
        checked_identifier(value, "product_id")


def test_the_greatest_length_is_an_argument():
    assert checked_identifier("abc", "title", max_length=3) == "abc"
    with pytest.raises(ValueError, match="longer than 3 characters"):
        checked_identifier("abcd", "title", max_length=3)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("4.00638E+12", "format the column as text"),
        ("4,00638e+12", "format the column as text"),
        ("4E+12", "format the column as text"),
        ("-1.5E-07", "format the column as text"),
        ("#REF!", "an error of a spreadsheet formula"),
        ("#n/a", "an error of a spreadsheet formula"),
        ("#BEZUG!", "an error of a spreadsheet formula"),
        ("K\ufffdse", "lost in a wrong encoding"),
    ],
)
def test_what_a_program_destroyed_is_refused_in_tables(text, warning):
    assert warning in (identifier_warning(text) or "")
    assert checked_identifier(text, "product_id") == text
    with pytest.raises(ValueError, match=warning):
        table_identifier(text, "product_id")


@pytest.mark.parametrize("text", ["1E5", "12E+05", "E+12", "1E-05", "1.5", "4006381333931", "#1", "#sale!", "a#N/A"])
def test_an_identifier_that_resembles_a_number_is_kept(text):
    assert identifier_warning(text) is None
    assert table_identifier(text, "label") == text


def test_text_protected_by_a_formula_is_read():
    assert table_identifier('="0012"', "product_id") == "0012"


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("kettle", ("kettle",)),
        ("K\u00e4se", ("K\u00e4se", "Ka\u0308se")),
        ("Ka\u0308se", ("Ka\u0308se", "K\u00e4se")),
        (" kettle", (" kettle", "kettle")),
    ],
    ids=ascii,
)
def test_an_identifier_is_looked_up_in_the_forms_of_earlier_versions_too(text, forms):
    assert lookup_forms(text) == forms


@pytest.mark.parametrize("text", ["", "a\0", "\ud800", "a\nb"])
def test_text_that_is_no_identifier_is_not_looked_up(text):
    assert lookup_forms(text) == ()
