import pytest

from training.datasets.junk import is_junk


@pytest.mark.parametrize(
    "name",
    [
        "Icon\r", ".DS_Store", ".ds_store", "._a.jpg", "Thumbs.db", "THUMBS.DB", "ehthumbs.db", "Desktop.ini",
        "__MACOSX", ".Spotlight-V100", ".Trashes", ".fseventsd", "@eaDir", "$RECYCLE.BIN", "~$prices.xlsx",
        ".~lock.prices.csv#", ".git", "a.jpg@SynoEAStream", "a.jpg:Zone.Identifier", ".Trash-1000",
    ],
)  # fmt: skip
def test_files_of_systems_and_programs_are_junk(name):
    assert is_junk(name)


@pytest.mark.parametrize(
    "name", ["Icon", "icon.png", "a.jpg", "thumbs", "git", "~a.jpg", "_", ".hidden.jpg", "desktop"]
)
def test_other_names_are_not_junk(name):
    assert not is_junk(name)
