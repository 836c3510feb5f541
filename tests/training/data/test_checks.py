import io
import shutil

import numpy as np
import pytest
from PIL import Image

from embedding.preprocessing import Preprocessing
from tests.images import encode, scene
from tests.training.datasets.trees import draw, write
from training.data import checks as checks_module
from training.data.checks import check_training_data
from training.data.image_cache import ImageCache
from training.data.near_duplicates import near_duplicate_pairs
from training.data.snapshot import open_training_data
from training.data.splits import SplitConfig, leave_out, split_snapshot

CONFIG = SplitConfig(unseen_classes=("held",), validation_share=0, validation_example_share=0)


@pytest.fixture
def shop(tmp_path):
    folder = tmp_path / "shop"
    for number, name in enumerate(("amber", "birch", "cedar", "held")):
        for image in range(3):
            draw(folder / name / f"{image}.png", 10 * number + image)
    return folder


def check(shop):
    snapshot = open_training_data(shop)
    split = split_snapshot(snapshot, CONFIG)
    cache = ImageCache.build(snapshot, Preprocessing(), size=32)
    return snapshot, split, check_training_data(snapshot, split, cache)


def recompressed(path, target):
    target.write_bytes(encode(Image.open(io.BytesIO(path.read_bytes())), "JPEG", quality=85))


def locations(snapshot, indices):
    return [snapshot.images[index].location for index in indices]


def test_valid_data_have_no_findings(shop):
    _, _, checks = check(shop)

    assert checks.findings == ()
    assert len(checks.exclude) == len(checks.unreadable) == 0


def test_unreadable_images_are_named_and_excluded_everywhere(shop):
    write(shop / "amber" / "broken.png", "no image")
    write(shop / "held" / "broken.png", "no image at all")

    snapshot, split, checks = check(shop)

    (finding,) = checks.findings
    assert finding.severity == "problem"
    assert finding.rows == ("amber/broken.png", "held/broken.png")
    assert "amber/broken.png: the bytes are not an image" in finding.message
    assert "replace them" in finding.message
    assert locations(snapshot, checks.unreadable) == list(finding.rows)
    left = leave_out(snapshot, split, from_training=checks.exclude, everywhere=checks.unreadable)
    assert "amber/broken.png" not in locations(snapshot, left.train)
    assert left.test is not None
    assert "held/broken.png" not in locations(snapshot, left.test.query)


def test_rows_that_could_not_be_read_are_a_finding(shop):
    write(shop / "loose.png", "x")

    _, _, checks = check(shop)

    assert checks.findings[0].rows == ("loose.png",)
    assert "move it into one" in checks.findings[0].message


def test_classes_with_one_image_are_a_warning(shop):
    draw(shop / "dahlia" / "only.png", 99)

    _, _, checks = check(shop)

    (finding,) = checks.findings
    assert (finding.severity, finding.rows) == ("warning", ("dahlia/only.png",))
    assert "add a second image" in finding.message


def test_the_same_file_across_the_split_is_a_problem(shop):
    shutil.copy(shop / "held" / "1.png", shop / "amber" / "copy.png")

    snapshot, split, checks = check(shop)

    across, labels = checks.findings
    assert (across.severity, across.rows) == ("problem", ("amber/copy.png",))
    assert "same files as held-out images" in across.message
    assert labels.rows == ("amber/copy.png", "held/1.png")
    assert "amber/copy.png" not in locations(snapshot, split.train)


def test_a_near_duplicate_across_the_split_is_excluded_from_training(shop):
    recompressed(shop / "held" / "1.png", shop / "amber" / "copy.jpg")

    snapshot, split, checks = check(shop)

    across, labels = checks.findings
    assert (across.severity, across.rows) == ("warning", ("amber/copy.jpg",))
    assert "near-duplicates of held-out images" in across.message
    assert set(labels.rows) == {"amber/copy.jpg", "held/1.png"}
    assert locations(snapshot, checks.exclude) == ["amber/copy.jpg"]
    left = leave_out(snapshot, split, from_training=checks.exclude, everywhere=checks.unreadable)
    assert len(left.train) == len(split.train) - 1


