"""Which folder is a class: one reading for imports, labels and training, or a refusal."""

import os
import unicodedata

import pytest

from tests.training.datasets.trees import write
from training.datasets.folders import layout_named, read_folders
from training.errors import InvalidDataset


def labels_of(root, *names, **options):
    for name in names:
        write(root / name, "")
    return {image.location: image.label for image in read_folders(root, **options)}


@pytest.mark.parametrize(
    ("files", "labels", "description"),
    [
        ("amber/1.png amber/2.jpg birch/1.webp", "amber birch", "a folder per class"),
        ("shop/amber/1.png shop/birch/1.png", "amber birch", "a folder per class"),
        ("a/b/shop/amber/1.png a/b/shop/birch/1.png", "amber birch", "a folder per class"),
        ("shop/amber/1.png", "amber", "a folder per class"),
        ("shop/amber/1.png README.txt", "amber", "a folder per class"),
        ("shop/1/1.png shop/2/1.png", "1 2", "a folder per class"),
        ("images/amber/1.png images/birch/1.png", "amber birch", "a folder per class"),
        ("amber/front/1.png amber/back/1.png", "amber", "a folder per class"),
        ("amber/view1/1.png amber/view2/1.png birch/view1/1.png", "amber birch", "a folder per class"),
        ("amber/1.png amber/front/1.png birch/1.png", "amber birch", "a folder per class"),
        ("amber/1.png amber/shelf/1.png birch/1.png", "amber birch", "a folder per class"),
        ("amber/example/1.png birch/1.png", "amber birch", "a folder per class"),
        (
            "fruit/fig/1.png fruit/pear/1.png milk/oat/1.png",
            "fruit/fig fruit/pear milk/oat",
            "('fruit/fig' is a class)",
        ),
        ("fruit/fig/front/1.png milk/oat/back/1.png", "fruit/fig milk/oat", "in folders of categories"),
        ("Greek/char1/1.png Greek/char2/1.png Latin/char1/1.png", "Greek/char1 Greek/char2 Latin/char1", "categories"),
        ("train/a/1.png train/b/1.png val/a/2.png test/c/1.png", "a b c", "in folders of parts of a data set"),
        ("data/Train/a/1.png data/TEST/b/1.png", "a b", "in folders of parts of a data set"),
        ("train/0/1.png train/1/1.png test/0/1.png", "0 1", "in folders of parts of a data set"),
        ("train/images/a/1.png test/images/b/1.png", "a b", "in folders of parts of a data set"),
    ],
)
def test_the_tree_decides_what_a_class_is(tmp_path, files, labels, description):
    for name in files.split():
        write(tmp_path / name, "")

    found = read_folders(tmp_path)

    assert {image.label for image in found} == set(labels.split())
    assert description in found.description
    assert found.num_classes == len(labels.split())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("images/1.png images/2.png", "all images in the folder 'images', which says nothing about the class"),
        ("Photos/1.png img/2.png", "in the folder 'Photos' and 'img', which says nothing"),
        ("shop/images/1.png", "says nothing about the class"),
        ("1.png 2.png", r"2 images of .* lie in no folder of a class \('1.png', '2.png'\); move the images"),
        ("train/1.png test/1.png", "lie in no class's folder: folders of these names are parts"),
        ("train/a/1.png iconic/a/1.png", "'train' .* may be parts of a data set or categories, .* beside 'iconic'"),
        ("train/a/1.png train2/a/1.png", "beside 'train2'"),
        ("fruit/cover.png fruit/fig/1.png fruit/pear/1.png", "'fruit' .* contains images and also 2 folders"),
        ("amber/1.png fruit/fig/1.png fruit/pear/1.png", "at several depths: 'amber' .* 'fruit/pear'"),
        (
            "shoes/red/1.png shoes/blue/1.png hats/red/1.png hats/blue/1.png",
            "same names .'blue', 'red'.*--layout paths",
        ),
        ("", "contains no folders with images; expected a folder per class"),
        ("amber/notes.txt", "no folders with images; amber/notes.txt: text, not an image"),
    ],
)
def test_two_possible_readings_are_refused(tmp_path, files, message):
    with pytest.raises(InvalidDataset, match=message):
        labels_of(tmp_path, *files.split())


