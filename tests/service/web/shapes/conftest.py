"""One server for all shapes of requests."""

import json

import pytest
from pydantic import SecretStr

from service.installation.settings import Settings
from service.web.app import create_app
from service.web.server import listen, running
from tests.service.conftest import wait_for
from tests.service.fixtures.server_process import KEY
from tests.service.web.shapes.requests import FOUND, MAX_IMAGE_BYTES, ORIGIN, TEXT, as_json, outcome


@pytest.fixture(scope="package")
def app(served_home):
    settings = Settings(
        home=served_home,
        admin_key=SecretStr(KEY),
        max_image_bytes=MAX_IMAGE_BYTES,
        cors_origins=ORIGIN,
        max_searches=2,
        decode_workers=1,
        search_workers=1,
    )
    with listen("127.0.0.1", 0) as listener:
        created = create_app(settings)
        with running(created, listener):
            wait_for(lambda: created.state.akin.live.release_id)
            created.state.port = listener.getsockname()[1]
            # Starts the threads of the pools.
            assert outcome(created.state.port, *as_json(json.dumps({"image": TEXT}).encode())) == FOUND
            yield created


@pytest.fixture(scope="package")
def port(app):
    return app.state.port
