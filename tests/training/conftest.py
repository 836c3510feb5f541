"""Fixtures shared by the tests of training."""

from pathlib import Path

import pytest


@pytest.fixture
def _without_drawing(monkeypatch):
    """Write an empty report page, since drawing the curves takes longer than a short training."""

    def write_report(run_dir: Path) -> Path:
        page = run_dir / "report.html"
        page.write_text("")
        return page

    monkeypatch.setattr("training.running.run.write_report", write_report)
