"""The table of several benchmarks."""

import pytest

from benchmarks.table import Row, format_rows, read_rows, write_rows


@pytest.mark.parametrize(
    ("ratio", "goal", "is_met"),
    [
        (0.75, "<= 0.75", True),
        (0.76, "<= 0.75", False),
        (0.8, ">= 0.80", True),
        (1.0, "> 1", False),
        (0.3, "< 0.333", True),
        (5.0, "", None),
    ],
)
def test_a_goal_is_a_comparison_with_a_number(ratio, goal, is_met):
    assert Row("what", ratio, goal).is_met() is is_met


def test_refuses_a_goal_of_another_form():
    with pytest.raises(ValueError, match="'fast' is not a comparison"):
        Row("what", 1.0, "fast").is_met()


def test_reads_the_rows_that_a_benchmark_wrote(tmp_path):
    rows = [Row("search / forward", 0.57, "<= 0.75"), Row("speed ≥", 2.0)]

    write_rows(tmp_path / "rows.json", rows)

    assert read_rows(tmp_path / "rows.json") == rows


def test_names_the_file_without_rows(tmp_path):
    (tmp_path / "rows.json").write_text("{}")

    with pytest.raises(SystemExit, match=r"rows\.json has no rows of a benchmark"):
        read_rows(tmp_path / "rows.json")


def test_marks_missed_goals():
    lines = format_rows([Row("first", 0.5, "<= 0.75"), Row("second", 0.9, "<= 0.75")]).splitlines()

    assert lines[1].split() == ["first", "0.50", "<=", "0.75"]
    assert lines[2].split() == ["second", "0.90", "<=", "0.75", "missed"]
