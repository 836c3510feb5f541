"""Print what a project file asks for, with some of its extras, one requirement a line: pyproject.toml cpu offline.

pip itself takes requirements only together with the project; in an image they are a layer of their own.
"""

import sys
import tomllib
from pathlib import Path


def requirements(project_file: Path, extras: list[str]) -> list[str]:
    """Return the requirements in the order of the file; raises KeyError for an extra that it does not have."""
    project = tomllib.loads(project_file.read_text(encoding="utf-8"))["project"]
    found = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])) + "\n")
