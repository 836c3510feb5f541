import pytest

from training.errors import InvalidRun
from training.report.run_folder import entries, metric_title, number, read_run_table, require_run, selection_metric


def test_a_folder_without_run_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")

    with pytest.raises(InvalidRun, match=r"neither run_card\.json nor metrics\.jsonl; name a folder"):
        require_run(tmp_path)
    with pytest.raises(InvalidRun, match="is not a folder"):
        require_run(tmp_path / "absent")


def test_a_missing_file_reads_as_an_empty_table(tmp_path):
    assert read_run_table(tmp_path, "evaluation.json") == {}


@pytest.mark.parametrize("content", [b'{"title": ', b"\xff\xfe", b"[1, 2]"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "run_card.json").write_bytes(content)

    with pytest.raises(InvalidRun, match=r"run_card\.json .*delete it"):
        read_run_table(tmp_path, "run_card.json")


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), float("inf"), [1]])
def test_only_finite_numbers_count_as_numbers(value):
    assert number({"loss": value}, "loss") is None
    assert number({"loss": 3}, "loss") == 3.0


def test_entries_ignores_values_that_are_not_objects():
    assert entries([{"a": 1}, 3, None]) == [{"a": 1}]
    assert entries("text") == []


def test_the_selection_metric_is_a_named_field_or_a_value():
    assert selection_metric({"metric": "map_at_r", "map_at_r": 0.4, "recall_at_1": 0.6}) == ("map_at_r", 0.4)
    assert selection_metric({"metric": 0.3, "recall_at_1": 0.6}) == ("validation metric", 0.3)
    assert selection_metric({"metric": "map_at_r", "recall_at_1": 0.6}) == ("recall_at_1", 0.6)
    assert selection_metric({"step": 3}) is None


def test_metrics_have_readable_titles():
    assert metric_title("unseen_recall_at_10") == "recall@10, unseen classes"
    assert metric_title("map_at_r") == "MAP@R"
    assert metric_title("mean_of_parts_recall_at_1") == "recall@1, mean of both"
    assert metric_title("num_queries") == "number of queries"
