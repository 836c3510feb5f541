"""The wheel contains the whole product and nothing else."""

import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.architecture.test_contracts import PACKAGES
from tests.deploy.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files in a wheel. It is built from a copy, since a build leaves folders beside its sources."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for room in PACKAGES:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    # The call that pip makes with --no-build-isolation.
    program = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    (folder / "out").mkdir()
    subprocess.run([sys.executable, "-c", program, "out"], cwd=folder, check=True, capture_output=True)
    (path,) = (folder / "out").iterdir()
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_every_file_of_the_product_is_installed(wheel):
    """Migrations, templates, presets and static files are beside the code that reads them."""
    product = {
        path.relative_to(ROOT).as_posix()
        for room in PACKAGES
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert product - wheel == set()
    needed = {
        "service/storage/migrations/env.py",
        "service/web/pages/templates/index.html",
        "training/presets/head.toml",
    }
    assert needed <= product


def test_nothing_else_is_installed(wheel):
    assert {name.partition("/")[0] for name in wheel if ".dist-info/" not in name} == set(PACKAGES)
