import pytest

from tests.training.datasets.trees import write
from training.datasets.reading import read_dataset
from training.errors import InvalidDataset


@pytest.mark.parametrize("name", ["catalogue.csv", "manifest.csv"])
def test_a_folder_with_a_manifest_is_read_through_it(tmp_path, name):
    write(tmp_path / "images" / "a" / "x.png", "")
    write(tmp_path / name, "product_id,title,image,role,attributes\na,A,images/a/x.png,catalogue,\n")

    dataset = read_dataset(tmp_path)

    assert dataset.layout == "CSV manifest"
    assert dataset.images[0].path == tmp_path / "images" / "a" / "x.png"


def test_a_manifest_is_read_by_its_own_path(tmp_path):
    write(tmp_path / "x.png", "")
    path = write(tmp_path / "any.jsonl", '{"image": "x.png", "label": "a"}')

    assert read_dataset(path).layout == "JSONL manifest"


def test_paths_are_absolute_for_a_relative_path(tmp_path, monkeypatch):
    write(tmp_path / "shop" / "a" / "x.png", "")
    monkeypatch.chdir(tmp_path)

    from_relative = read_dataset(type(tmp_path)("shop"))

    assert from_relative.images == read_dataset(tmp_path / "shop").images
    assert from_relative.images[0].path.is_absolute()


def test_a_path_without_images_is_refused(tmp_path):
    with pytest.raises(InvalidDataset, match="does not exist"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(InvalidDataset, match="contains no folders with images"):
        read_dataset(tmp_path)
    with pytest.raises(InvalidDataset, match=r"no usable row; m.csv:2: the label is empty"):
        read_dataset(write(tmp_path / "m.csv", "image,label\na.png,\n"))
