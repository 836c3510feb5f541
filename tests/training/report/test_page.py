import re
from html.parser import HTMLParser

import pytest

from tests.training.synthetic_run import evaluation, run_card, write_json, write_run
from training.errors import InvalidRun
from training.report.page import write_report

SCRIPT = "<script>alert('1')</script>"
LABELS = ["apple", "pear", SCRIPT, *(f"class {number}" for number in range(30))]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    run_dir = write_run(tmp_path_factory.mktemp("whole") / "run", LABELS)
    write_report(run_dir)
    return run_dir


@pytest.fixture
def page(whole_run):
    """The report of a complete run."""
    return (whole_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def run_dir(tmp_path):
    """A new run without curves, which take a second to draw."""
    return write_run(tmp_path / "run", LABELS, with_curves=False)


def page_of(run_dir):
    return write_report(run_dir).read_text(encoding="utf-8")


class Outline(HTMLParser):
    """The elements and addresses of a page; checks that elements are closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, page):
        super().__init__()
        self.open_tags: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag


def test_the_verdict_describes_the_change_of_recall(page):
    assert "Recall@1 over all queries rose from 27.5% to 61.4% (+33.9 points)." in page
    assert "Recall@1 over classes seen in training rose from 28.1% to 66.1% (+38.0 points)." in page
    assert "Recall@1 over classes never trained on rose from 25.1% to 38.4% (+13.3 points)." in page


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (0.5, 0.4, "fell from 50.0% to 40.0% (−10.0 points)"),
        (0.5, 0.5, "stayed at 50.0%"),
        (None, 0.5, "is 50.0% after training; it was not measured before"),
    ],
)
def test_the_verdict_describes_losses_and_missing_values(run_dir, before, after, sentence):
    write_json(
        run_dir,
        "evaluation.json",
        {"before": {"all": {"recall_at_1": before}}, "after": {"all": {"recall_at_1": after}}},
    )

    assert sentence in page_of(run_dir)


def test_the_page_is_self_contained(page):
    outline = Outline(page)

    assert len(outline.addresses) == 8
    assert all(re.match(r"data:image/(svg\+xml|jpeg);base64,", address) for address in outline.addresses)
    assert not outline.tags & {"script", "link", "iframe", "object", "a"}


def test_the_page_is_well_formed(page):
    assert Outline(page).open_tags == []


def test_texts_from_the_data_are_escaped(run_dir):
    """Labels, titles, commands, warnings, paths and names of settings may contain anything."""
    card = run_card(LABELS)
    card |= {"title": SCRIPT, "command": SCRIPT, "warnings": [SCRIPT], "device": SCRIPT, "config": {SCRIPT: SCRIPT}}
    card["snapshot"] = {"path": SCRIPT, "hash": SCRIPT}
    write_json(run_dir, "run_card.json", card)
    metrics = {"all": {"recall_at_1": 0.5, SCRIPT: 0.5}}
    broken = evaluation(LABELS) | {"protocol": SCRIPT, "before": metrics, "after": metrics, "clustering": {SCRIPT: 1}}
    write_json(run_dir, "evaluation.json", broken)

    page = page_of(run_dir)

    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10


def test_counts_show_no_difference(page):
    line = next(line for line in page.split("<tr>") if "number of queries" in line)
    assert line.count("2,485") == 2
    assert "+0" not in line


def test_ten_classes_of_each_kind_are_named_largest_change_first(page):
    gained = page[page.index("Gained most") : page.index("Lost most")]
    lost = page[page.index("Lost most") : page.index("Run card")]
    assert "22 classes gained, 11 lost and 0 stayed equal" in page
    assert gained.count("<tr>") == lost.count("<tr>") == 11
    changes = [float(value) for value in re.findall(r"\+(0\.\d+)<", gained)]
    assert changes == sorted(changes, reverse=True)
    assert not re.search(r"\+0\.\d", lost)


def test_every_setting_is_on_the_page(page):
    for knob, value in (("pull_weight", "0.005"), ("options.beta", "40"), ("ks", "1, 2, 4, 8"), ("bf16", "true")):
        assert f"<th>{knob}</th><td>{value}</td>" in page


def test_a_warning_of_both_card_and_log_is_shown_once_with_its_step(page):
    assert page.count("the pull is inert") == 1
    assert "step 120: the pull is inert" in page


def test_how_to_reproduce_names_command_hash_and_seed(page):
    reproduction = page[page.index("How to reproduce it") :]
    for part in ("akin train --data groceries --out run", "f00d" * 16, "0123abcd", "<th>seed</th><td>3</td>"):
        assert part in reproduction


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("run_card.json", "This run has no run_card.json."),
        ("metrics.jsonl", "This run has no metrics.jsonl."),
        ("evaluation.json", "This run has no evaluation.json"),
    ],
)
def test_a_missing_file_leaves_a_note(run_dir, name, note):
    (run_dir / name).unlink()

    assert note in page_of(run_dir)


def test_a_run_without_evaluation_shows_its_validation_metric(run_dir):
    (run_dir / "evaluation.json").unlink()

    assert "its best validation mean_of_parts_recall_at_1 was 0.561 at step 800." in page_of(run_dir)


def test_a_missing_grid_is_drawn_again(run_dir):
    (run_dir / "neighbours.jpg").unlink()

    assert "data:image/jpeg" in page_of(run_dir)


def test_without_neighbours_there_is_a_note(run_dir):
    (run_dir / "neighbours.jpg").unlink()
    (run_dir / "neighbours.json").unlink()

    assert "This run has no neighbours.json." in page_of(run_dir)


def test_a_bare_run_card_is_enough_for_a_report(tmp_path):
    write_json(tmp_path, "run_card.json", {})

    page = page_of(tmp_path)

    assert "This run was not evaluated." in page
    assert Outline(page).open_tags == []


@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [None, 3], {"all": None}, float("nan")])
def test_values_of_a_wrong_kind_do_not_break_the_report(run_dir, value):
    write_json(run_dir, "run_card.json", dict.fromkeys(run_card(LABELS), value))
    write_json(run_dir, "evaluation.json", dict.fromkeys(evaluation(LABELS), value))
    (run_dir / "neighbours.jpg").unlink()
    write_json(run_dir, "neighbours.json", [{"query": value, "hits": value}])

    assert Outline(page_of(run_dir)).open_tags == []


def test_a_damaged_file_is_an_error_that_names_it(run_dir):
    (run_dir / "evaluation.json").write_text("{")

    with pytest.raises(InvalidRun, match=r"evaluation\.json is not JSON"):
        write_report(run_dir)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InvalidRun, match="name a folder that `akin train` has written"):
        write_report(tmp_path)


def test_writing_again_gives_the_same_page(run_dir):
    first = page_of(run_dir)

    assert page_of(run_dir) == first
    assert [path.name for path in run_dir.glob("report*")] == ["report.html"]
