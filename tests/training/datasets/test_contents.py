"""What is an image is decided by content, and what is not one is named with its reason."""

import pytest

from tests.images import png
from tests.training.datasets.trees import write
from training.datasets.tree import scan


@pytest.mark.parametrize("name", ["1.jfif", "2.pjpeg", "noending", "3.jpg_large", "4.jpg?v=3", "5.txt"])
def test_content_decides_what_an_image_is(tmp_path, name):
    (tmp_path / name).write_bytes(png("red"))

    assert scan(tmp_path).images == [name]


@pytest.mark.parametrize(
    ("name", "content", "reason", "is_failure"),
    [
        ("notes.txt", b"text", "text, not an image", False),
        ("LICENSE", b"text", "text, not an image", False),
        ("film.mov", b"\0\0\0\x14ftypqt  ", "a video, not an image", False),
        ("sheet.pdf", b"%PDF-1.7", "a document, not an image", False),
        ("prices.xlsx", b"PK\3\4", "a spreadsheet, not an image", False),
        (".hidden.png", b"", "hidden", False),
        ("raw.CR2", b"\1\2\0\3", "a camera's raw file", True),
        ("raw.dng", b"II*\0\x08\0\0\0", "a camera's raw file", True),
        ("raw", b"II*\0\x10\0\0\0CR\x02", "CR2 raw image is not read", True),
        ("drawing.svg", b"<svg xmlns='x'>", "SVG drawing is not read", True),
        ("layers.psd", b"8BPS\0\1", "Photoshop document is not read", True),
        ("old.zip", b"PK\3\4", "zip archive is not read; unpack it", True),
        ("old.rar", b"Rar!", "an archive in a folder is not read", True),
        ("empty", b"", "the file is empty", True),
        ("phone.heic", b"", "the file is empty", True),
        ("unknown.bin", b"\0\1\2\3", "its content is no known image", True),
    ],
)
def test_what_is_left_out_is_named_with_its_reason(tmp_path, name, content, reason, is_failure):
    (tmp_path / name).write_bytes(content)

    tree = scan(tmp_path)

    (item,) = tree.left_out
    assert (tree.images, item.location, item.is_failure) == ([], name, is_failure)
    assert reason in item.reason


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "Icon\r", "._1.png", "__MACOSX/a/1.png", ".git/x.png"])
def test_files_of_the_system_are_counted_only(tmp_path, name):
    write(tmp_path / name, "")

    tree = scan(tmp_path)

    assert (tree.images, tree.left_out, tree.num_junk) == ([], [], 1)


def test_an_ending_of_an_image_is_believed_without_a_look(tmp_path):
    """The image is opened later; looking into each of a million files would double the work."""
    path = write(tmp_path / "1.jpg", "no image")
    path.chmod(0)

    assert scan(tmp_path).images == ["1.jpg"]
