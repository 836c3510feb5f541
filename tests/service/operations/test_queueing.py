"""What HTTP and the command line call to request an operation."""

import zipfile

import pytest

from service.catalogue.errors import InvalidArchive
from service.operations.errors import IdempotencyKeyReused, OperationActive
from service.operations.folder import ARCHIVE, UPLOAD
from service.operations.queueing import request_build, request_import, request_retrain
from service.operations.requests import parse_build, parse_import, parse_retrain
from tests.images import encode, scene


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "labels.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("amber/1.png", encode(scene(1)))
    return path


@pytest.mark.parametrize("may_move", [False, True])
def test_a_retrain_keeps_the_archive(installation, archive, may_move):
    content = archive.read_bytes()

    queued = request_retrain(installation, parse_retrain({}), archive, actor="ann", may_move_archive=may_move)

    assert (installation.settings.operations_dir / queued.id / ARCHIVE).read_bytes() == content
    assert archive.exists() is not may_move
    assert queued.created_by == "ann"


def test_a_refused_retrain_keeps_nothing(installation, archive):
    first = request_retrain(installation, parse_retrain({}), archive, actor="ann")

    with pytest.raises(OperationActive):
        request_retrain(installation, parse_retrain({}), archive, actor="ann")

    assert [folder.name for folder in installation.settings.operations_dir.iterdir()] == [first.id]


def test_the_same_archive_with_the_same_key_is_the_same_request(installation, archive, tmp_path):
    first = request_retrain(installation, parse_retrain({}), archive, actor="ann", idempotency_key="k")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as file:
        file.writestr("birch/1.png", encode(scene(2)))

    again = request_retrain(installation, parse_retrain({}), archive, actor="ann", idempotency_key="k")
    with pytest.raises(IdempotencyKeyReused):
        request_retrain(installation, parse_retrain({}), other, actor="ann", idempotency_key="k")

    assert again.id == first.id
    assert [folder.name for folder in installation.settings.operations_dir.iterdir()] == [first.id]


def test_an_archive_must_be_a_zip_file(installation, tmp_path):
    (tmp_path / "text.zip").write_bytes(b"no zip")

    for path in (tmp_path, tmp_path / "text.zip"):
        with pytest.raises(InvalidArchive):
            request_retrain(installation, parse_retrain({}), path, actor="ann")
    assert not installation.settings.operations_dir.exists()


def test_a_build_is_queued_beside_a_retrain(installation):
    request_retrain(installation, parse_retrain({}), actor="ann")

    assert request_build(installation, parse_build({"note": "n"}), actor="ann").request["note"] == "n"


@pytest.mark.parametrize("may_move", [False, True])
def test_an_import_keeps_the_upload_under_the_name_of_its_kind(installation, tmp_path, may_move):
    table = tmp_path / "rows.csv"
    table.write_text("image_id,label\na,b\n")

    queued = request_import(
        installation, parse_import({"kind": "labels"}), table, actor="ann", may_move_upload=may_move
    )

    assert (queued.kind, queued.request["file"]) == ("labels", "labels.csv")
    kept = installation.settings.operations_dir / queued.id / UPLOAD / "labels.csv"
    assert kept.read_text() == "image_id,label\na,b\n"
    assert table.exists() is not may_move


def test_an_archive_to_import_is_checked_before_it_is_queued(installation, tmp_path):
    (tmp_path / "text.zip").write_bytes(b"no zip")

    with pytest.raises(InvalidArchive):
        request_import(installation, parse_import({}), tmp_path / "text.zip", actor="ann")
    assert not installation.settings.operations_dir.exists()
