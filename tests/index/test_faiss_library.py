import ctypes
import sys
import types

import pytest

from index.errors import MissingFaiss
from index.faiss_library import faiss_build, load_faiss


@pytest.fixture(autouse=True)
def _not_cached():
    load_faiss.cache_clear()
    yield
    load_faiss.cache_clear()


def install(directory, monkeypatch, package):
    """Write the metadata of an installed package."""
    metadata = directory / f"{package.replace('-', '_')}-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(directory)


def test_returns_the_installed_build():
    import faiss

    assert load_faiss() is faiss
    assert faiss_build().version == faiss.__version__
    assert faiss_build().kind == ("gpu" if hasattr(faiss, "StandardGpuResources") else "cpu")


def test_missing_faiss_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)

    with pytest.raises(MissingFaiss, match=r"not installed; run: pip install 'akin\[cpu\]' \(or 'akin\[gpu\]'"):
        load_faiss()


def test_two_installed_faiss_packages_are_refused(monkeypatch, tmp_path):
    install(tmp_path, monkeypatch, "faiss-cpu")
    install(tmp_path, monkeypatch, "faiss-gpu")

    with pytest.raises(MissingFaiss, match="pip uninstall faiss-cpu faiss-gpu"):
        load_faiss()


def test_a_faiss_that_does_not_load_is_reported(monkeypatch, tmp_path):
    (tmp_path / "faiss.py").write_text("raise ImportError('libcublas.so.12: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(MissingFaiss, match=r"does not load \(libcublas\.so\.12"):
        load_faiss()


class Driver:
    """A CUDA driver whose cuInit returns a status."""

    def __init__(self, status):
        self.cuInit = lambda _: status


@pytest.mark.parametrize(("status", "num_gpus"), [(None, 0), (100, 0), (0, 2)])
def test_gpus_are_counted_only_with_a_driver(monkeypatch, status, num_gpus):
    """faiss-gpu aborts the process when it counts GPUs without a driver."""

    def load_driver(name):
        if status is None:
            raise OSError(f"{name}: cannot open shared object file")
        return Driver(status)

    gpu_faiss = types.ModuleType("faiss")
    vars(gpu_faiss).update(__version__="1.14.0", StandardGpuResources=object, get_num_gpus=lambda: 2)
    monkeypatch.setitem(sys.modules, "faiss", gpu_faiss)
    monkeypatch.setattr(ctypes, "CDLL", load_driver)

    build = faiss_build()

    assert (build.version, build.kind, build.num_gpus) == ("1.14.0", "gpu", num_gpus)
