"""CUB200-2011, Cars196, Stanford Online Products and GroceryStoreDataset: small synthetic trees, and the real data sets
where they are available."""

import zipfile
from collections import Counter

import numpy as np
import pytest
from scipy.io import savemat

from tests.conftest import REAL_DATA
from tests.training.datasets.trees import write
from training.datasets import cars196
from training.datasets.published import CARS_196, CUB_200_2011, GROCERY_STORE, STANFORD_ONLINE_PRODUCTS, PublishedCounts
from training.datasets.reading import read_dataset
from training.errors import InvalidDataset

MAKES = {1: "AM-General-Hummer-SUV-2000", 98: "Eagle-Talon", 99: "FIAT-500-Abarth-2012", 196: "smart-fortwo"}


def summary(dataset):
    return [(image.label, image.role, image.part, image.path.name) for image in dataset.images]


def write_cub(root):
    write(root / "classes.txt", "1 001.Albatross\n101 101.White_Pelican\n")
    write(root / "images.txt", "1 001.Albatross/a b.jpg\n2 101.White_Pelican/c.jpg\n3 x.jpg\n")
    write(root / "image_class_labels.txt", "1 1\n2 101\n3 7\n")
    (root / "images").mkdir()


def test_reads_cub_in_the_halves_of_metric_learning(tmp_path):
    write_cub(tmp_path / "CUB_200_2011")

    dataset = read_dataset(tmp_path)

    assert dataset.layout == "CUB200-2011"
    assert summary(dataset) == [
        ("001.Albatross", "catalogue", "train", "a b.jpg"),
        ("101.White_Pelican", "catalogue", "test", "c.jpg"),
    ]
    assert dataset.images[0].path == tmp_path / "CUB_200_2011" / "images" / "001.Albatross" / "a b.jpg"
    assert [error.location for error in dataset.errors] == ["images.txt:3"]
    assert "5,864 train images of 100 classes; here are 1 of 1" in dataset.notes[0]


def test_reads_stanford_online_products(tmp_path):
    header = "image_id class_id super_class_id path\n"
    write(tmp_path / "Ebay_train.txt", f"{header}1 1 1 bicycle_final/1_0.JPG\n2 x 1 y.JPG\n")
    write(tmp_path / "Ebay_test.txt", f"{header}59552 11319 1 bicycle_final/2 0.JPG\n")

    dataset = read_dataset(tmp_path)

    assert summary(dataset) == [("1", "catalogue", "train", "1_0.JPG"), ("11319", "catalogue", "test", "2 0.JPG")]
    assert [error.location for error in dataset.errors] == ["Ebay_train.txt:3"]
    assert len(dataset.notes) == 2


def write_annotations(root, classes):
    fields = [("relative_im_path", object), ("bbox_x1", object), ("class", object), ("test", object)]
    rows = [(f"car_ims/{number:06d}.jpg", 1, class_id, 0) for number, class_id in enumerate(classes, start=1)]
    names = np.array([f"Make {number} C/V 2000" for number in range(1, 197)], object)
    root.mkdir(parents=True, exist_ok=True)
    savemat(root / "cars_annos.mat", {"annotations": np.array(rows, fields), "class_names": names})


def test_reads_the_annotations_of_cars196(tmp_path):
    write_annotations(tmp_path / "cars", [98, 99, 500])

    dataset = read_dataset(tmp_path)

    assert summary(dataset) == [
        ("098-Make-98-C-V-2000", "catalogue", "train", "000001.jpg"),
        ("099-Make-99-C-V-2000", "catalogue", "test", "000002.jpg"),
    ]
    assert "class 500" in dataset.errors[0].message


def test_reads_annotations_of_a_single_image(tmp_path):
    write_annotations(tmp_path, [1])

    assert len(read_dataset(tmp_path).images) == 1


def test_invalid_annotations_are_refused(tmp_path):
    write(tmp_path / "cars_annos.mat", "no MATLAB file")

    with pytest.raises(InvalidDataset, match="cannot be read as the annotations of Cars196"):
        read_dataset(tmp_path)


def write_cars_folders(root, numbers):
    for number in numbers:
        write(root / f"{number:03d}-{MAKES.get(number, 'Dodge')}" / "1.webp", "")


@pytest.mark.parametrize(
    ("folder", "numbers", "parts"),
    [
        (".", range(1, 197), {"train": 98, "test": 98}),
        (".", range(1, 99), {"train": 98}),
        ("cars196/train", range(1, 99), {"train": 98}),
        ("cars196/test", range(99, 197), {"test": 98}),
    ],
)
def test_reads_cars196_in_folders_whole_or_half(tmp_path, folder, numbers, parts):
    write_cars_folders(tmp_path / folder, numbers)

    dataset = read_dataset(tmp_path)

    assert dataset.layout == "Cars196 in folders"
    assert Counter(image.part for image in dataset.images) == parts
    assert len(dataset.notes) == 2


