import os

import pytest

from tests.training.datasets.trees import write
from training.datasets.files import files_below, location_below, open_text, short
from training.errors import InvalidDataset


def test_files_are_listed_in_a_stable_order_without_hidden_ones(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden", ".git/x", "b/.y"):
        write(tmp_path / name, "")

    assert [location_below(path, tmp_path) for path in files_below(tmp_path)] == ["a.txt", "b/1.txt", "b/2.txt"]


def test_linked_folders_are_followed_once(tmp_path):
    write(tmp_path / "root" / "a" / "x.txt", "")
    write(tmp_path / "other" / "y.txt", "")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "a" / "loop").symlink_to(tmp_path / "root")

    assert [path.name for path in files_below(tmp_path / "root")] == ["x.txt", "y.txt"]


def test_names_that_are_not_utf8_are_escaped(tmp_path):
    path = tmp_path / os.fsdecode(b"prod\xff.png")

    assert location_below(path, tmp_path) == "prod\\udcff.png"


@pytest.mark.parametrize(("encoding", "text"), [("utf-8", "ä"), ("utf-8-sig", "ä")])
def test_text_is_read_with_and_without_a_byte_order_mark(tmp_path, encoding, text):
    with open_text(write(tmp_path / "x", text, encoding)) as file:
        assert file.read() == text


def test_text_in_another_encoding_is_refused(tmp_path):
    with pytest.raises(InvalidDataset, match="save it as UTF-8"), open_text(write(tmp_path / "x", "ä", "latin-1")) as f:
        f.read()


def test_long_values_are_shown_short():
    assert len(short("x" * 500)) == 80
