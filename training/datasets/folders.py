"""Folders of images: which folder is a product or class, decided from the whole tree and stated in one line.

    CLASS/x.jpg                     a catalogue image of CLASS
    CLASS/example/x.jpg             an example of CLASS, like everything in folders below `example`
    CLASS/front/x.jpg               an image of CLASS: names of views are not classes
    fruit/apple/x.jpg               categories around classes: the class is "fruit/apple"
    train/CLASS/x.jpg               folders train, val and test are parts of the data set
    my-shop/CLASS/x.jpg             a single folder around all others is not part of the names

Where the folders allow two readings, nothing is read, and the message names the option that decides.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from training.datasets.files import MAX_ENCLOSING_FOLDERS, first_example_folder, printable, short
from training.datasets.folder_names import is_generic, is_view, part_of
from training.datasets.identifiers import checked_identifier
from training.datasets.rows import LabelledImage, LeftOut, Part
from training.datasets.table_choice import TableKind, refuse_inner_tables
from training.datasets.tree import Tree, scan
from training.datasets.understanding import counted
from training.errors import InvalidDataset

# How folders are read: decided from the tree; each outermost folder is a class; each folder with images is a class.
Layout = Literal["auto", "products", "paths"]
Parts = tuple[str, ...]

_MAX_NAMED = 3
_REMEDY = (
    "choose with --layout products (each outermost folder is one {thing}) or --layout paths (each folder with images "
    "is one {thing}, named by its path), or list the images in a catalogue.csv"
)


def layout_named(text: str) -> Layout:
    """Return the layout of that name; raises ValueError for another name."""
    for layout in get_args(Layout):
        if text == layout:
            return layout  # type: ignore[no-any-return]  # get_args() forgets the types of a Literal
    raise ValueError(f"the layout is {short(text)}; it must be {', '.join(get_args(Layout))}")


@dataclass(frozen=True, slots=True)
class _Place:
    """What the images directly in one folder are."""

    label: str
    is_example: bool
    part: Part


@dataclass(slots=True)
class FolderImages:
    """The images of a tree with their classes, in a stable order; can be iterated more than once."""

    root: Path
    description: str
    thing: str
    left_out: list[LeftOut]
    num_junk: int
    notes: tuple[str, ...] = ()
    _paths: list[str] = field(default_factory=list)
    _places: dict[str, _Place] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[LabelledImage]:
        for path in self._paths:
            place = self._places[_folder_of(path)]
            file = Path(path)
            role: Literal["example", "catalogue"] = "example" if place.is_example else "catalogue"
            yield LabelledImage(printable(file), self.root / file, place.label, role, place.part)

    @property
    def num_classes(self) -> int:
        """The number of classes that have images."""
        return len({place.label for place in self._places.values()})


def read_folders(
    path: Path, kinds: Sequence[TableKind] = (), *, layout: Layout = "auto", thing: str = "class"
) -> FolderImages:
    """Find the images in the folders below `path`, and what each folder stands for; images are not opened.

    A table in a folder that may be one of `kinds` is an error, unless `layout` states that folders are read. `thing`
    is what a folder stands for, for messages.

    Raises InvalidDataset if there are no images in folders, or if the folders allow two readings.
    """
    tree = scan(path)
    if layout == "auto":
        refuse_inner_tables(tree, kinds)
    else:
        for table in tree.tables:
            tree.leave_out(table, "tables are not read with --layout", is_failure=False)
    folders: Counter[str] = Counter(map(_folder_of, tree.images))
    num_loose = folders.pop("", 0)
    if not folders:
        raise InvalidDataset(_without_images(tree, num_loose, kinds, thing))
    reading = _Reading(tree.root, folders, layout, thing)
    places = _places_of(reading, folders, tree)
    images = []
    for image in tree.images:
        if (folder := _folder_of(image)) in places:
            images.append(image)
        elif not folder:
            tree.leave_out(image, f"the image lies in no {thing}'s folder; move it into one")
    if not images:
        first = tree.left_out[-1]
        raise InvalidDataset(f"{path} contains no folder whose name is usable; {first.location}: {first.reason}")
    tree.left_out.sort(key=lambda item: item.location)
    return FolderImages(
        path, reading.description, thing, tree.left_out, tree.num_junk, reading.notes, images, places
    )  # fmt: skip


class _Reading:
    """One reading of the folders that contain images: which part of each path is the class."""

    def __init__(self, root: Path, folders: Iterable[str], layout: Layout, thing: str) -> None:
        self._root = root
        self._thing = thing
        self._layout = layout
        self._num_enclosing = 0  # folders around all others
        self._has_parts = False
        self._parts_at = 0
        self._insides: dict[Parts, Parts] = {}  # a class's folder inside of another one: the class that it belongs to
        paths = [tuple(folder.split("/")) for folder in folders]
        inner = self._without_enclosing(paths)
        self._keys = set(map(self._key_of, inner))
        if layout == "auto":
            self._check_generic(inner)
            self._join_insides()
            self._check_depths()
            self._check_repeated()

    @property
    def description(self) -> str:
        """What was understood, without numbers."""
        text = f"a folder per {self._thing}"
        categories = sorted(key for key in self._final_keys() if len(key) > 1)
        if categories:
            text += f" in folders of categories ({short('/'.join(categories[0]))} is a {self._thing})"
        if self._has_parts:
            text += ", in folders of parts of a data set (train, val, test)"
        return text

    @property
    def notes(self) -> tuple[str, ...]:
        """What may surprise."""
        if not self._insides:
            return ()
        named = ", ".join(short("/".join(key)) for key in sorted(self._insides)[:_MAX_NAMED])
        one = len(self._insides) == 1
        return (
            f"{len(self._insides):,} folder{'' if one else 's'} inside of a {self._thing}'s folder "
            f"{'belongs' if one else 'belong'} to that {self._thing}: {named}",
        )

    def place_of(self, folder: Parts) -> tuple[Parts, bool, Part]:
        """Return the class, as parts of its path, whether images are examples, and the part of the data set."""
        inner, part = self._inner(folder)
        key = self._key_of(inner)
        return self._insides.get(key, key), first_example_folder(inner) is not None, part

    def _without_enclosing(self, paths: Sequence[Parts]) -> list[Parts]:
        """Find enclosing folders and folders of parts; return what is inside of them."""
        while True:
            rest = [path[self._num_enclosing + self._has_parts :] for path in paths]
            if not self._has_parts and self._states_parts(rest):
                self._has_parts, self._parts_at = True, self._num_enclosing
            elif self._num_enclosing < MAX_ENCLOSING_FOLDERS and _is_enclosed(rest):
                self._num_enclosing += 1
            else:
                return rest

    def _states_parts(self, paths: Sequence[Parts]) -> bool:
        """Tell whether the folders are only train, val and test; raises InvalidDataset if they may be."""
        tops = {path[0] for path in paths}
        parts = {top for top in tops if part_of(top)}
        if self._layout != "auto" or not {part_of(top) for top in parts} & {"train", "test"}:
            return False
        have_classes = any(len(path) > 1 and not is_view(path[1]) for path in paths if path[0] in parts)
        named = " and ".join(map(repr, sorted(parts)))
        if parts == tops and all(len(path) > 1 for path in paths):
            return True
        if parts == tops:
            raise InvalidDataset(
                f"the images in the folders {named} of {self._root} lie in no {self._thing}'s folder: folders of these "
                f"names are parts of a data set; put the images of each {self._thing} into a folder inside of them, or "
                f"{self._remedy}"
            )
        if have_classes:
            others = ", ".join(map(repr, sorted(tops - parts)[:_MAX_NAMED]))
            raise InvalidDataset(
                f"the folders {named} of {self._root} may be parts of a data set or categories, since they lie beside "
                f"{others}; move the other folders elsewhere, or {self._remedy}"
            )
        return False

    def _inner(self, folder: Parts) -> tuple[Parts, Part]:
        """Return a path inside of enclosing folders and folders of parts, and its part."""
        inner = folder[self._num_enclosing + self._has_parts :]
        return inner, part_of(folder[self._parts_at]) if self._has_parts else ""

    def _key_of(self, inner: Parts) -> Parts:
        """Return the class of a path by its own names."""
        if self._layout == "products":
            return inner[:1]
        key = inner[: first_example_folder(inner)]
        while self._layout == "auto" and len(key) > 1 and is_view(key[-1]):
            key = key[:-1]
        return key

    def _final_keys(self) -> set[Parts]:
        return {self._insides.get(key, key) for key in self._keys}

    def _join_insides(self) -> None:
        """Let a folder inside of a class's folder belong to that class; raises InvalidDataset if there are several."""
        num_insides: Counter[Parts] = Counter()
        for key in sorted(self._keys):
            outer = next((key[:end] for end in range(1, len(key)) if key[:end] in self._keys), None)
            if outer is not None:
                self._insides[key] = outer
                num_insides[outer] += 1
        for outer, number in num_insides.items():
            if number > 1:
                inside = sorted(key for key, found in self._insides.items() if found == outer)
                named = ", ".join(short("/".join(key)) for key in inside[:_MAX_NAMED])
                raise InvalidDataset(
                    f"the folder {short('/'.join(outer))} of {self._root} contains images and also {number} folders of "
                    f"images ({named}), so that it may be one {self._thing} or a category; {self._remedy}"
                )

    def _check_depths(self) -> None:
        keys = self._final_keys()
        shallow, deep = min(keys, key=lambda key: (len(key), key)), max(keys, key=lambda key: (len(key), key))
        if len(shallow) != len(deep):
            raise InvalidDataset(
                f"the folders of {self._root} have images at several depths: {short('/'.join(shallow))} may be a "
                f"{self._thing}, and {short('/'.join(deep))} too, or a part of one; {self._remedy}"
            )

    def _check_repeated(self) -> None:
        """Refuse the same names in each folder: views of one product, or products that several categories have."""
        names: dict[Parts, set[str]] = {}
        for key in self._final_keys():
            names.setdefault(key[:-1], set()).add(key[-1])
        first = next(iter(names.values()))
        if len(names) > 1 and all(found == first for found in names.values()):
            outer = ", ".join(short("/".join(key)) for key in sorted(names)[:_MAX_NAMED])
            inner = ", ".join(map(short, sorted(first)[:_MAX_NAMED]))
            raise InvalidDataset(
                f"the folders of {self._root} ({outer}) all contain folders of the same names ({inner}), which may be "
                f"views of one {self._thing} or one {self._thing} each; {self._remedy}"
            )

    def _check_generic(self, paths: Sequence[Parts]) -> None:
        is_single = len(paths) == 1 and is_generic(paths[0][-1])
        if is_single or all(len(key) == 1 and is_generic(key[0]) for key in self._keys):
            named = " and ".join(short(path[-1]) for path in sorted(paths)[:_MAX_NAMED])
            raise InvalidDataset(
                f"{self._root} has all images in the folder {named}, which says nothing about the {self._thing}; put "
                f"the images of each {self._thing} into a folder of its own, or list them in a catalogue.csv with the "
                "columns product_id and image"
            )

    @property
    def _remedy(self) -> str:
        return _REMEDY.format(thing=self._thing)


