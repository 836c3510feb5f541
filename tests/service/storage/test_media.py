import hashlib

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from service.errors import InvalidSetting, StorageFull
from service.storage.errors import MediaError
from service.storage.media import MediaName, MediaStore

CONTENT = b"some bytes"
NAME = MediaName(hashlib.sha256(CONTENT).hexdigest(), "jpg")


@pytest.fixture(params=["folder", "url"])
def store(request, tmp_path):
    return MediaStore(str(tmp_path / "media") if request.param == "folder" else "memory://images")


def test_returns_the_stored_bytes(store):
    store.put(NAME, CONTENT)
    store.put(NAME, CONTENT)

    assert store.get(NAME) == CONTENT


@pytest.mark.parametrize(
    ("address", "has_loop", "num_readers"),
    [("media", False, 2), ("memory://images", False, 1), ("memory://images", True, 16)],
)
def test_several_threads_read_where_the_driver_allows_it(monkeypatch, address, has_loop, num_readers):
    """Drivers of object stores have an event loop, in which many requests run at once."""
    monkeypatch.setattr(MemoryFileSystem, "async_impl", has_loop)

    assert MediaStore(address).num_readers == num_readers


def test_a_missing_image_is_reported_with_the_remedy(store):
    missing = MediaName("0" * 64, "png")

    with pytest.raises(MediaError, match=f"{missing}.*import it again"):
        store.get(missing)


def test_a_changed_image_is_detected(tmp_path):
    store = MediaStore(str(tmp_path))
    store.put(NAME, CONTENT)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(b"other bytes")

    with pytest.raises(MediaError, match="was changed"):
        store.get(NAME)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (OSError(28, "No space left on device"), StorageFull, "the disk of the images is full"),
        (OSError(5, "Input/output error"), MediaError, "Input/output error"),
    ],
    ids=["full", "broken"],
)
def test_a_failed_write_leaves_no_files(tmp_path, monkeypatch, error, expected, message):
    store = MediaStore(str(tmp_path))
    monkeypatch.setattr("embedding.whole_files.os.fsync", lambda _: (_ for _ in ()).throw(error))

    with pytest.raises(expected, match=message):
        store.put(NAME, CONTENT)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b=c", "a#b", "a::b", "a@b:c", "K\u00e4se"])
def test_a_folder_may_have_any_name(tmp_path, name):
    store = MediaStore(str(tmp_path / name))

    store.put(NAME, CONTENT)

    assert store.get(NAME) == CONTENT
    assert (tmp_path / name / NAME.sha256[:2] / str(NAME)).read_bytes() == CONTENT


class _Refusing(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A store whose driver raises an error of its own, with the credentials in its text."""

    protocol = "refusing"

    def cat_file(self, path, *_, **__):
        raise RuntimeError(f"403 Forbidden: refusing://user:s3cret@host{path}?sig=t%2Fken (t/ken)")

    pipe_file = cat_file


def test_errors_of_a_store_contain_no_credentials():
    fsspec.register_implementation("refusing", _Refusing, clobber=True)
    store = MediaStore("refusing://user:s3cret@host/images?sig=t%2Fken")

    for call in (lambda: store.get(NAME), lambda: store.put(NAME, CONTENT)):
        with pytest.raises(MediaError, match="403 Forbidden") as failure:
            call()
        assert not any(secret in str(failure.value) for secret in ("s3cret", "t%2Fken", "t/ken"))
        assert failure.value.__cause__ is None
        assert failure.value.__suppress_context__


def test_an_unknown_protocol_is_an_invalid_setting():
    with pytest.raises(InvalidSetting, match="AKIN_MEDIA_URL"):
        MediaStore("gopher3://images")


@pytest.mark.parametrize(
    "text", ["", "x.jpg", f"{NAME.sha256}.exe", f"../{NAME}", f"{NAME}\n", NAME.sha256.upper() + ".jpg"]
)
def test_other_text_is_not_parsed_as_a_name(text):
    assert MediaName.parse(text) is None


def test_a_name_is_parsed_from_its_text_form():
    assert MediaName.parse(str(NAME)) == NAME
    assert NAME.media_type == "image/jpeg"
