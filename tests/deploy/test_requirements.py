"""The lock files: complete, exact, hashed, and bound to no package index."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.conftest import ROOT

FOLDER = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = {"cpu": ["cpu", "offline"], "gpu": ["gpu", "offline"], "dev": ["cpu", "dev", "offline", "timm"]}
NAMES = ["torch", "build", *EXTRAS]
TORCH = {"torch", "torchvision"}


def locked(name):
    """Return each requirement of a lock file with its number of hashes."""
    text = (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(line.split("--hash")[0]), line.count(" --hash=sha256:")) for line in lines]


def versions(name):
    """Return the locked versions of each package; Pythons and platforms may have versions of their own."""
    found: dict[str, set[str]] = {}
    for requirement, _ in locked(name):
        (specifier,) = requirement.specifier
        found.setdefault(canonicalize_name(requirement.name), set()).add(specifier.version)
    return found


def declared(*extras):
    """Return what pyproject.toml requires, except for its own extras."""
    project = PROJECT["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != project["name"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_has_an_exact_version_and_hashes(name):
    for requirement, num_hashes in locked(name):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert num_hashes > 0, requirement


@pytest.mark.parametrize("name", NAMES)
def test_no_lock_file_names_a_package_index(name):
    text = (FOLDER / f"{name}.txt").read_text()

    assert "://" not in text
    assert not re.search(r"^\s*--?(i|f|index|extra-index|find-links|trusted-host)\b", text, re.MULTILINE)


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_file_contains_what_the_project_requires(name):
    """`make lock` was run after the last change of pyproject.toml."""
    found = versions(name) | versions("torch")

    for requirement in declared(*EXTRAS[name]):
        package = canonicalize_name(requirement.name)
        assert package in found, f"{package} is not in requirements/{name}.txt; run make lock"
        assert all(requirement.specifier.contains(version) for version in found[package]), requirement


def test_the_lock_file_of_the_build_backend_is_what_the_project_requires():
    (requirement,) = map(Requirement, PROJECT["build-system"]["requires"])

    assert all(requirement.specifier.contains(version) for version in versions("build")[requirement.name])


@pytest.mark.parametrize("name", EXTRAS)
def test_torch_is_locked_in_a_file_of_its_own(name):
    """CPU builds, which have other hashes, can replace that file."""
    assert versions("torch").keys() >= TORCH
    assert versions("torch").keys() & versions(name).keys() == set()


def test_all_lock_files_agree_on_versions():
    reference = versions("dev")

    for name in ("cpu", "gpu", "build"):
        shared = versions(name).keys() & reference.keys()
        assert {package: versions(name)[package] for package in shared} == {
            package: reference[package] for package in shared
        }