def test_the_same_image_under_two_labels_is_a_problem_that_names_both(shop):
    shutil.copy(shop / "birch" / "0.png", shop / "amber" / "wrong.png")

    _, _, checks = check(shop)

    (finding,) = checks.findings
    assert (finding.severity, finding.rows) == ("problem", ("amber/wrong.png", "birch/0.png"))
    assert "amber/wrong.png = 'amber', birch/0.png = 'birch'" in finding.message
    assert len(checks.exclude) == 0


def test_a_near_duplicate_under_two_labels_is_a_warning(shop):
    recompressed(shop / "birch" / "0.png", shop / "amber" / "near.jpg")

    _, _, checks = check(shop)

    (finding,) = checks.findings
    assert finding.severity == "warning"
    assert "near-duplicates of images with another label" in finding.message
    assert finding.rows == ("amber/near.jpg", "birch/0.png")


def test_copies_within_a_class_give_no_finding(shop):
    shutil.copy(shop / "birch" / "0.png", shop / "birch" / "again.png")
    recompressed(shop / "birch" / "0.png", shop / "birch" / "near.jpg")

    assert check(shop)[2].findings == ()


def test_a_message_names_five_rows_and_the_finding_lists_all(shop):
    for number in range(8):
        write(shop / "amber" / f"broken{number}.png", f"no image {number}")

    _, _, checks = check(shop)

    (finding,) = checks.findings
    assert len(finding.rows) == 8
    assert finding.message.count("broken") == 5
    assert ": 8 (" in finding.message
    assert "..." in finding.message


def test_a_cache_of_other_images_is_refused(shop):
    snapshot = open_training_data(shop)
    split = split_snapshot(snapshot, CONFIG)

    with pytest.raises(ValueError, match="the cache holds 1 images"):
        check_training_data(snapshot, split, ImageCache(np.zeros((1, 8, 8, 3), np.uint8), {}))


def test_a_catalogue_image_that_equals_a_query_is_excluded_from_training(tmp_path):
    for number, name in enumerate(("amber", "birch", "cedar", "held")):
        draw(tmp_path / name / "front.png", 10 * number)
        draw(tmp_path / name / "side.png", 10 * number + 1)
        draw(tmp_path / name / "example" / "photo.png", 10 * number + 2)
    query = tmp_path / "held" / "example" / "photo.png"
    recompressed(query, tmp_path / "cedar" / "front.jpg")
    (tmp_path / "cedar" / "other.jpg").write_bytes(encode(scene(500), "JPEG"))

    snapshot, split, checks = check(tmp_path)

    assert split.test is not None
    assert split.test.gallery is not None
    assert "held/example/photo.png" in locations(snapshot, split.test.query)
    assert locations(snapshot, checks.exclude) == ["cedar/front.jpg"]


def test_copies_of_one_file_are_compared_once_and_found_all(shop, monkeypatch):
    """Products that share a placeholder; a recompressed one is held out."""
    compared = []

    def counted(thumbnails, *arguments):
        compared.append(len(thumbnails.colours))
        return near_duplicate_pairs(thumbnails, *arguments)

    monkeypatch.setattr(checks_module, "near_duplicate_pairs", counted)
    for name in ("amber", "birch", "cedar"):
        draw(shop / name / "placeholder.png", 99)
    recompressed(shop / "amber" / "placeholder.png", shop / "held" / "placeholder.jpg")

    snapshot, _, checks = check(shop)

    placeholders = [f"{name}/placeholder.png" for name in ("amber", "birch", "cedar")]
    assert sorted(locations(snapshot, checks.exclude)) == placeholders
    assert compared == [14]
    (under_labels,) = [finding for finding in checks.findings if "near-duplicates of images with" in finding.message]
    assert sorted(under_labels.rows) == [*placeholders, "held/placeholder.jpg"]
