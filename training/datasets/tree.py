"""One walk through a folder: images, tables, and everything that is left out, with its reason.

Names are kept as text, not as paths, since a catalogue may have a million files.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from training.datasets.contents import is_table, left_out
from training.datasets.files import printable
from training.datasets.junk import is_junk
from training.datasets.rows import LeftOut


@dataclass(slots=True)
class Tree:
    """The files below a folder, in the order of the parts of their paths, which are relative to the folder."""

    root: Path
    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    num_junk: int = 0  # files and folders that the system has left; these are counted only

    def leave_out(self, path: str, reason: str, *, is_failure: bool = True) -> None:
        """Add a file or folder that is left out."""
        self.left_out.append(LeftOut(printable(Path(path)), reason, is_failure))


def scan(root: Path) -> Tree:
    """Walk through all folders below `root`, links to folders included, each folder once."""
    tree = Tree(root)
    seen = {os.path.realpath(root)}
    # A stack, since folders may be nested deeper than functions can be.
    stack = [iter(_entries(tree, str(root), ""))]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        path = os.path.relpath(entry.path, root)
        if is_junk(entry.name):
            tree.num_junk += 1
        elif entry.name.startswith("."):
            tree.leave_out(path, "hidden, since its name starts with a dot", is_failure=False)
        elif _is_folder(entry):
            if (real := os.path.realpath(entry.path)) in seen:
                tree.leave_out(path, "a link to a folder that is read already", is_failure=False)
                continue
            seen.add(real)
            stack.append(iter(_entries(tree, entry.path, path)))
        else:
            _add_file(tree, entry, path)
    return tree


def _entries(tree: Tree, folder: str, path: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        tree.leave_out(path or ".", f"the folder cannot be read: {error.strerror or error}")
        return []


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _add_file(tree: Tree, entry: "os.DirEntry[str]", path: str) -> None:
    try:
        is_file = entry.is_file()
    except OSError:
        is_file = False
    if not is_file:
        is_link = entry.is_symlink()
        tree.leave_out(path, "a link to a file that does not exist" if is_link else "neither a file nor a folder")
    elif is_table(entry.name):
        tree.tables.append(path)
    elif found := left_out(entry.path, printable(Path(path))):
        tree.left_out.append(found)
    else:
        tree.images.append(path)


def visible_entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Yield the files and folders directly in a folder that are neither hidden nor junk, in a stable order."""
    for entry in _entries(Tree(folder), str(folder), ""):
        if not entry.name.startswith(".") and not is_junk(entry.name):
            yield entry
