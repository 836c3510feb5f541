import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select

from embedding.bulk import embed_images
from embedding.runtimes.options import NetworkOptions
from index.errors import LowRecall
from index.structures import IndexOptions
from service.catalogue.editing import remove_products
from service.catalogue.errors import EmptyCatalogue
from service.catalogue.records import read_catalogue
from service.errors import InvalidSetting, ServiceError
from service.installation.installation import open_installation
from service.releases.build import build_release, only_builder
from service.releases.errors import ActivationConflict, InvalidRelease, ReleaseError, ReleaseNotFound
from service.releases.files import load_release, verify_release, write_release
from service.releases.records import activate_release, active_release, select_releases
from service.storage.errors import MediaError
from service.storage.tables.embeddings import StoredEmbedding


@pytest.fixture
def shop(copied_shop):
    """An installation whose catalogue holds the three products, without a release."""
    return copied_shop(0)[0]


@pytest.fixture
def build(shop, tiny_checkpoint):
    """Build a release of the shop with the tiny model."""

    def build(**options):
        return build_release(shop, **{"checkpoint": tiny_checkpoint, **options})

    return build


def load(installation, release_id):
    return load_release(installation.settings.releases_dir, release_id, NetworkOptions("cpu"), index_device="cpu")


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


def test_the_manifest_describes_the_release(shop, build):
    built = build()

    facts = verify_release(shop.settings.releases_dir, built.release_id)
    manifest = json.loads((shop.settings.releases_dir / built.release_id / "manifest.json").read_text())
    assert facts["release_id"] == built.release_id
    assert facts["evaluation"] is None
    assert facts["watermark"] == 12
    assert facts["index"]["structure"]["name"] == "exact"
    assert facts["index"]["ann_recall"]["value"] == 1.0
    assert set(manifest["files"]) >= {"rows.arrow", "checkpoint/model.json", "checkpoint/weights.safetensors"}


def test_stored_embeddings_are_reused(shop, build):
    build()
    with shop.database.transaction() as session:
        remove_products(session, ["amber"])

    again = build()

    assert (again.num_embedded, again.num_images) == (0, 4)
    assert len(release_folders(shop)) == 2


def test_an_interrupted_build_resumes_embedding(shop, build, monkeypatch):
    def in_pairs(names, read, embedder, options):
        return embed_images(names, read, embedder, replace(options, batch_size=2))

    def stop(done, total, stages):
        if done == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("service.embeddings.stored.embed_images", in_pairs)
    with pytest.raises(KeyboardInterrupt):
        build(on_progress=stop)
    assert active_id(shop) is None
    assert release_folders(shop) == []

    assert build().num_embedded == 2


def test_progress_has_the_work_of_each_stage(build):
    seen = []

    build(on_progress=lambda done, total, stages: seen.append((done, total, stages)))

    [(done, total, stages)] = seen
    assert (done, total) == (6, 6)
    assert [stages[stage].num_images for stage in ("read", "decode", "network")] == [6, 6, 6]


def test_images_that_cannot_be_read_are_named_after_all_others_are_embedded(shop, build):
    with shop.database.reading() as session:
        first, second, *others = sorted(str(image.media_name) for image in read_catalogue(session).images)
    for name in (first, second):
        (shop.settings.home / "media" / name[:2] / name).unlink()

    with pytest.raises(MediaError, match=r"^2 of 6 images cannot be embedded; the first: image \w{64}\.\w+ is not"):
        build()

    with shop.database.reading() as session:
        assert len(session.scalars(select(StoredEmbedding.sha256)).all()) == len(others) == 4


def test_a_release_can_be_built_without_activation(shop, build):
    first = build()

    second = build(activate=False)

    assert active_id(shop) == first.release_id
    with shop.database.transaction() as session:
        assert activate_release(session, second.release_id)
        assert not activate_release(session, second.release_id)
        assert active_release(session).previous_release_id == first.release_id


def test_the_model_of_the_active_release_is_the_default(shop, build):
    space = verify_release(shop.settings.releases_dir, build().release_id)["space_id"]

    again = build_release(shop)

    assert again.num_embedded == 0
    assert verify_release(shop.settings.releases_dir, again.release_id)["space_id"] == space


def test_the_first_release_uses_the_untrained_model_by_default(shop):
    built = build_release(shop)

    facts = verify_release(shop.settings.releases_dir, built.release_id)
    assert facts["architecture"] == {
        "backbone": "efficientnet_lite0",
        "pooling": "average",
        "head": "none",
        "embedding_dim": 1280,
    }


def test_an_image_of_two_products_is_embedded_once(installation, tiny_checkpoint, tmp_path):
    from service.catalogue.importing import import_catalogue
    from service.catalogue.sources import ImportSource, SourceRow
    from tests.images import png

    (tmp_path / "a.png").write_bytes(png("red"))
    rows = [SourceRow("1", "a", tmp_path / "a.png"), SourceRow("2", "b", tmp_path / "a.png")]
    import_catalogue(ImportSource("rows", rows, len(rows)), installation.database, installation.media_store)

    built = build_release(installation, checkpoint=tiny_checkpoint)

    assert (built.num_images, built.num_embedded) == (2, 1)


