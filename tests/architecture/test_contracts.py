"""What the layout promises, checked on the code: see docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("embedding", "index", "training", "service")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
# Modules of the rooms that read or write tables; every other module passes a session on or has none.
SQL_ROOMS = (
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
)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def imports_of(path):
    """Return (module, is inside a function) of each import."""
    tree = ast.parse(path.read_text())
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", id(node) in inside))
    return found


def importers_of(package):
    return {name_of(path) for path in SOURCES for name, _ in imports_of(path) if name.split(".")[0] == package}


def test_only_settings_read_the_environment():
    readers = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }

    assert readers == {"service/installation/settings.py"}


def test_only_problems_answer_for_errors():
    """Routes document statuses; none raises or returns one for an error."""
    raising = {
        name_of(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("HTTPException", "JSONResponse")
    }

    assert raising == {"service/web/problems.py"}


def test_only_the_index_imports_faiss():
    assert importers_of("faiss") <= {"index/faiss_library.py"}
    text = "\n".join(path.read_text() for path in SOURCES if not name_of(path).startswith("index/"))
    assert 'import_module("faiss' not in text


def test_only_one_module_decodes_images():
    openers = {name_of(path) for path in SOURCES if "Image.open(" in path.read_text()}

    # The sample's renderer reads back the JPEG that it has just written, for its noise.
    assert openers == {"embedding/decoding.py", "service/demo/sample/views.py"}


def test_only_the_rooms_below_serving_use_sql():
    users = {name.split("/")[1] for name in importers_of("sqlalchemy")}

    assert users <= set(SQL_ROOMS)


def test_imports_inside_functions_only_where_they_spare_a_load():
    allowed = (
        "service/cli/", "training/cli.py", "embedding/backbones.py", "embedding/torchvision_library.py",
        "embedding/model.py",
    )  # fmt: skip
    late = {name_of(path) for path in SOURCES for _, inside in imports_of(path) if inside}

    assert {name for name in late if not name.startswith((*allowed, "index/faiss_library.py"))} == set()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_stay_short(path):
    assert path.read_text().count("\n") <= 400


@pytest.mark.parametrize("path", [path for path in SOURCES if "migrations" not in path.parts], ids=name_of)
def test_functions_stay_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is long"


def test_packages_reexport_nothing():
    for room in ROOMS:
        for path in (ROOT / room).rglob("__init__.py"):
            assert imports_of(path) == [], name_of(path)


def test_the_command_line_starts_without_the_network():
    """`akin --help` must not wait for torch or SQLAlchemy."""
    program = (
        "import sys, service.cli.main\n"
        "print([name for name in ('torch', 'sqlalchemy', 'faiss', 'timm', 'training.loop') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"


def test_the_request_path_never_loads_what_it_does_not_need():
    program = (
        "import sys, service.web.app\n"
        "print([name for name in ('timm', 'torchvision', 'sklearn', 'matplotlib', 'training.loop', "
        "'service.releases.build', 'service.worker.process', 'dbos') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"