def test_reads_both_halves_of_cars196_side_by_side(tmp_path):
    write_cars_folders(tmp_path / "train", range(1, 99))
    write_cars_folders(tmp_path / "test", range(99, 197))

    dataset = read_dataset(tmp_path)

    assert (dataset.layout, len(dataset.images)) == ("Cars196 in folders", 196)
    assert dataset.images[0].label == "099-FIAT-500-Abarth-2012"


@pytest.mark.parametrize("name", ["{:03d}", "{:03d}-lamp"])
def test_a_shop_with_numbered_folders_is_not_cars196(tmp_path, name):
    for number in range(1, 99):
        write(tmp_path / name.format(number) / "1.png", "")

    assert read_dataset(tmp_path).layout == "folder per class"


def test_folders_with_numbers_alone_are_cars196_where_the_count_is_right(tmp_path, monkeypatch):
    monkeypatch.setattr(cars196, "CARS_196", PublishedCounts("Cars196", {"train": (98, 98), "test": (1, 1)}))
    for number in range(1, 99):
        write(tmp_path / f"{number:03d}" / "1.jpg", "")

    dataset = read_dataset(tmp_path)

    assert (dataset.layout, dataset.images[0].label) == ("Cars196 in folders", "001")


def write_grocery(root):
    header = (
        "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
        "Iconic Image Path (str),Product Description Path (str)"
    )
    write(root / "classes.csv", f"{header}\nOat-Milk,0,Milk,4,/iconic/Oat-Milk.jpg,/d.txt\n")
    for name in ("train", "val", "test"):
        write(root / f"{name}.txt", f"{name}/1.jpg, 0, 4\n{name}/x.jpg, 77, 4\n")


@pytest.mark.parametrize("around", [".", "dataset", "GroceryStoreDataset/dataset"])
def test_reads_grocery_with_its_parts_and_iconic_images(tmp_path, around):
    write_grocery(tmp_path / around)

    dataset = read_dataset(tmp_path)

    assert summary(dataset) == [
        ("Oat-Milk", "catalogue", "", "Oat-Milk.jpg"),
        ("Oat-Milk", "example", "train", "1.jpg"),
        ("Oat-Milk", "example", "validation", "1.jpg"),
        ("Oat-Milk", "example", "test", "1.jpg"),
    ]
    assert [error.location for error in dataset.errors] == ["train.txt:2", "val.txt:2", "test.txt:2"]
    assert len(dataset.notes) == 4


def test_a_missing_test_list_of_grocery_is_reported(tmp_path):
    write_grocery(tmp_path)
    (tmp_path / "test.txt").unlink()

    assert "test.txt" in [error.location for error in read_dataset(tmp_path).errors]


def test_published_counts_equal_the_literature():
    assert CUB_200_2011.num_images == 11_788
    assert CARS_196.num_images == 16_185
    assert STANFORD_ONLINE_PRODUCTS.num_images == 120_053
    assert sum(classes for _, classes in STANFORD_ONLINE_PRODUCTS.parts.values()) == 22_634
    assert GROCERY_STORE.num_images == 5_421 + 81


def test_counts_of_the_real_grocery_dataset(grocery):
    dataset = read_dataset(grocery)

    counts = Counter((image.role, image.part) for image in dataset.images)
    assert counts == {
        ("example", "train"): 2640,
        ("example", "validation"): 296,
        ("example", "test"): 2485,
        ("catalogue", ""): 81,
    }
    assert len({image.label for image in dataset.images}) == 81
    assert (dataset.errors, dataset.notes) == ((), ())


@pytest.mark.parametrize(("name", "part"), [("cars196-train", "train"), ("cars196-test", "test")])
def test_counts_of_the_real_cars196(tmp_path, name, part):
    archive = REAL_DATA / f"{name}.zip"
    if not archive.exists():
        pytest.skip(f"{archive.name} is not beside the project (../shared/data)")
    with zipfile.ZipFile(archive) as zipped:
        # Names are all that is read here, and empty files are written faster.
        for member in zipped.namelist():
            if not member.endswith("/"):
                write(tmp_path / member, "")

    dataset = read_dataset(tmp_path)

    num_images, num_classes = CARS_196.parts[part]
    assert dataset.layout == "Cars196 in folders"
    assert len(dataset.images) == num_images
    assert len({image.label for image in dataset.images}) == num_classes
    assert len(dataset.notes) == 1, "only the half that is not there differs"
