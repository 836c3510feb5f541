"""The shipped files: their variables, the documentation of these, and files that an operator adds."""

import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from benchmarks.gateway import DEPLOY, ask, find_program, free_port, gateway_before, render, upstream_file
from tests.gateway.conftest import PREFIX
from tests.gateway.raw_http import BrokenServer

TEMPLATE = (DEPLOY / "nginx.conf.template").read_text()
DEFAULTS = dict(re.findall(r"^#: (\w+)=(\S*)", TEMPLATE, re.MULTILINE))
PAGE = (DEPLOY.parents[1] / "docs" / "gateway.md").read_text()
# The first version whose open-source edition resolves the servers of a group at run time.
RESOLVES_FROM = (1, 27, 3)


def nginx_version() -> tuple[int, ...]:
    said = subprocess.run([str(find_program("nginx")), "-v"], capture_output=True, text=True, check=True).stderr
    return tuple(int(part) for part in re.findall(r"nginx/([\d.]+)", said)[0].split("."))


def test_every_variable_is_used_and_has_a_default():
    used = set(re.findall(r"\$\{(\w+)\}", TEMPLATE))

    assert used == set(DEFAULTS)
    assert "${" not in render({})


def test_plain_envsubst_gives_the_same_result():
    names = " ".join(f"${name}" for name in DEFAULTS)
    values = {**DEFAULTS, "AKIN_ROOT_PATH": PREFIX}
    command = [str(find_program("envsubst")), names]

    plain = subprocess.run(command, input=TEMPLATE, env=values, capture_output=True, text=True, check=True).stdout

    assert plain == render({"AKIN_ROOT_PATH": PREFIX, "GATEWAY_SEARCH_BYTES": ""})


def test_the_page_lists_every_variable_with_its_default():
    listed = dict(re.findall(r"^\| `((?:GATEWAY|AKIN)_\w+)` \| `?(\S+?)`? \|", PAGE, re.MULTILINE))

    assert listed == {name: default or "empty" for name, default in DEFAULTS.items()}


def test_the_shipped_upstream_file_is_accepted(tmp_path):
    if (version := nginx_version()) < RESOLVES_FROM:
        pytest.skip(f"the shipped file needs nginx 1.27.3, this is {'.'.join(map(str, version))}")
    shutil.copy(DEPLOY / "upstream.conf", tmp_path)
    (tmp_path / "nginx.conf").write_text(render({"GATEWAY_CONF": str(tmp_path), "GATEWAY_TMP": str(tmp_path)}))

    subprocess.run([str(find_program("nginx")), "-e", "stderr", "-t", "-c", str(tmp_path / "nginx.conf")], check=True)


def documented(word: str) -> str:
    """Return the configuration block on the page that contains a word."""
    (found,) = [block for block in re.findall(r"```nginx\n(.*?)```", PAGE, re.DOTALL) if word in block]
    return str(found)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and a self-signed certificate for 127.0.0.1."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which creates the certificate, is not installed")
    key, chain = tmp_path / "privkey.pem", tmp_path / "fullchain.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *subject, "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)
    return key, chain


def test_tls_as_documented_reaches_the_servers_as_https(certificate):
    key, chain = certificate
    port = free_port()
    server = documented("ssl_certificate").replace("listen 8443 ssl", f"listen 127.0.0.1:{port} ssl")
    # Relative paths, which nginx resolves beside its configuration: its user here cannot enter the folders of pytest.
    files = {
        "server.d/tls.conf": server.replace("/etc/akin/tls", "tls"),
        "tls/privkey.pem": key.read_text(),
        "tls/fullchain.pem": chain.read_text(),
    }

    with BrokenServer() as behind, gateway_before(upstream_file([behind.port]), files, AKIN_ROOT_PATH=PREFIX):
        answer = ask(
            "GET", f"https://127.0.0.1:{port}{PREFIX}/v1/admin/keys", verify=ssl.create_default_context(cafile=chain)
        )

    assert answer.status_code == 502
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert b"\r\nX-Forwarded-Proto: https\r\n" in behind.requests[0]