def test_an_empty_catalogue_is_refused_with_the_remedy(installation):
    with pytest.raises(EmptyCatalogue, match="akin catalogue import"):
        build_release(installation)


def test_an_image_missing_from_the_store_fails_the_build(shop, build):
    with shop.database.reading() as session:
        name = read_catalogue(session).images[2].media_name
    (shop.settings.home / "media" / name.sha256[:2] / str(name)).unlink()

    with pytest.raises(MediaError, match=r"1 of 6 images.*import it again"):
        build()

    assert release_folders(shop) == []
    with shop.database.reading() as session:
        assert len(session.scalars(select(StoredEmbedding)).all()) == 5
        assert select_releases(session) == []


def test_an_index_below_the_recall_threshold_fails_the_build(shop, build, monkeypatch):
    def fail(*_, **__):
        raise LowRecall("ann_recall 0.5 is below 0.95")

    monkeypatch.setattr("service.releases.files.build_index", fail)

    with pytest.raises(LowRecall):
        build(options=IndexOptions())

    assert release_folders(shop) == []
    assert active_id(shop) is None


def test_drafts_of_a_killed_build_are_removed_and_other_directories_kept(shop, build):
    first = build()
    (shop.settings.releases_dir / ".staging-x").mkdir()
    (shop.settings.releases_dir / "notes-of-mine").mkdir()

    second = build()

    assert release_folders(shop) == sorted(["notes-of-mine", first.release_id, second.release_id])


def test_the_next_build_records_a_release_that_is_only_on_disk(shop, build, monkeypatch):
    """After a kill or the loss of the database, the release can still be activated."""

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr("service.releases.build.record_release", killed)
        with pytest.raises(KeyboardInterrupt):
            build()
    (orphan,) = release_folders(shop)

    second = build()

    with shop.database.transaction() as session:
        assert {release.id for release in select_releases(session)} == {orphan, second.release_id}
        assert activate_release(session, orphan)


def test_a_build_with_another_database_deletes_no_release(shop, build, tmp_path):
    first = build()
    other = shop.settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/other.db"})

    with open_installation(other) as installation, pytest.raises(EmptyCatalogue):
        build_release(installation)

    assert release_folders(shop) == [first.release_id]


def test_a_damaged_active_model_is_reported_with_an_alternative(shop, build):
    release_id = build().release_id
    with (shop.settings.releases_dir / release_id / "checkpoint" / "weights.safetensors").open("ab") as file:
        file.write(b"x")

    with pytest.raises(InvalidRelease, match=r"weights\.safetensors.*akin index build --checkpoint .*zero-shot"):
        build_release(shop)

    assert build().is_active


def test_a_full_disk_leaves_nothing_of_the_release(shop, build, monkeypatch):
    first = build()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr("embedding.artifact.os.fsync", full)
        with pytest.raises(ReleaseError, match=r"nothing of it remains.*No space left"):
            build()

    assert release_folders(shop) == [first.release_id]
    assert active_id(shop) == first.release_id
    assert build().num_embedded == 0


def test_unsuitable_index_options_are_refused_before_embedding(shop, build):
    def fail(*_):
        raise AssertionError("an image was embedded")

    with pytest.raises(InvalidSetting, match="nlist"):
        build(options=IndexOptions(structure="ivf", nlist=1000), on_progress=fail)


def test_a_second_build_at_the_same_time_is_refused(shop, build):
    with only_builder(shop.settings), pytest.raises(ServiceError, match="another process is writing"):
        build()


def test_an_activation_during_the_build_is_not_overwritten(shop, build, monkeypatch):
    build()
    other = build(activate=False)

    def write_then_activate_other(*arguments, **options):
        with shop.database.transaction() as session:
            activate_release(session, other.release_id)
        return write_release(*arguments, **options)

    monkeypatch.setattr("service.releases.build.write_release", write_then_activate_other)
    with pytest.raises(ActivationConflict, match="check the active release and try again"):
        build()

    assert active_id(shop) == other.release_id


def test_activating_an_unknown_release_is_refused(shop):
    with pytest.raises(ReleaseNotFound, match=r"'r9'.*akin release list"), shop.database.transaction() as session:
        activate_release(session, "r9")
    with pytest.raises(ReleaseNotFound, match="'r9'"):
        verify_release(shop.settings.releases_dir, "r9")


def test_the_index_holds_the_stored_embeddings(shop, build):
    release = load(shop, build().release_id)

    with shop.database.reading() as session:
        stored = {row.sha256: np.frombuffer(row.embedding, "<f4") for row in session.scalars(select(StoredEmbedding))}
    for row in range(6):
        digest = release.rows[row].media_name.partition(".")[0]
        score = release.index.search_products(stored[digest], 1)[0].score
        assert score == pytest.approx(1.0, abs=1e-6)


def test_a_loaded_release_answers_while_another_is_built(shop, build):
    """The files of a release are immutable."""
    release = load(shop, build().release_id)
    query = np.asarray(release.embedder.embed_pixels(np.zeros((1, 32, 32, 3), np.uint8)))[0]
    expected = release.index.search_products(query, 3)
    results = []
    thread = threading.Thread(target=lambda: results.append(build()))
    thread.start()
    while thread.is_alive():
        assert release.index.search_products(query, 3) == expected
    thread.join()

    assert len(results) == 1
