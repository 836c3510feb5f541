"""What an import did, as a value and as a file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from embedding.whole_files import write_whole
from service.catalogue.sources import RowError, first_reasons
from service.storage.database import now


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do (`dry_run`). Each row is counted once: added, updated, unchanged or failed."""

    layout: str
    dry_run: bool
    num_products_added: int = 0
    num_products_updated: int = 0
    num_images_added: int = 0
    num_images_updated: int = 0
    num_unchanged: int = 0
    num_ignored: int = 0
    seconds: float = 0.0
    errors: list[RowError] = field(default_factory=list)

    @property
    def num_usable(self) -> int:
        """How much of the source could be used, changed by it or not."""
        changed = self.num_products_added + self.num_products_updated + self.num_images_added + self.num_images_updated
        return changed + self.num_unchanged

    def reasons(self) -> str:
        """Say in one line why the first rows failed."""
        return first_reasons(self.errors, len(self.errors))

    def to_json(self) -> dict[str, Any]:
        """Return the report as it is written to a file."""
        return asdict(self)


class Report(Protocol):
    """What has been done with a source, in a form that can be written down."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""


def write_import_report(report: Report, directory: Path, kind: str = "import") -> Path:
    """Write the report as JSON and return the file's path."""
    path = directory / f"{kind}-{now():%Y%m%dT%H%M%S%f}.json"
    # Escaped, since a path in a message may be no text.
    write_whole(path, (json.dumps(report.to_json(), indent=2) + "\n").encode())
    return path
