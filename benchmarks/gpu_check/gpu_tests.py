"""The tests marked `gpu`, on a machine that may lack pytest, its plugins and some of the libraries."""

import importlib.util
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_check.settings import Row, Settings

PART = "gpu-tests"
ROOT = Path(__file__).parents[2]
_OWN_PACKAGES = ("embedding", "index", "training", "service", "tests", "benchmarks")
_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The status of a test, or of a file that could not be imported: passed, failed or skipped."""

    name: str
    status: str
    reason: str = ""


def measure(settings: Settings, deadline: float) -> Iterator[Row]:
    """Run the tests, or only collect them on a CPU; tests that failed or were skipped are named."""
    if importlib.util.find_spec("pytest") is None:
        yield Row(PART, "not run", "pytest is not installed")
        return
    report = settings.work / "gpu-tests.xml"
    options = [] if settings.is_cuda else ["--collect-only"]
    command = [
        # The project's own options need plugins that a bare machine does not have.
        *(sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(ROOT), "-p", "no:cacheprovider"),
        *("-q", "-m", "gpu", "-W", "ignore::pytest.PytestUnknownMarkWarning", "--continue-on-collection-errors"),
        *("--junit-xml", str(report), *options, *map(str, files_with_gpu_tests(ROOT / "tests"))),
    ]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=deadline - time.monotonic()
        )
    except subprocess.TimeoutExpired:
        yield Row(PART, "failed", "the tests did not finish in time")
        return
    if settings.is_cuda:
        print(done.stdout[-4000:], flush=True)
    if not report.exists():
        lines = (done.stdout + done.stderr).strip().splitlines() or ["pytest printed nothing"]
        yield Row(PART, "failed", f"pytest ended with status {done.returncode}: {lines[-1]}")
        return
    yield from rows_of(read_outcomes(report))
    if not settings.is_cuda:
        found = re.search(r"(\d+)(?:/\d+)? tests? collected", done.stdout)
        yield Row(PART, "not run", f"no GPU; {found[1] if found else 0} tests collected")


def files_with_gpu_tests(folder: Path) -> list[Path]:
    """Return the files below `folder` that mark a test `gpu`; importing others may need libraries that are missing."""
    return sorted(path for path in folder.rglob("test_*.py") if "mark.gpu" in path.read_text(encoding="utf-8"))


def read_outcomes(report: Path) -> list[Outcome]:
    """Read a JUnit file; a test or file that lacks a third-party module counts as skipped, not as failed."""
    outcomes = []
    for case in ET.parse(report).iter("testcase"):
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        problem = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        if problem is None:
            outcomes.append(Outcome(name, "passed"))
            continue
        message = (problem.get("message") or "").strip()
        missing = _missing_library(message + (problem.text or "")) if problem.tag == "error" else ""
        if missing:
            outcomes.append(Outcome(name, "skipped", f"{missing} is not installed"))
        elif problem.tag == "skipped":
            outcomes.append(Outcome(name, "skipped", message))
        else:
            last = (problem.text or message).strip().splitlines()
            outcomes.append(Outcome(name, "failed", message.splitlines()[0] if message else last[-1]))
    return outcomes


def rows_of(outcomes: list[Outcome]) -> Iterator[Row]:
    """Count the outcomes, and name what did not pass."""
    for status in ("passed", "failed", "skipped"):
        found = [outcome for outcome in outcomes if outcome.status == status]
        yield Row(PART, status, len(found))
    for outcome in outcomes:
        if outcome.status != "passed":
            yield Row(PART, f"{outcome.status}: {outcome.name}", outcome.reason)


def _missing_library(text: str) -> str:
    """Return the name of the missing third-party library, or an empty string."""
    found = _MISSING_MODULE.search(text)
    library = found[1].split(".")[0] if found else ""
    return "" if library in _OWN_PACKAGES else library
