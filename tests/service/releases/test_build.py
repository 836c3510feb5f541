import json
import threading

import numpy as np
import pytest
from sqlalchemy import select

from index.errors import LowRecall
from index.indexer import embed_images
from index.structures import IndexOptions
from service.catalogue.errors import EmptyCatalogue
from service.catalogue.records import read_catalogue, remove_products
from service.errors import InvalidSetting, ServiceError
from service.installation.installation import open_installation
from service.releases.build import build_release, only_builder
from service.releases.errors import ActivationConflict, InvalidRelease, ReleaseError, ReleaseNotFound
from service.releases.files import load_release, read_release_facts
from service.releases.records import activate_release, active_release, list_releases
from service.storage.errors import MediaError
from service.storage.tables.catalogue import StoredEmbedding


@pytest.fixture
def build(shop, small_checkpoint):
    """Build a release of the shop with the small model."""

    def build(**options):
        return build_release(shop, **{"checkpoint": small_checkpoint, **options})

    return build


def load(installation, release_id):
    return load_release(
        installation.settings.releases_dir, release_id, device="cpu", precision="float32", index_device="cpu"
    )


def active_id(installation):
    with installation.database.reading() as session:
        return active_release(session).release_id


def release_folders(installation):
    return sorted(path.name for path in installation.settings.releases_dir.iterdir() if path.name != ".lock")


def test_publishes_and_activates_a_release_of_the_catalogue_images(shop, build):
    built = build()

    assert (built.num_products, built.num_images, built.num_embedded, built.is_active) == (3, 6, 6, True)
    assert active_id(shop) == built.release_id
    release = load(shop, built.release_id)
    assert len(release.rows) == release.index.num_rows == 6
    assert {release.rows[row].product_id for row in range(6)} == {"amber", "birch", "cedar"}


def test_the_manifest_says_what_the_release_is(shop, build):
    built = build()

    facts = read_release_facts(shop.settings.releases_dir, built.release_id)
    manifest = json.loads((shop.settings.releases_dir / built.release_id / "manifest.json").read_text())
    assert facts["release_id"] == built.release_id
    assert facts["evaluation"] is None
    assert facts["watermark"] == 12
    assert facts["index"]["structure"]["name"] == "exact"
    assert facts["index"]["ann_recall"]["value"] == 1.0
    assert set(manifest["files"]) >= {"rows.arrow", "checkpoint/model.json", "checkpoint/weights.safetensors"}


def test_nothing_is_embedded_twice(shop, build):
    build()
    with shop.database.transaction() as session:
        remove_products(session, ["amber"])

    again = build()

    assert (again.num_embedded, again.num_images) == (0, 4)
    assert len(release_folders(shop)) == 2


def test_embedding_goes_on_where_it_was_cut_off(shop, build, monkeypatch):

    def in_pairs(images, embedder, *, limits):
        return embed_images(images, embedder, limits=limits, batch_size=2)

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("service.embeddings.stored.embed_images", in_pairs)
    with pytest.raises(KeyboardInterrupt):
        build(on_progress=stop)
    assert active_id(shop) is None
    assert release_folders(shop) == []

    assert build().num_embedded == 2


def test_a_release_that_is_not_activated_waits(shop, build):
    first = build()

    second = build(activate=False)

    assert active_id(shop) == first.release_id
    with shop.database.transaction() as session:
        assert activate_release(session, second.release_id)
        assert not activate_release(session, second.release_id)
        assert active_release(session).previous_release_id == first.release_id


def test_the_model_of_the_active_release_is_the_default(shop, build, small_checkpoint):
    space = read_release_facts(shop.settings.releases_dir, build().release_id)["space_id"]

    again = build_release(shop)

    assert again.num_embedded == 0
    assert read_release_facts(shop.settings.releases_dir, again.release_id)["space_id"] == space


def test_the_first_release_is_zero_shot_without_a_checkpoint(shop):
    built = build_release(shop)

    facts = read_release_facts(shop.settings.releases_dir, built.release_id)
    assert facts["architecture"] == {
        "backbone": "efficientnet_lite0",
        "pooling": "average",
        "head": "none",
        "embedding_dim": 1280,
    }


def test_equal_images_of_two_products_are_embedded_once(installation, small_checkpoint, tmp_path):
    from service.catalogue.importing import import_catalogue
    from service.catalogue.sources import ImportSource, SourceRow
    from tests.images import png

    (tmp_path / "a.png").write_bytes(png("red"))
    rows = [SourceRow("1", "a", tmp_path / "a.png"), SourceRow("2", "b", tmp_path / "a.png")]
    import_catalogue(ImportSource("rows", rows), installation.database, installation.media_store)

    built = build_release(installation, checkpoint=small_checkpoint)

    assert (built.num_images, built.num_embedded) == (2, 1)


def test_an_empty_catalogue_is_told_what_to_do(installation):
    with pytest.raises(EmptyCatalogue, match="akin catalogue import"):
        build_release(installation)


def test_a_image_missing_from_the_store_stops_the_build_and_leaves_nothing(shop, build):
    with shop.database.reading() as session:
        name = read_catalogue(session).images[2].media_name
    (shop.settings.home / "media" / name.sha256[:2] / str(name)).unlink()

    with pytest.raises(MediaError, match=r"1 of 6 images.*import it again"):
        build()

    assert release_folders(shop) == []
    with shop.database.reading() as session:
        assert len(session.scalars(select(StoredEmbedding)).all()) == 5
        assert list_releases(session) == []