def _is_enclosed(paths: Sequence[Parts]) -> bool:
    """Tell whether one folder, which is no class itself, lies around all others."""
    if len({path[0] for path in paths}) != 1 or any(len(path) < 2 for path in paths):
        return False
    # A number may be a product's or a view's; a single product in an archive of its own is the rarer case.
    return not all((is_view(path[1]) and not path[1].isdecimal()) or first_example_folder(path) == 1 for path in paths)


def _places_of(reading: _Reading, folders: Mapping[str, int], tree: Tree) -> dict[str, _Place]:
    """Return what each folder's images are; leave out folders whose name is no identifier, each once."""
    places: dict[str, _Place] = {}
    refused: dict[Parts, list[str]] = {}
    reasons: dict[Parts, str] = {}
    for folder in folders:
        key, is_example, part = reading.place_of(tuple(folder.split("/")))
        try:
            label = checked_identifier("/".join(key), "folder's name")
        except ValueError as error:
            refused.setdefault(key, []).append(folder)
            reasons[key] = str(error)
        else:
            places[folder] = _Place(label, is_example, part)
    for key, names in refused.items():
        num_images = sum(folders[name] for name in names)
        tree.leave_out(min(names), f"{reasons[key]}; its {counted(num_images, 'image')} left out: rename the folder")
    return places


def _without_images(tree: Tree, num_loose: int, kinds: Sequence[TableKind], thing: str) -> str:
    if num_loose:
        named = ", ".join(short(printable(Path(path))) for path in tree.images[:_MAX_NAMED])
        return (
            f"{counted(num_loose, 'image')} of {tree.root} lie in no folder of a {thing} ({named}); move the images of "
            f"each {thing} into a folder of its own, and give the path of the folder around these"
        )
    why = "".join(f"; {item.location}: {item.reason}" for item in sorted(tree.left_out, key=_failures_first)[:1])
    tables = " or ".join(f"{kind.stems[0]}.csv" for kind in kinds) or "catalogue.csv"
    others = "" if thing == "product" else ", or the files of CUB200-2011, Cars196, Stanford Online Products"
    return (
        f"{tree.root} contains no folders with images{why}; expected a folder per {thing}, a {tables} (or .ndjson)"
        f"{others} or the GroceryStoreDataset"
    )


def _failures_first(item: LeftOut) -> bool:
    return not item.is_failure


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]
