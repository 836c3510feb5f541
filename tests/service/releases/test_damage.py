"""Any damage to any file of a release is found before it is served, and named; what was served goes on."""

import re

import pytest
from fastapi.testclient import TestClient

from index.structures import IndexOptions
from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.releases.activation import activate_verified
from service.releases.build import build_release
from service.releases.errors import InvalidRelease, ReleaseNotFound
from service.releases.files import load_release, read_release_facts
from service.releases.records import activate_release
from service.web.app import create_app
from tests.images import encode
from tests.service.conftest import product_image, wait_for, write_shop
from tests.service.fixtures.tiny_model import save_tiny_checkpoint

IMAGE = encode(product_image("birch"))
# Where a byte is changed: relative to the size; 1.0 is the last one.
PLACES = (0.0, 0.1, 0.37, 0.5, 0.83, 0.999, 1.0)
FILES = [
    "manifest.json",
    "rows.arrow",
    "index/manifest.json",
    "index/embeddings.npy",
    "index/entries.arrow",
    "index/structure.faiss",
    "checkpoint/model.json",
    "checkpoint/weights.safetensors",
    "checkpoint/golden.safetensors",
]


@pytest.fixture(scope="module")
def damaged_home(tmp_path_factory):
    """Two releases of a shop, the first one active; tests damage the second one, and mend it."""
    root = tmp_path_factory.mktemp("damage")
    settings = Settings(home=root / "home", release_poll_seconds=0.05)
    save_tiny_checkpoint(root / "small")
    with open_installation(settings) as installation:
        import_catalogue(read_import_source(write_shop(root / "shop")), installation.database, installation.media_store)
        options = IndexOptions(structure="ivf", nlist=2, min_ann_recall=0.0)
        first = build_release(installation, checkpoint=root / "small").release_id
        second = build_release(installation, checkpoint=root / "small", options=options, activate=False).release_id
    return settings, first, second


@pytest.fixture
def release(damaged_home):
    """Directory of the second release; put back as it was after the test."""
    settings, _, second = damaged_home
    directory = settings.releases_dir / second
    whole = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    yield directory
    for path in [path for path in directory.rglob("*") if path.is_file() or path.is_symlink()]:
        path.unlink()
    for path, content in whole.items():
        path.write_bytes(content)


def load(directory):
    return load_release(directory.parent, directory.name, device="cpu", precision="float32", index_device="cpu")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1
    path.write_bytes(content)


def named(name):
    """What the refusal says: which file it is."""
    return rf"is refused: .*{re.escape(name)}"


def test_the_list_is_of_all_files(release):
    found = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}

    assert found == set(FILES)
    assert load(release).index.num_rows == 6


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_and_its_file_named(release, name, place):
    flip(release / name, place)

    with pytest.raises(InvalidRelease, match=named(name)) as error:
        load(release)

    assert str(release.parent) not in str(error.value)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_a_file_that_was_cut_off_is_found_and_named(release, name, kept):
    content = (release / name).read_bytes()
    (release / name).write_bytes(content[: min(int(kept * len(content)), len(content) - 1)])

    with pytest.raises(InvalidRelease, match=named(name)):
        load(release)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_grew_is_found_and_named(release, name):
    with (release / name).open("ab") as file:
        file.write(b"\0")

    with pytest.raises(InvalidRelease, match=named(name)):
        load(release)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found_and_named(release, name):
    (release / name).unlink()

    with pytest.raises(InvalidRelease, match=named(name)):
        load(release)


@pytest.mark.parametrize("name", ["extra", "index/extra", "checkpoint/extra.json", ".hidden"])
def test_a_file_too_many_is_found_and_named(release, name):
    (release / name).write_text("x")

    with pytest.raises(InvalidRelease, match=rf"file '{name}' does not belong to it"):
        load(release)


def test_a_file_that_is_a_folder_is_found_and_named(release):
    (release / "rows.arrow").unlink()
    (release / "rows.arrow").mkdir()
    try:
        with pytest.raises(InvalidRelease, match=r"rows\.arrow"):
            load(release)
    finally:
        (release / "rows.arrow").rmdir()


def test_a_file_that_cannot_be_read_is_found_and_named(release, monkeypatch):
    def unreadable(path):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("embedding.artifact.sha256_of_file", unreadable)

    with pytest.raises(InvalidRelease, match="Input/output error") as error:
        load(release)

    assert str(release.parent) not in str(error.value)


def test_files_swapped_with_those_of_another_release_are_found(damaged_home, release):
    settings, first, _ = damaged_home
    other = settings.releases_dir / first
    (release / "rows.arrow").write_bytes((other / "rows.arrow").read_bytes()[:-1] + b"x")

    with pytest.raises(InvalidRelease, match=r"rows\.arrow"):
        load(release)


def test_a_release_under_the_name_of_another_is_refused(damaged_home, release):
    settings, _, second = damaged_home
    renamed = release.rename(release.with_name("renamed"))
    try:
        with pytest.raises(ReleaseNotFound):
            read_release_facts(settings.releases_dir, second)
        with pytest.raises(InvalidRelease, match=f"its manifest is that of release {second}"):
            load(renamed)
    finally:
        renamed.rename(release)


@pytest.mark.parametrize("name", FILES)
def test_a_server_keeps_the_previous_release_and_readyz_warns(damaged_home, release, name):
    """Damaged after its activation was decided: the server is the last one to look."""
    settings, first, second = damaged_home
    flip(release / name, 0.5)
    with open_installation(settings) as installation, TestClient(create_app(settings)) as client:
        with pytest.raises(InvalidRelease, match=named(name)):
            activate_verified(installation, second)
        wait_for(lambda: client.get("/readyz").status_code == 200)
        with installation.database.transaction() as session:
            activate_release(session, second)

        wait_for(lambda: client.get("/readyz").json()["warning"])

        ready = client.get("/readyz").json()
        assert ready["release_id"] == first
        assert name in ready["warning"]
        answer = client.post("/search", files={"image": IMAGE})
        assert (answer.status_code, answer.json()["release_id"]) == (200, first)
        with installation.database.transaction() as session:
            activate_release(session, first)
        wait_for(lambda: client.get("/readyz").json()["warning"] is None)
