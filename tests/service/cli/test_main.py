"""The command line: exit status, output and messages."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from dataclasses import dataclass

import httpx
import pytest

from service.cli.main import main
from service.web.server import listen
from tests.images import encode
from tests.service.conftest import product_image, wait_for, write_shop


@dataclass
class Done:
    """The output of a command."""

    stdout: str
    stderr: str


@pytest.fixture
def akin(akin_on_sqlite, monkeypatch, new_address):
    """Run a command in an empty folder with a home of its own."""
    monkeypatch.setenv("AKIN_DATABASE_URL", new_address())
    return akin_on_sqlite


@pytest.fixture
def akin_on_sqlite(tmp_path, monkeypatch, capsys):
    """The same with the database in the home folder, whatever --database says."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0, **environment):
        with monkeypatch.context() as context:
            for name, value in {"AKIN_HOME": "home", "COLUMNS": "200", **environment}.items():
                context.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert (ended.value.code or 0) == status, captured.err + captured.out
        return Done(captured.out, captured.err)

    return run


def test_from_images_to_a_search(akin, tmp_path):
    """Import, build, search, list, activate and remove, each once, as a new user would."""
    write_shop(tmp_path / "shop")
    (tmp_path / "photo.png").write_bytes(encode(product_image("cedar", 1)))

    dry = json.loads(akin("catalogue", "import", "shop", "--dry-run", "--json").stdout)
    imported = akin("catalogue", "import", "shop")
    again = json.loads(akin("catalogue", "import", "shop", "--json").stdout)
    built = json.loads(akin("index", "build", "--json").stdout)
    found = json.loads(akin("search", "photo.png", "-k", "2", "--json").stdout)
    table = akin("search", "photo.png").stdout
    akin("catalogue", "remove", "cedar")
    second = json.loads(akin("index", "build", "--no-activate", "--json").stdout)
    releases = json.loads(akin("release", "list", "--json").stdout)
    akin("release", "activate", second["release_id"])
    shown = json.loads(akin("release", "show").stdout)
    without = json.loads(akin("search", "photo.png", "--json").stdout)

    assert (dry["num_images_added"], again["num_unchanged"]) == (9, 9)
    assert "images added" in imported.stdout
    assert built["num_embedded"] == 6
    assert (len(found["hits"]), found["hits"][0]["product_id"]) == (2, "cedar")
    assert "cedar" in table
    assert [release["is_active"] for release in releases] == [False, True]
    assert second["release_id"] in akin("release", "list", COLUMNS="40").stdout
    assert shown["release_id"] == second["release_id"] == without["release_id"]
    assert {hit["product_id"] for hit in without["hits"]} == {"amber", "birch"}
    assert "2 products, 4 images of role catalogue" in akin("catalogue", "show").stdout


