"""An image column names one existing file, however its path is spelt; everything else is refused with a hint."""

import unicodedata

import pytest

from training.datasets.image_paths import image_path_of

NFC = "Caf\u00e9"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.fixture
def folder(tmp_path):
    """A folder of a table with images, beside a file that is outside of it."""
    (tmp_path / "secret.jpg").write_bytes(b"x")
    folder = tmp_path / "shop"
    for name in ("1.jpg", "images/1.jpg", "images/red mug.jpg", f"{NFD}/{NFC}.jpg", "images/2.JPG", "100%25.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("1.jpg", "1.jpg"),
        ("images/1.jpg", "images/1.jpg"),
        ("./images/1.jpg", "images/1.jpg"),
        ("images/../1.jpg", "1.jpg"),
        (" images/1.jpg\u00a0", "images/1.jpg"),
        ("images\\1.jpg", "images/1.jpg"),
        (".\\images\\1.jpg", "images/1.jpg"),
        ("/images/1.jpg", "images/1.jpg"),
        ("\\images\\1.jpg", "images/1.jpg"),
        ('"images\\1.jpg"', "images/1.jpg"),
        ("images/red%20mug.jpg", "images/red mug.jpg"),
        ("images\\red%20mug.jpg", "images/red mug.jpg"),
        ("100%25.jpg", "100%25.jpg"),
        (f"{NFC}/{NFC}.jpg", f"{NFD}/{NFC}.jpg"),
        (f"{NFD}/{NFD}.jpg", f"{NFD}/{NFC}.jpg"),
        (f"{NFC}\\{NFD}.jpg", f"{NFD}/{NFC}.jpg"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_path_is_found_in_any_spelling(folder, value, name, is_trusted):
    found = image_path_of(value, folder, is_trusted=is_trusted)

    assert found.resolve() == folder / name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "the image is empty; give the path of an image"),
        ("  ", "the image is empty"),
        (3, "must be a path as text, got 3"),
        ("a\0.jpg", r"'a\\x00.jpg' is not a valid path: it contains a NUL character"),
        ("\ud800.jpg", "is not a valid path: it contains a lone surrogate"),
        ("https://cdn.shop.com/1.jpg", "is a URL, and images are not downloaded; download it into the folder"),
        ("HTTP://cdn.shop.com/1.jpg", "is a URL"),
        ("//cdn.shop.com/1.jpg", "is a URL"),
        ("s3://bucket/1.jpg", "is a URL"),
        ("file:///home/me/1.jpg", "is an address of a file; give its path relative to the folder of the table"),
        ("data:image/png;base64,AAAA", "is data, not a path"),
        ("C:\\shop\\1.jpg", "is an absolute path of Windows; give it relative to the folder of the table"),
        ("c:/shop/1.jpg", "is an absolute path of Windows"),
        ("\u202aC:\\shop\\1.jpg", "is an absolute path of Windows"),
        ("\\\\server\\share\\1.jpg", "is an absolute path of Windows"),
        ("images", "is a folder, not an image"),
        (
            "x.jpg",
            "'x.jpg' does not exist; it was looked for in the folder of the table; correct the path, or add the file",
        ),
        ("images\\9.jpg", r"'images\\\\9.jpg' does not exist; it was looked for as 'images/9.jpg'"),
        ("1.JPG", "'1.jpg' exists"),
        ("1.jpeg", "'1.jpg' exists"),
        ("Images/1.jpg", "'images' exists"),
        ("images/Red_Mug.jpg", "'images/red mug.jpg' exists"),
        ("images/red mgu.jpg", "'images/red mug.jpg' exists"),
        ("red mug.jpg", "'images/red mug.jpg' exists"),
        ("images/2.jpg", "'images/2.JPG' exists"),
        ("x" * 4000, "does not exist"),
        ("x" * 5000, "is not a valid path: it has 5,000 characters"),
    ],
    ids=lambda value: ascii(value)[:30],
)
@pytest.mark.parametrize("is_trusted", [True, False])
def test_another_value_is_refused_with_a_hint(folder, value, message, is_trusted):
    with pytest.raises(ValueError, match=message):
        image_path_of(value, folder, is_trusted=is_trusted)


@pytest.mark.parametrize(
    "value",
    ["../secret.jpg", "..\\secret.jpg", "images/../../secret.jpg", "%2e%2e/secret.jpg", "..%5Csecret.jpg", "../x.jpg"],
)
def test_an_upload_names_no_file_outside_of_its_folder(folder, value):
    """The message does not say whether the file exists, and lists no folder outside."""
    with pytest.raises(ValueError, match=r"is not in the archive; name an image that is|does not exist") as refused:
        image_path_of(value, folder)

    assert "exists" not in str(refused.value)


def test_an_absolute_path_is_read_only_from_a_trusted_table(folder):
    outside = folder.parent / "secret.jpg"

    assert image_path_of(str(outside), folder, is_trusted=True) == outside
    assert image_path_of("../secret.jpg", folder, is_trusted=True).resolve() == outside
    for value in (str(outside), str(folder.parent / "nowhere.jpg")):
        with pytest.raises(ValueError, match=r"does not exist; it was looked for as|is not in the archive") as refused:
            image_path_of(value, folder)
        assert "exists" not in str(refused.value)


def test_a_folder_that_has_changed_is_listed_again(folder):
    with pytest.raises(ValueError, match="does not exist"):
        image_path_of(f"new/{NFC}{NFD}.jpg", folder)
    (folder / "new").mkdir()
    (folder / "new" / f"{NFD}{NFC}.jpg").write_bytes(b"x")

    assert image_path_of(f"new/{NFC}{NFD}.jpg", folder).name == f"{NFD}{NFC}.jpg"


def test_only_the_first_missing_files_are_searched_for(folder, monkeypatch):
    """A million missing files may not take a million searches of a folder."""
    searches = []

    def no_match(name, *_, **__):
        searches.append(name)
        return []

    monkeypatch.setattr("training.datasets.image_paths.difflib.get_close_matches", no_match)

    for number in range(20):
        with pytest.raises(ValueError, match="does not exist"):
            image_path_of(f"missing {number}.jpg", folder)

    assert len(searches) == 5
