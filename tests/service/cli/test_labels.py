"""akin catalogue label, relabel, labels, and archives at a terminal."""

import json
import shutil

import pytest

from service.cli.main import main
from tests.images import png
from tests.service.fixtures.labels import packed
from tests.service.labels.test_applying import id_of


@pytest.fixture
def akin(tmp_path, monkeypatch, capsys, new_address, shop_settings):
    """Run a command on a copy of the shop of three products; return what it printed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(shop_settings.home, "home")
    monkeypatch.setenv("AKIN_DATABASE_URL", new_address(like=shop_settings.database_url))
    monkeypatch.setenv("AKIN_HOME", "home")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, status=0):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert (ended.value.code or 0) == status, captured.err + captured.out
        return captured

    return run


def listed(akin, *arguments):
    return json.loads(akin("catalogue", "labels", "--json", *arguments).out)


def test_labels_come_from_a_folder_a_table_an_archive_and_an_image(akin, tmp_path):
    (tmp_path / "photos" / "birch").mkdir(parents=True)
    (tmp_path / "photos" / "birch" / "1.png").write_bytes(png("red"))
    (tmp_path / "l.csv").write_text(
        f"image_id,label,image,product_id\n{id_of('amber')},gem,,\n,,photos/birch/1.png,amber\n"
    )
    (tmp_path / "l.zip").write_bytes(packed({"x/cedar/1.png": png("blue"), "x/birch/1.png": png("red")}))
    (tmp_path / "one.png").write_bytes(png("green"))

    dry = json.loads(akin("catalogue", "label", "photos", "--dry-run", "--json").out)
    folder = json.loads(akin("catalogue", "label", "photos", "--json", "--by", "Ada", "--source", "survey").out)
    table = akin("catalogue", "label", "l.csv").out
    archive = json.loads(akin("catalogue", "label", "l.zip", "--json").out)
    one = akin("catalogue", "label", "one.png", "--as", "gem").out

    assert (dry["num_added"], folder["num_added"]) == (1, 1)
    assert "labels changed" in table
    assert (archive["num_added"], archive["num_unchanged"]) == (1, 1)
    assert "examples added" in one
    by_label = {row["label"]: row for row in listed(akin, "--role", "example")["labels"] if row["labelled_by"]}
    assert (by_label["birch"]["labelled_by"], by_label["birch"]["label_source"]) == ("Ada", "survey")
    assert (by_label["gem"]["product_id"], by_label["gem"]["labelled_by"]) == ("amber", "command line")
    assert not (tmp_path / "home" / "uploads").exists() or not list((tmp_path / "home" / "uploads").iterdir())


def test_rows_that_fail_give_status_1_and_a_report_of_all(akin, tmp_path):
    (tmp_path / "l.csv").write_text(f"image_id,label\n{id_of('amber')},gem\nnobody,x\n")

    done = akin("catalogue", "label", "l.csv", status=1)

    assert "l.csv:3: the catalogue has no image with image_id 'nobody'" in done.err
    assert "1 rows were not used; all of them" in done.err
    (report,) = (tmp_path / "home" / "reports").glob("labels-*.json")
    assert json.loads(report.read_text())["num_failed"] == 1


def test_one_image_is_relabelled_and_back(akin):
    assert "changed; now: akin retrain" in akin("catalogue", "relabel", id_of("birch"), "wood").out
    assert "unchanged" in akin("catalogue", "relabel", id_of("birch"), "wood").out
    (row,) = listed(akin, "--label", "wood")["labels"]
    assert row["image_id"] == id_of("birch")

    akin("catalogue", "relabel", id_of("birch"), "--own")

    assert listed(akin, "--label", "wood")["labels"] == []


def test_labels_are_listed_and_counted(akin):
    table = akin("catalogue", "labels", "--limit", "2").out
    counts = json.loads(akin("catalogue", "labels", "--counts", "--json").out)

    assert id_of("amber") in akin("catalogue", "labels", "--label", "amber").out
    assert "more: --after" in table
    assert [(row["label"], row["num_images"]) for row in counts["classes"]] == [
        ("amber", 3),
        ("birch", 3),
        ("cedar", 3),
    ]
    assert counts["total"]["num_examples"] == 3
    assert "cedar" in akin("catalogue", "labels", "--counts").out


def test_an_archive_is_imported(akin, tmp_path):
    (tmp_path / "a.zip").write_bytes(packed({"new/elm/1.png": png("red"), "new/fir/1.png": png("blue")}))

    dry = json.loads(akin("catalogue", "import", "a.zip", "--dry-run", "--json").out)
    done = json.loads(akin("catalogue", "import", "a.zip", "--json").out)

    assert dry["num_products_added"] == done["num_products_added"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label", "nowhere"], "nowhere does not exist"),
        (["label", "one.png"], "give --as with the product's id or a label"),
        (["label", "shop", "--as", "amber"], "--as gives the label of one image, and shop is not an image"),
        (["label", "bad.csv"], "no column 'image_id' or 'sha256' or 'image'"),
        (["label", "bad.zip"], "only zip archives are supported"),
        (["import", "bad.zip"], "only zip archives are supported"),
        (["relabel", "nobody", "wood"], "no image with image_id 'nobody'"),
        (["relabel", "nobody"], "give either a label, or --own"),
        (["relabel", "nobody", "wood", "--own"], "give either a label, or --own"),
        (["labels", "--role", "queen"], "--role must be one of catalogue, example, got 'queen'"),
        (["labels", "--state", "held"], "--state must be one of train, validation, test"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(akin, tmp_path, arguments, message):
    (tmp_path / "bad.csv").write_text("a,b\n")
    (tmp_path / "bad.zip").write_text("x")
    (tmp_path / "one.png").write_bytes(png("red"))
    (tmp_path / "shop").mkdir()

    done = akin("catalogue", *arguments, status=1)

    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
