"""Rules of the layout that import-linter cannot express: see docs/architecture.md."""

import ast
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.storage.database import open_database

ROOT = Path(__file__).parents[2]
PACKAGES = ("embedding", "index", "training", "service")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
# Rooms that read or write tables. All other rooms pass a session on, or have none.
SQL_ROOMS = {
    "access",
    "catalogue",
    "embeddings",
    "evaluations",
    "installation",
    "labels",
    "operations",
    "releases",
    "storage",
    "worker",
}
# Modules that may import inside functions, because a command or a library is slow to load.
MAY_IMPORT_LATE = (
    "service/cli/",
    "service/storage/migration.py",
    "training/cli.py",
    "training/__main__.py",  # its imports take seconds in which torchrun may be killed
    "embedding/backbones.py",
    "embedding/heif.py",
    "embedding/torchvision_library.py",
    "embedding/runtimes/onnx_network.py",
    "embedding/model.py",
    "index/faiss_library.py",
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@functools.cache
def nodes_of(path):
    return tuple(ast.walk(ast.parse(path.read_text())))


def imported_by(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def importers_of(package):
    return {
        name_of(path)
        for path in SOURCES
        for node in nodes_of(path)
        for name in imported_by(node)
        if name.split(".")[0] == package
    }


def test_only_settings_read_the_environment():
    readers = {
        name_of(path)
        for path in SOURCES
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }

    # torchrun tells its processes through the environment who started them.
    assert readers == {"service/installation/settings.py", "training/processes/launcher.py"}


def test_only_problems_creates_error_responses():
    """Routes document statuses; none raises or returns one for an error."""
    creators = {
        name_of(path)
        for path in SOURCES
        for node in nodes_of(path)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("HTTPException", "JSONResponse")
    }

    assert creators == {"service/web/problems.py"}


def test_only_the_index_imports_faiss():
    """import-linter does not see an import by name."""
    assert importers_of("faiss") <= {"index/faiss_library.py"}
    text = "\n".join(path.read_text() for path in SOURCES if not name_of(path).startswith("index/"))
    assert 'import_module("faiss' not in text


def test_only_decoding_opens_images():
    openers = {name_of(path) for path in SOURCES if "Image.open(" in path.read_text()}
    # Pillow's readers themselves.
    readers = importers_of("PIL") & {name_of(path) for path in SOURCES if "ImagePlugin" in path.read_text()}

    # The sample's renderer decodes the JPEG that it has just encoded, to reproduce compression noise.
    assert openers | readers == {"embedding/decoding.py", "service/demo/sample/views.py"}


def test_only_rooms_with_tables_use_sql():
    assert {name.split("/")[1] for name in importers_of("sqlalchemy")} <= SQL_ROOMS


def test_routes_and_commands_open_no_database_session():
    """They call one function of a domain room, which opens a short session of its own."""
    calls = {
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if name_of(path).startswith(("service/web/", "service/cli/"))
        for node in nodes_of(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("reading", "transaction")
    }

    assert calls == set()


def test_imports_stand_at_the_top_unless_they_are_slow():
    late = {
        name_of(path)
        for path in SOURCES
        for function in nodes_of(path)
        if isinstance(function, FUNCTIONS)
        for node in ast.walk(function)
        if imported_by(node)
    }

    assert {name for name in late if not name.startswith(MAY_IMPORT_LATE)} == set()


def test_files_are_short():
    lengths = {name_of(path): path.read_text().count("\n") for path in SOURCES}

    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short():
    lengths = {
        f"{name_of(path)}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCES
        if "migrations" not in path.parts
        for node in nodes_of(path)
        if isinstance(node, FUNCTIONS)
    }

    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_packages_reexport_nothing():
    packages = [path for path in SOURCES if path.name == "__init__.py"]

    assert {name_of(path) for path in packages for node in nodes_of(path) if imported_by(node)} == set()


# Written at exit, because commands end with SystemExit.
WRITE_MODULES = """
import atexit, pathlib, sys
path = pathlib.Path(sys.argv.pop())
atexit.register(lambda: path.write_text("\\n".join(sys.modules)))
"""


@pytest.fixture
def modules_loaded_by(tmp_path):
    """Run a program in a process of its own and return the names of all modules that it has imported."""

    def run(program, home=tmp_path / "home"):
        written = tmp_path / "modules"
        environment = {**os.environ, "AKIN_HOME": str(home), "AKIN_DATABASE_URL": ""}
        command = [sys.executable, "-c", WRITE_MODULES + program, str(written)]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
        return set(written.read_text().splitlines())

    return run


@pytest.mark.long
def test_the_command_line_starts_without_heavy_libraries(modules_loaded_by):
    """`akin --help` waits for neither torch nor SQLAlchemy."""
    loaded = modules_loaded_by("import service.cli.main")

    assert loaded & {"torch", "sqlalchemy", "faiss", "timm", "numpy", "fastapi", "alembic", "pyarrow"} == set()


@pytest.fixture(scope="module")
def migrated_home(tmp_path_factory):
    """A home folder with a database at the newest revision."""
    home = tmp_path_factory.mktemp("migrated") / "home"
    home.mkdir()
    open_database(f"sqlite:///{home / 'akin.db'}").close()
    return home


@pytest.mark.long
@pytest.mark.parametrize("command", ["release list", "keys list", "operations list"])
def test_commands_that_list_rows_load_no_heavy_library(modules_loaded_by, migrated_home, command):
    loaded = modules_loaded_by(f"from service.cli.main import main\nmain({command.split()})", migrated_home)

    assert "sqlalchemy" in loaded
    assert loaded & {"torch", "pyarrow", "fastapi", "alembic", "faiss", "scipy"} == set()


# Serves nothing: `akin serve` runs up to the start of the application, with all that it imports on the way.
SERVE = """
import service.web.server
from starlette.testclient import TestClient

def started(app, listener):
    with TestClient(app) as client:
        client.get("/livez").raise_for_status()
    return 0

service.web.server.serve = started
from service.cli.main import main
main(["serve", "--port", "0"])
"""


@pytest.mark.long
def test_serve_loads_no_trainer(modules_loaded_by, migrated_home):
    loaded = modules_loaded_by(SERVE, migrated_home)

    assert "service.web.app" in loaded
    trainer = {"loop", "run", "batches", "mining", "optimisation", "projections", "preparation", "keeper"}
    assert loaded & {f"training.{name}" for name in trainer} == set()
    assert {name for name in loaded if name.startswith(("service.worker", "service.demo"))} == set()
    assert loaded & {"timm", "torchvision", "sklearn", "matplotlib", "tensorboard", "dbos"} == set()
    assert "service.releases.build" not in loaded
