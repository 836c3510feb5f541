"""Damage to any file of a release is detected before it is loaded, and the message names the file."""

import re

import pytest

from embedding.runtimes.options import NetworkOptions
from index.structures import IndexOptions
from service.installation.installation import open_installation
from service.releases.build import build_release
from service.releases.errors import InvalidRelease, ReleaseNotFound
from service.releases.files import load_release, verify_release

# Positions of the changed byte, relative to the size; 1.0 is the last byte.
PLACES = (0.0, 0.1, 0.37, 0.5, 0.83, 0.999, 1.0)
FILES = [
    "manifest.json",
    "rows.arrow",
    "images.names",
    "index/manifest.json",
    "index/embeddings.npy",
    "index/entries.arrow",
    "index/structure.faiss",
    "checkpoint/model.json",
    "checkpoint/weights.safetensors",
    "checkpoint/golden.safetensors",
]


@pytest.fixture(scope="module")
def damaged_home(shop_templates, tiny_checkpoint, tmp_path_factory):
    """Two releases of a shop; tests damage the second one, which is restored afterwards."""
    settings, (first,) = shop_templates.copy(tmp_path_factory.mktemp("damage") / "home", 1)
    options = IndexOptions(structure="ivf", nlist=2, min_ann_recall=0.0)
    with open_installation(settings) as installation:
        second = build_release(installation, checkpoint=tiny_checkpoint, options=options, activate=False).release_id
    return settings, first, second


@pytest.fixture
def release(damaged_home):
    """Directory of the second release, restored after the test."""
    settings, _, second = damaged_home
    directory = settings.releases_dir / second
    whole = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    yield directory
    for path in [path for path in directory.rglob("*") if path.is_file() or path.is_symlink()]:
        path.unlink()
    for path, content in whole.items():
        path.write_bytes(content)


def load(directory):
    return load_release(directory.parent, directory.name, NetworkOptions("cpu"), index_device="cpu")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1
    path.write_bytes(content)


def refusal_of(name):
    """Return the pattern of a refusal that names the file."""
    return rf"is refused: .*{re.escape(name)}"


def test_the_list_names_all_files(release):
    found = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}

    assert found == set(FILES)
    assert load(release).index.num_rows == 6


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_detected(release, name, place):
    flip(release / name, place)

    with pytest.raises(InvalidRelease, match=refusal_of(name)) as error:
        load(release)

    assert str(release.parent) not in str(error.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_a_truncated_file_is_detected(release, name, kept):
    content = (release / name).read_bytes()
    (release / name).write_bytes(content[: min(int(kept * len(content)), len(content) - 1)])

    with pytest.raises(InvalidRelease, match=refusal_of(name)):
        load(release)


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_detected(release, name):
    with (release / name).open("ab") as file:
        file.write(b"\0")

    with pytest.raises(InvalidRelease, match=refusal_of(name)):
        load(release)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_detected(release, name):
    (release / name).unlink()

    with pytest.raises(InvalidRelease, match=refusal_of(name)):
        load(release)


@pytest.mark.parametrize("name", ["extra", "index/extra", "checkpoint/extra.json", ".hidden"])
def test_an_additional_file_is_detected(release, name):
    (release / name).write_text("x")

    with pytest.raises(InvalidRelease, match=rf"file '{name}' does not belong to it"):
        load(release)


def test_a_directory_in_place_of_a_file_is_detected(release):
    (release / "rows.arrow").unlink()
    (release / "rows.arrow").mkdir()
    try:
        with pytest.raises(InvalidRelease, match=r"rows\.arrow"):
            load(release)
    finally:
        (release / "rows.arrow").rmdir()


def test_an_unreadable_file_is_reported_without_its_location(release, monkeypatch):
    def unreadable(path, **_):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("embedding.artifact.sha256_of_file", unreadable)

    with pytest.raises(InvalidRelease, match="Input/output error") as error:
        load(release)

    assert str(release.parent) not in str(error.value)


def test_a_file_of_another_release_is_detected(damaged_home, release):
    settings, first, _ = damaged_home
    other = settings.releases_dir / first
    (release / "rows.arrow").write_bytes((other / "rows.arrow").read_bytes()[:-1] + b"x")

    with pytest.raises(InvalidRelease, match=r"rows\.arrow"):
        load(release)


def test_a_release_in_a_directory_of_another_name_is_refused(damaged_home, release):
    settings, _, second = damaged_home
    renamed = release.rename(release.with_name("renamed"))
    try:
        with pytest.raises(ReleaseNotFound):
            verify_release(settings.releases_dir, second)
        with pytest.raises(InvalidRelease, match=f"its manifest is that of release {second}"):
            load(renamed)
    finally:
        renamed.rename(release)
