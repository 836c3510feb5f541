import sqlite3
from contextlib import closing

import pytest
from sqlalchemy import make_url

from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.storage.address import shown_media_address, sqlite_address, without_credentials
from service.worker.job_engine import migrate_jobs

ODD_NAMES = ["a b", "a%20b", "a?mode=memory", "a#b", "a::b", "a@b:c", "K\u00e4se", "100%", "a&b=c"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_address_of_a_file_names_that_file(tmp_path, name):
    path = tmp_path / name / "akin.db"

    url = make_url(sqlite_address(path))

    assert (url.database, dict(url.query)) == (str(path), {})


@pytest.mark.parametrize("name", ["a?mode=memory&b#c", "100%25 a::b@c"])
def test_all_state_is_below_the_home_folder_whatever_its_name(tmp_path, monkeypatch, name):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = Settings(home=tmp_path / name, device="cpu")

    with open_installation(settings):
        migrate_jobs(settings)

    for file in ("akin.db", "jobs.db"):
        with closing(sqlite3.connect(tmp_path / name / file)) as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["elsewhere", name])
    assert not list((tmp_path / "elsewhere").iterdir())
    assert settings.database_address_shown == f"sqlite:///{tmp_path / name / 'akin.db'}"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("/srv/images", "/srv/images"),
        ("/srv/a::b@c", "/srv/a::b@c"),
        ("s3://bucket/images", "s3://bucket/images"),
        ("s3://key:s3cret@bucket/images", "s3://***@bucket/images"),
        ("s3://bucket/image@v1", "s3://bucket/image@v1"),
        ("https://s3cret@host/x", "https://***@host/x"),
        ("ftp://user:s3/cret@host/x", "ftp://***@host/x"),
        ("abfs://box@account/x?sig=s3cret&sv=s3cret", "abfs://***@account/x?sig=***&sv=***"),
        ("https://host/x?s3cret", "https://host/x?***"),
        ("simplecache::https://user:s3cret@host/x", "simplecache::https://***@host/x"),
        ("zip://a::ftp://user:s3cret@host/x.zip", "zip://a::ftp://***@host/x.zip"),
    ],
)
def test_credentials_of_the_image_store_are_not_shown(address, shown):
    settings = Settings(media_url=address)

    assert shown_media_address(address) == shown
    assert "s3cret" not in shown + repr(settings)


def test_credentials_are_removed_from_messages():
    address = "simplecache::s3://key:s%2Fcret@bucket/x?token=t0ken"

    text = without_credentials("403 for s/cret at s3://key:s%2Fcret@bucket/x?token=t0ken", address)

    assert not any(secret in text for secret in ("s/cret", "s%2Fcret", "t0ken"))
    assert "403 for" in text
