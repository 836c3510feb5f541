"""Applications with an admin key over the shop of three products, and what their tests send and read."""

import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.catalogue.importing import import_catalogue
from service.catalogue.sources import read_import_source
from service.installation.installation import Installation, open_installation
from service.installation.settings import Settings
from service.web.app import create_app
from tests.service.conftest import write_shop

KEY = "test-key-0123456789abcdef"


@pytest.fixture
def admin_settings(tmp_path: Path, new_address: Callable[[], str]) -> Settings:
    """Settings with small limits and a key."""
    return _settings(tmp_path, new_address())


@pytest.fixture
def stocked(admin_settings: Settings, tmp_path: Path) -> Iterator[Installation]:
    """The shop of three products, as an installation that the application shares."""
    with _stocked(admin_settings, tmp_path) as opened:
        yield opened


@pytest.fixture
def admin(stocked: Installation) -> Iterator[TestClient]:
    """A client with the admin key."""
    with _client(stocked.settings) as opened:
        yield opened


@pytest.fixture(scope="package")
def kept(tmp_path_factory: pytest.TempPathFactory, new_address: Callable[[], str]) -> Iterator[Installation]:
    """The same shop for tests that change nothing, so that it need not be made for each."""
    root = tmp_path_factory.mktemp("kept")
    with _stocked(_settings(root, new_address()), root) as opened:
        yield opened


@pytest.fixture(scope="package")
def asking(kept: Installation) -> Iterator[TestClient]:
    """A client with the admin key, for requests that change nothing."""
    with _client(kept.settings) as opened:
        yield opened


def packed(files, compression=zipfile.ZIP_STORED) -> bytes:
    """Return the bytes of an archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def problem(response) -> tuple[int, str, str]:
    """Return status, code and detail of an answer that is a problem document."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    return response.status_code, response.json()["code"], response.json()["detail"]


def _settings(root: Path, database_url: str) -> Settings:
    return Settings(
        home=root / "home",
        database_url=database_url,
        release_poll_seconds=0.05,
        admin_key=SecretStr(KEY),
        max_upload_bytes=200_000,
        max_image_bytes=150_000,
    )


@contextmanager
def _stocked(settings: Settings, root: Path) -> Iterator[Installation]:
    with open_installation(settings) as opened:
        import_catalogue(read_import_source(write_shop(root / "shop")), opened.database, opened.media_store)
        yield opened


@contextmanager
def _client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as opened:
        opened.headers["Authorization"] = f"Bearer {KEY}"
        yield opened
    # Whatever a request sent is gone when it is answered.
    uploads = settings.home / "uploads"
    assert not uploads.exists() or list(uploads.iterdir()) == []
