"""Which table of a folder is read: one with an accepted name, else the only one; nothing is guessed.

A table that lies beside folders of images is never passed over silently.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets.columns import Columns
from training.datasets.contents import SPREADSHEET_ENDINGS
from training.datasets.files import MAX_ENCLOSING_FOLDERS, printable
from training.datasets.records import JSON_ENDINGS, RECORD_ENDINGS, TABLE_ENDINGS, read_records
from training.datasets.rows import LeftOut
from training.datasets.tree import Tree, visible_entries
from training.errors import InvalidDataset

# A table of one of these names is meant as one even if its ending may be something else's.
_NAMES_OF_TABLES = frozenset(
    {
        "catalogue", "catalog", "catalogues", "catalogs", "products", "product", "items", "item", "articles",
        "article", "labels", "label", "manifest", "metadata", "images", "index",
    }
)  # fmt: skip
# More tables in folders are data of products, and none of them is the table of the catalogue.
_MAX_INNER_TABLES = 20


@dataclass(frozen=True, slots=True)
class TableKind:
    """A kind of table that a command reads."""

    name: str  # for messages, such as "a catalogue"
    stems: tuple[str, ...]  # accepted names without ending, in lower case; the first is the one to recommend
    columns: Columns
    json_columns: Columns | None = None  # where they differ

    def columns_of(self, path: Path) -> Columns:
        """Return the columns that a file of this kind may have."""
        is_json = path.suffix.lower() in JSON_ENDINGS
        return self.json_columns if is_json and self.json_columns is not None else self.columns

    def problem_of(self, path: Path) -> str | None:
        """Return why a table is not of this kind, by its columns, or None."""
        columns = self.columns_of(path)
        try:
            record = next((record for _, record in read_records(path, columns)), None)
        except InvalidDataset as error:
            return str(error).replace(f"{path} ", "it ").replace(f"{path}", "it")
        if path.suffix.lower() not in JSON_ENDINGS:
            return None
        if isinstance(record, ValueError):
            return str(record)
        missing = [names for names in columns.needed if not record or not set(names) & record.keys()]
        return f"it has no {' or '.join(map(repr, missing[0]))}" if missing else None


@dataclass(frozen=True, slots=True)
class ChosenTable:
    """The table that stands for a folder, and what lies beside it and is not read."""

    path: Path
    kind: TableKind
    left_out: tuple[LeftOut, ...]


def table_at(path: Path, kinds: Sequence[TableKind]) -> ChosenTable:
    """Return the table of that path, as the first of `kinds` whose names or columns it has, else as the first."""
    named = [kind for kind in kinds if path.stem.lower() in kind.stems]
    fitting = [kind for kind in kinds if len(kinds) > 1 and not named and kind.problem_of(path) is None]
    return ChosenTable(path, (*named, *fitting, *kinds)[0], ())


def possible_roots(path: Path) -> list[Path]:
    """Return the folders that may be the root of a source: `path`, and the folders nested alone in it.

    Files beside such a folder do not matter, images excepted: a folder beside images is not an enclosing one.
    """
    roots = [path]
    for _ in range(MAX_ENCLOSING_FOLDERS):
        folders = [entry.path for entry in visible_entries(path) if entry.is_dir()]
        if len(folders) != 1:
            break
        path = Path(folders[0])
        roots.append(path)
    return roots


def choose_table(root: Path, kinds: Sequence[TableKind], *, only_named: bool = False) -> ChosenTable | None:
    """Return the table directly in `root` that stands for the folder, or None if there is no table at all.

    With `only_named`, other names than the accepted ones are passed over. Raises InvalidDataset if several tables may
    be meant, or if the only one cannot be read as any of `kinds`.
    """
    tables = [
        Path(entry.path) for entry in visible_entries(root) if _is_meant_as_table(entry.name) and not entry.is_dir()
    ]
    for kind in kinds:
        named = [path for path in tables if path.stem.lower() in kind.stems and _is_readable(path)]
        if len(named) > 1:
            raise InvalidDataset(_several(named, f"all named as the table of {kind.name}"))
        if named:
            return _chosen(named[0], kind, tables)
    if only_named or not tables:
        return None
    if len(tables) > 1:
        raise InvalidDataset(_several(tables, f"none named {_accepted(kinds)}"))
    problems = {kind.name: "a spreadsheet is not read" for kind in kinds}
    for kind in kinds if _is_readable(tables[0]) else ():
        problem = kind.problem_of(tables[0])
        if problem is None:
            return _chosen(tables[0], kind, tables)
        problems[kind.name] = problem
    raise InvalidDataset(_unread(tables[0], kinds, problems))


def refuse_inner_tables(tree: Tree, kinds: Sequence[TableKind]) -> None:
    """Raise InvalidDataset for a table in a folder that may be meant as the catalogue's; leave out the others."""
    inner = [tree.root / path for path in tree.tables]
    for path in inner if len(inner) <= _MAX_INNER_TABLES else ():
        kind = next((kind for kind in kinds if path.stem.lower() in kind.stems), None)
        kind = kind or next((kind for kind in kinds if kind.problem_of(path) is None), None)
        if kind is not None:
            shown = printable(path.relative_to(tree.root))
            raise InvalidDataset(
                f"{tree.root} contains folders of images and, in one of them, the table {shown}, which may be meant as "
                f"the table of {kind.name}; give the path of that table itself, or move it out of the folder to read "
                "the folders, or choose with --layout"
            )
    for table in tree.tables:
        tree.leave_out(table, "a table beside images is not read", is_failure=False)


def _is_meant_as_table(name: str) -> bool:
    stem, ending = Path(name).stem.lower(), Path(name).suffix.lower()
    if ending in RECORD_ENDINGS or ending in SPREADSHEET_ENDINGS:
        return True
    return ending in TABLE_ENDINGS and stem in _NAMES_OF_TABLES


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in TABLE_ENDINGS


def _chosen(path: Path, kind: TableKind, tables: Collection[Path]) -> ChosenTable:
    others = [other for other in tables if other != path]
    return ChosenTable(
        path,
        kind,
        tuple(
            LeftOut(printable(Path(other.name)), f"another table; {path.name} is read", is_failure=False)
            for other in others
        ),
    )


def _accepted(kinds: Sequence[TableKind]) -> str:
    return " or ".join(f"{kind.stems[0]}.csv" for kind in kinds)


def _several(tables: Sequence[Path], why: str) -> str:
    names = ", ".join(sorted(printable(Path(path.name)) for path in tables)[:10])
    return (
        f"{tables[0].parent} contains {len(tables)} tables, {why}: {names}; give the path of the one to read, or leave "
        "only one in the folder"
    )


def _unread(path: Path, kinds: Sequence[TableKind], problems: Mapping[str, str]) -> str:
    name = printable(Path(path.name))
    reasons = "; ".join(f"as the table of {kind}: {problem}" for kind, problem in problems.items())
    save = f"save {name} as CSV" if not _is_readable(path) else f"correct the columns of {name}"
    if path.stem.lower() in ("labels", "label") and not any(path.stem.lower() in kind.stems for kind in kinds):
        save = f"if {name} has labels, give it to akin catalogue label; else correct its columns"
    return (
        f"{path.parent} contains the table {name}, which cannot be read {reasons}; {save} (accepted names are "
        f"{_accepted(kinds)}, and any other if it is the only table), or move it out of the folder to read folders of "
        "images, or choose with --layout"
    )