@pytest.mark.parametrize(
    ("layout", "labels"), [("products", "shoes hats"), ("paths", "shoes/red shoes/blue hats/red hats/blue")]
)
def test_the_option_decides(tmp_path, layout, labels):
    files = ("shoes/red/1.png", "shoes/blue/1.png", "hats/red/1.png", "hats/blue/1.png")

    assert set(labels_of(tmp_path, *files, layout=layout).values()) == set(labels.split())


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="'tree'; it must be auto, products, paths"):
        layout_named("tree")


def test_a_folder_example_holds_examples(tmp_path):
    names = ("amber/front.png", "amber/Example/photo.JPG", "amber/examples/2024/x.png", "example/1.png")

    labels = labels_of(tmp_path, *names)

    assert labels == {name: name.split("/")[0] for name in names}
    assert {image.location for image in read_folders(tmp_path) if image.role == "example"} == set(names[1:3])


def test_folders_of_parts_are_parts(tmp_path):
    labels_of(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "test/c/example/3.png")

    assert [(image.label, image.role, image.part) for image in read_folders(tmp_path)] == [
        ("c", "example", "test"),
        ("a", "catalogue", "train"),
        ("b", "catalogue", "train"),
        ("a", "catalogue", "validation"),
    ]


def test_folders_within_a_class_are_noted(tmp_path):
    labels_of(tmp_path, "amber/1.png", "amber/shelf/1.png", "birch/1.png")

    assert read_folders(tmp_path).notes == ("1 folder inside of a class's folder belongs to that class: 'amber/shelf'",)


def test_the_same_name_in_both_normal_forms_is_one_class(tmp_path):
    for form in ("NFC", "NFD"):
        write(tmp_path / unicodedata.normalize(form, "Käse") / f"{form}.png", "")

    found = read_folders(tmp_path)

    assert {image.label for image in found} == {"Käse"}
    assert len(found) == 2


def test_a_folder_whose_name_is_no_identifier_is_left_out_once(tmp_path):
    found = labels_of(tmp_path, "a\nb/1.png", "a\nb/2.png", "amber/1.png", "x" * 201 + "/1.png")

    assert list(found) == ["amber/1.png"]
    by_location = {item.location[:3]: item for item in read_folders(tmp_path).left_out}
    assert "contains a line break" in by_location["a\nb"].reason
    assert "its 2 images left out" in by_location["a\nb"].reason
    assert [item.is_failure for item in by_location.values()] == [True, True]


def test_loose_images_are_left_out(tmp_path):
    labels_of(tmp_path, "loose.png", "amber/1.png")

    (item,) = read_folders(tmp_path).left_out

    assert (item.location, item.is_failure) == ("loose.png", True)
    assert "move it into one" in item.reason


def test_links_are_followed_once_and_what_cannot_be_read_is_named(tmp_path):
    root = tmp_path / "root"
    write(root / "a" / "1.png", "")
    write(tmp_path / "other" / "2.png", "")
    (root / "linked").symlink_to(tmp_path / "other")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(root / "a" / "pipe.png")

    found = read_folders(root)

    assert {image.location: image.label for image in found} == {"a/1.png": "a", "linked/2.png": "linked"}
    assert [(item.location, item.reason, item.is_failure) for item in found.left_out] == [
        ("a/broken.png", "a link to a file that does not exist", True),
        ("a/loop", "a link to a folder that is read already", False),
        ("a/pipe.png", "neither a file nor a folder", True),
    ]


def test_images_can_be_iterated_again(tmp_path):
    labels_of(tmp_path, "a/1.png", "b/1.png")

    found = read_folders(tmp_path)

    assert [image.path for image in found] == [tmp_path / "a" / "1.png", tmp_path / "b" / "1.png"]
    assert list(found) == list(found)
