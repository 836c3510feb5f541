"""A disk that becomes full under a real server and a real worker: reading goes on, and failed writes leave nothing.

The disk is full for these processes only: a preloaded library fails their writes (disk_faults.c).
"""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from service.installation.installation import open_installation
from service.installation.settings import Settings
from service.operations.kinds import BUILD
from service.operations.records import create_operation, get_operation
from tests.images import encode, scene
from tests.service.conftest import product_image, wait_for
from tests.service.fixtures.server_process import KEY, ROOT, serving

pytestmark = pytest.mark.long

IMAGE = encode(product_image("birch"))
BEARER = {"authorization": f"Bearer {KEY}"}
BOUNDARY = "border"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def files_below(folder):
    """Return the sizes of the files in a folder, without those of the database."""
    return {
        path.relative_to(folder): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("akin.db")
    }


def zip_of(images):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in images.items():
            archive.writestr(name, content)
    return packed.getvalue()


def form_of(name, content, filename, **texts):
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{texts[key]}\r\n' for key in texts]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


NEW_IMAGE = encode(scene(77))
CATALOGUE = zip_of({"dill/front.png": encode(scene(78)), "dill/side.png": encode(scene(79))})


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A file whose existence makes the disk full."""
    return tmp_path_factory.mktemp("disk") / "full"


@pytest.fixture(scope="module")
def server(served_home, disk_faults, full, tmp_path_factory):
    home = tmp_path_factory.mktemp("filling") / "home"
    shutil.copytree(served_home, home)
    faults = {"LD_PRELOAD": str(disk_faults), "DISK_FAULTS_BELOW": str(home), "DISK_FAULTS_FULL": str(full)}
    with serving(home, home.parent / "log", **faults) as process:
        yield process
    assert "Traceback" not in (home.parent / "log").read_text()


@pytest.fixture(autouse=True)
def _emptied_afterwards(full):
    yield
    full.unlink(missing_ok=True)


@pytest.fixture
def home(server):
    return server.log.parent / "home"


def relabelling(server):
    """Return the body of a request that writes only to the database."""
    image_id = server.get("/v1/admin/labels", **BEARER).json["labels"][0]["image_id"]
    return json.dumps({"labels": [{"image_id": image_id, "label": f"label-{os.urandom(4).hex()}"}]}).encode()


def writes(server):
    """Return requests that write, by what they write: path, body and content type."""
    return {
        "a job with a catalogue": ("/v1/admin/catalogue", CATALOGUE, "application/zip"),
        "a form": ("/v1/admin/labels", form_of("image", NEW_IMAGE, "a.png", product_id="birch"), FORM),
        "rows of the database": ("/v1/admin/labels", relabelling(server), "application/json"),
        "a job": ("/v1/admin/releases", b"{}", "application/json"),
        "a job with an archive": (
            "/v1/admin/retrain",
            form_of("archive", zip_of({"birch/new.png": NEW_IMAGE}), "a.zip"),
            FORM,
        ),
    }


def test_on_a_full_disk_reads_and_searches_succeed_and_writes_report_the_disk(server, home, full):
    asked = writes(server)
    before, counts = files_below(home), server.get("/v1/admin/labels/counts", **BEARER).json
    full.touch()

    told = {
        name: server.request(path, body, content_type=content_type, **BEARER).problem_code
        for name, (path, body, content_type) in asked.items()
    }
    search = server.request("/search", IMAGE, content_type="image/png")
    image = server.get(search.json["hits"][0]["image_url"])
    counts_meanwhile = server.get("/v1/admin/labels/counts", **BEARER)
    ready = server.get("/readyz")
    full.unlink()

    assert told == dict.fromkeys(asked, (507, "storage-full"))
    assert (search.status, image.status, ready.status) == (200, 200, 200)
    assert counts_meanwhile.json == counts
    assert files_below(home) == before
    assert "No space left on device" in json.dumps(server.events("storage_full"))
    # The same requests succeed once there is space.
    statuses = {
        name: server.request(path, body, content_type=content_type, **BEARER).status
        for name, (path, body, content_type) in asked.items()
    }
    assert statuses == {name: 202 if name.startswith("a job") else 200 for name in asked}


def test_an_upload_that_fills_the_disk_leaves_no_files(server, home, full):
    before = files_below(home)
    content = zip_of({"elder/front.png": encode(scene(80))}) + bytes(3 * 2**20)

    with server.connect() as line:
        line.send_head(
            "/v1/admin/catalogue", content_length=str(len(content)), content_type="application/zip", **BEARER
        )
        line.send(content[: 2 * 2**20])
        wait_for(lambda: any(path.suffix == ".zip" and size > 0 for path, size in files_below(home).items()))
        full.touch()
        line.send(content[2 * 2**20 :])
        answer = line.response()
    full.unlink()

    assert answer.problem_code == (507, "storage-full")
    assert files_below(home) == before
    assert str(home) not in answer.body.decode()


def test_an_operation_on_a_full_disk_fails_with_the_reason(served_home, disk_faults, full, tmp_path):
    """Only the disk of the releases is full, so that the reason can be stored in the database."""
    home = tmp_path / "home"
    shutil.copytree(served_home, home)
    before = files_below(home / "releases")
    with open_installation(Settings(home=home)) as installation:
        operation_id = create_operation(installation.database, BUILD, {}, actor="test")[0].id
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AKIN_")}
    environment |= {"LD_PRELOAD": str(disk_faults), "DISK_FAULTS_BELOW": f"{home}/releases"}
    environment |= {"DISK_FAULTS_FULL": str(full), "OMP_NUM_THREADS": "1"}
    full.touch()

    command = [sys.executable, "-m", "tests.service.fixtures.worker_process", str(home)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=120)
    full.unlink()

    assert done.returncode == 0, done.stderr.decode()[-3000:]
    with open_installation(Settings(home=home)) as installation, installation.database.reading() as session:
        operation = get_operation(session, operation_id)
    error = operation.error or {}
    assert (operation.state, error.get("code")) == ("failed", "storage-full"), error
    assert "No space left on device" in str(error["detail"])
    assert files_below(home / "releases") == before