def test_invalid_rows_give_status_1_and_a_report(akin, tmp_path):
    (tmp_path / "good.png").write_bytes(encode(product_image("amber")))
    (tmp_path / "c.csv").write_text(
        "product_id,image,attributes\na,good.png,\n,good.png,\nb,none.png,\nc,good.png,[1]\n"
    )

    done = akin("catalogue", "import", "c.csv", status=1)

    for message in ("c.csv:3: the product_id is empty", "none.png' does not exist", "c.csv:5: the attributes must be"):
        assert message in done.stderr
    (report,) = (tmp_path / "home" / "reports").iterdir()
    assert len(json.loads(report.read_text())["errors"]) == 3
    assert str(report.name) in done.stderr
    assert "1 products" in akin("catalogue", "show").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["catalogue", "import", "nowhere"], "nowhere does not exist"),
        (["index", "build"], "akin catalogue import PATH"),
        (["index", "build", "--structure", "tree"], "structure"),
        (["search", "nowhere.jpg"], "nowhere.jpg cannot be read"),
        (["release", "show"], "akin index build"),
        (["release", "show", "r9"], "there is no release 'r9'"),
        (["release", "activate", "r9"], "there is no release 'r9'"),
        (["catalogue", "remove", "zebra"], "no product 'zebra'"),
        (["checkpoint", "show", "nowhere"], "akin-checkpoint/1 directory: it has no model.json"),
        (["checkpoint", "create", "out", "--backbone", "resnet51"], "unknown backbone 'resnet51'"),
        (["checkpoint", "create", "out", "--pooling", "max"], "pooling must be"),
        (["demo"], "is not a folder"),
    ],
)
def test_an_error_is_one_line_with_the_remedy(akin, arguments, message):
    done = akin(*arguments, status=1, AKIN_DEMO_DATA="nothing-here", AKIN_PORT="0")

    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_rejects_a_search_with_a_file_that_is_not_an_image(akin, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")

    assert "not an image in a supported format" in akin("search", "text.jpg", status=1).stderr


def test_names_invalid_settings(akin):
    assert "AKIN_PORT=99999" in akin("serve", status=1, AKIN_PORT="99999").stderr
    assert "AKIN_HOEM is set, but" in akin("catalogue", "show", AKIN_HOEM="x").stderr
    assert "AKIN_HOME=/proc/x" in akin("catalogue", "show", status=1, AKIN_HOME="/proc/x").stderr
    assert "finds 0 CUDA devices" in akin("serve", "--port", "0", status=1, AKIN_DEVICE="cuda:7").stderr
    assert "AKIN_DEVICE" in akin("doctor", status=1, AKIN_DEVICE="tpu").stdout


def test_names_a_port_in_use_and_the_remedy(akin):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        for command in ("serve", "demo"):
            done = akin(command, "--port", port, status=1)
            assert f"port {port} of 127.0.0.1 is in use; choose another with --port" in done.stderr


def test_prints_the_version_and_help(akin):
    assert akin("--version").stdout == "akin 0.1.0\n"
    for group in ("catalogue", "checkpoint", "index", "release"):
        assert group in akin("--help").stdout
        akin(group, "--help")


def test_the_doctor_accepts_a_new_machine_and_writes_nothing(akin_on_sqlite, tmp_path):
    findings = {finding["name"]: finding for finding in json.loads(akin_on_sqlite("doctor", "--json").stdout)}

    assert findings["home (AKIN_HOME)"]["detail"].startswith(str(tmp_path / "home"))
    assert findings["weights"]["status"] == findings["faiss"]["status"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_finds_a_damaged_release(akin, tmp_path):
    write_shop(tmp_path / "shop")
    akin("catalogue", "import", "shop")
    release_id = json.loads(akin("index", "build", "--json").stdout)["release_id"]
    assert "every byte verified" in akin("doctor").stdout
    with (tmp_path / "home" / "releases" / release_id / "rows.arrow").open("r+b") as file:
        file.write(b"X")

    damaged = akin("doctor", status=1)

    assert "rows.arrow" in damaged.stdout
    assert "akin index build" in damaged.stdout


def test_a_newer_database_is_a_one_line_error_of_every_command(akin_on_sqlite, tmp_path):
    akin_on_sqlite("catalogue", "show")
    with sqlite3.connect(tmp_path / "home" / "akin.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()

    for command in (["serve", "--port", "0"], ["demo", "--port", "0"], ["catalogue", "show"], ["index", "build"]):
        done = akin_on_sqlite(*command, status=1)
        assert done.stderr.startswith("error: the database has revision '9999'")
        assert len(done.stderr.splitlines()) == 1


def test_a_dry_run_creates_no_home(akin_on_sqlite, tmp_path):
    write_shop(tmp_path / "shop")

    akin_on_sqlite("catalogue", "import", "shop", "--dry-run")

    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_an_import_into_the_home_of_the_demo_prints_a_warning(akin, tmp_path):
    write_shop(tmp_path / "shop")
    akin("catalogue", "show")
    (tmp_path / "home" / "demo.json").write_text("{}")

    assert "holds the demo's catalogue" in akin("catalogue", "import", "shop").stderr


@pytest.mark.long
def test_a_server_starts_responds_and_stops(tmp_path):
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", str(port)]
    environment = {**os.environ, "AKIN_HOME": str(tmp_path / "home")}

    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: _is_listening(port), seconds=60)
        response = httpx.get(f"http://127.0.0.1:{port}/readyz")
        process.send_signal(signal.SIGTERM)
        log = process.stderr.read() if process.stderr else ""
        status = process.wait(60)

    assert response.status_code == 503
    assert status == 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    (request,) = (line for line in lines if line.get("event") == "request" and line["path"] == "/readyz")
    assert (request["status"], request["request_id"]) == (503, response.headers["x-request-id"])


def _is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.one_database
def test_creates_a_checkpoint_with_principal_components(akin, tmp_path):
    write_shop(tmp_path / "shop")

    done = akin("checkpoint", "create", "small", "--principal-components", "shop", "--embedding-dim", "5")

    facts = json.loads(akin("checkpoint", "show", "small").stdout)
    assert (facts["architecture"]["head"], facts["architecture"]["embedding_dim"]) == ("linear", 5)
    assert "dimension 5" in done.stdout
    akin("catalogue", "import", "shop")
    assert json.loads(akin("index", "build", "--checkpoint", "small", "--json").stdout)["num_embedded"] == 6
    refused = akin("checkpoint", "create", "x", "--principal-components", "shop", "--embedding-dim", "64", status=1)
    assert "64 principal components need as many images" in refused.stderr