def test_a_build_below_the_recall_threshold_leaves_nothing(shop, build, monkeypatch):
    def worse(*_, **__):
        raise LowRecall("ann_recall 0.5 is below 0.95")

    monkeypatch.setattr("service.releases.files.build_index", worse)

    with pytest.raises(LowRecall):
        build(options=IndexOptions())

    assert release_folders(shop) == []
    assert active_id(shop) is None


def test_half_written_drafts_of_a_killed_build_are_cleared_away_and_nothing_else(shop, build):
    first = build()
    (shop.settings.releases_dir / ".staging-x").mkdir()
    (shop.settings.releases_dir / "notes-of-mine").mkdir()

    second = build()

    assert release_folders(shop) == sorted(["notes-of-mine", first.release_id, second.release_id])


def test_a_release_that_no_process_could_record_is_recorded_by_the_next_build(shop, build, monkeypatch):
    """Also after the database was lost: what was served can be gone back to."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("service.releases.build.record_release", killed)
        with pytest.raises(KeyboardInterrupt):
            build()
    (orphan,) = release_folders(shop)

    second = build()

    with shop.database.transaction() as session:
        assert {release.id for release in list_releases(session)} == {orphan, second.release_id}
        assert activate_release(session, orphan)


def test_another_database_over_the_same_home_deletes_no_release(shop, build, tmp_path):
    first = build()
    other = shop.settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/other.db"})

    with open_installation(other) as installation, pytest.raises(EmptyCatalogue):
        build_release(installation)

    assert release_folders(shop) == [first.release_id]


def test_a_damaged_active_model_is_told_what_else_can_be_used(shop, build):
    release_id = build().release_id
    with (shop.settings.releases_dir / release_id / "checkpoint" / "weights.safetensors").open("ab") as file:
        file.write(b"x")

    with pytest.raises(InvalidRelease, match=r"weights\.safetensors.*akin index build --checkpoint .*zero-shot"):
        build_release(shop)

    assert build().is_active


def test_a_full_disk_leaves_nothing_and_says_so(shop, build, monkeypatch):
    first = build()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("embedding.artifact.os.fsync", full)
        with pytest.raises(ReleaseError, match=r"No space left.*nothing|nothing of it remains.*No space left"):
            build()

    assert release_folders(shop) == [first.release_id]
    assert active_id(shop) == first.release_id
    assert build().num_embedded == 0


def test_options_that_cannot_fit_are_refused_before_anything_is_embedded(shop, build):
    def embedded(*_):
        raise AssertionError("too late")

    with pytest.raises(InvalidSetting, match="nlist"):
        build(options=IndexOptions(structure="ivf", nlist=1000), on_progress=embedded)


def test_two_builds_at_once_are_refused(shop, build):
    with only_builder(shop.settings), pytest.raises(ServiceError, match="another process builds"):
        build()


def test_a_release_activated_meanwhile_is_not_overruled(shop, build):
    first, second = build(), build(activate=False)

    def activate_other(done, total):
        raise AssertionError("nothing is left to embed")

    with shop.database.reading() as session:
        seen = active_release(session)
    with shop.database.transaction() as session:
        activate_release(session, second.release_id)
    with pytest.raises(ActivationConflict, match="look and try again"), shop.database.transaction() as session:
        activate_release(session, first.release_id, expected=_as_if(seen, None))
    assert active_id(shop) == second.release_id
    build(on_progress=activate_other)


def _as_if(state, release_id):
    from dataclasses import replace

    return replace(state, release_id=release_id)


def test_activating_what_is_not_there(shop):
    with pytest.raises(ReleaseNotFound, match=r"'r9'.*akin release list"), shop.database.transaction() as session:
        activate_release(session, "r9")
    with pytest.raises(ReleaseNotFound, match="'r9'"):
        read_release_facts(shop.settings.releases_dir, "r9")


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "rows.arrow",
        "index/manifest.json",
        "index/embeddings.npy",
        "index/entries.arrow",
        "checkpoint/model.json",
        "checkpoint/weights.safetensors",
        "checkpoint/golden.safetensors",
    ],
)
def test_a_release_with_a_changed_byte_is_refused(shop, build, name):
    path = shop.settings.releases_dir / build().release_id / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)

    with pytest.raises(InvalidRelease, match="refused"):
        load(shop, path.relative_to(shop.settings.releases_dir).parts[0])


def test_embeddings_are_stored_as_they_were_computed(shop, build):
    release = load(shop, build().release_id)

    with shop.database.reading() as session:
        stored = {row.sha256: np.frombuffer(row.embedding, "<f4") for row in session.scalars(select(StoredEmbedding))}
    for row in range(6):
        digest = release.rows[row].media_name.partition(".")[0]
        score = release.index.search_products(stored[digest], 1)[0].score
        assert score == pytest.approx(1.0, abs=1e-6)


def test_a_search_in_a_release_is_safe_while_others_are_built(shop, build):
    """A release's files are never written again; what is loaded goes on answering."""
    release = load(shop, build().release_id)
    query = np.asarray(release.embedder.embed_pixels(np.zeros((1, 64, 64, 3), np.uint8)))[0]
    expected = release.index.search_products(query, 3)
    results = []
    thread = threading.Thread(target=lambda: results.append(build()))
    thread.start()
    while thread.is_alive():
        assert release.index.search_products(query, 3) == expected
    thread.join()

    assert len(results) == 1
