import pytest

from tests.training.datasets.trees import write
from training.datasets.folders import read_folders
from training.errors import InvalidDataset


def labels_of(root, *names):
    for name in names:
        write(root / name, "")
    return {image.location: image.label for image in read_folders(root).images}


def test_a_folder_is_a_class_and_its_example_folder_holds_examples(tmp_path):
    names = (
        "amber/front.png",
        "amber/Example/photo.JPG",
        "amber/examples/2024/x.png",
        "birch/1.webp",
        "birch/note.txt",
    )
    labels = labels_of(tmp_path, *names)

    assert labels == {name: name.split("/")[0] for name in names[:4]}
    assert {image.location for image in read_folders(tmp_path).images if image.role == "example"} == set(names[1:3])


def test_deeper_folders_are_classes_of_their_path(tmp_path):
    labels = labels_of(tmp_path, "Greek/character01/1.png", "Greek/character02/1.png", "Latin/character01/1.png")

    assert set(labels.values()) == {"Greek/character01", "Greek/character02", "Latin/character01"}


def test_a_class_may_be_named_example(tmp_path):
    assert labels_of(tmp_path, "example/1.png", "b/1.png") == {"example/1.png": "example", "b/1.png": "b"}


def test_folders_of_parts_are_not_classes(tmp_path):
    labels = labels_of(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/2.png", "test/c/example/3.png")
    dataset = read_folders(tmp_path)

    assert set(labels.values()) == {"a", "b", "c"}
    assert [(image.label, image.role, image.part) for image in dataset.images] == [
        ("c", "example", "test"),
        ("a", "catalogue", "train"),
        ("b", "catalogue", "train"),
        ("a", "catalogue", "validation"),
    ]
    assert "parts of the data set" in dataset.notes[0]


@pytest.mark.parametrize("other", ["iconic/a/1.png", "train2/a/1.png"])
def test_folders_of_parts_next_to_others_are_classes(tmp_path, other):
    assert "train/a" in labels_of(tmp_path, "train/a/1.png", other).values()


def test_class_folders_named_train_and_test_are_classes(tmp_path):
    assert set(labels_of(tmp_path, "train/1.png", "test/1.png").values()) == {"train", "test"}


def test_images_next_to_class_folders_are_noted(tmp_path):
    labels_of(tmp_path, "amber/1.png", "amber/front/1.png", "birch/1.png")

    (note,) = read_folders(tmp_path).notes

    assert "'amber'" in note


def test_a_single_folder_around_all_classes_is_noted(tmp_path):
    labels = labels_of(tmp_path, "all/a/1.png", "all/b/1.png")

    assert set(labels.values()) == {"all/a", "all/b"}
    assert "'all' lies around all classes" in read_folders(tmp_path).notes[0]


def test_skipped_images_are_named(tmp_path):
    labels_of(tmp_path, "loose.png", "amber/phone.heic", "amber/1.png", "a\nb/1.png")

    loose, *others = sorted(read_folders(tmp_path).errors, key=lambda error: error.location, reverse=True)

    assert "move it into one" in loose.message
    assert sorted(error.location for error in others) == ["a\nb/1.png", "amber/phone.heic"]


def test_a_folder_without_classes_is_refused(tmp_path):
    write(tmp_path / "loose.png", "")

    with pytest.raises(InvalidDataset, match=r"loose\.png: the image lies in no class's folder.*a folder per class"):
        read_folders(tmp_path)
