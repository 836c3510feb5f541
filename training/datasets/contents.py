"""What a file beside images is: an image, or something that is left out for a stated reason."""

from pathlib import Path

from embedding.image_format import HEAD_BYTES, image_format
from training.datasets.files import IMAGE_ENDINGS
from training.datasets.records import RECORD_ENDINGS
from training.datasets.rows import LeftOut

SPREADSHEET_ENDINGS = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers"})
_RAW_ENDINGS = frozenset(
    {
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw",
        ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    }
)  # fmt: skip
# Files that lie beside images and are not meant as images.
_OTHERS = {
    kind: endings.split()
    for kind, endings in {
        "text": ".txt .md .rst .log .rtf .license .cfg .ini .toml .yaml .yml .json .xml .xmp .aae .html .htm .css .url",
        "a table": ".csv .tsv .tab .ndjson .jsonl .parquet .arrow .db .sqlite .mat .npy .npz .pkl",
        "a spreadsheet": " ".join(sorted(SPREADSHEET_ENDINGS)),
        "a document": ".pdf .doc .docx .odt .ppt .pptx .odp .pages .key .epub",
        "a video": ".mp4 .mov .avi .mkv .webm .m4v .wmv .mpg .mpeg .3gp .mts .m2ts .flv",
        "a sound": ".mp3 .wav .m4a .aac .ogg .flac .wma",
        "a program": ".py .ipynb .js .ts .sh .bat .cmd .exe .dll .so .jar .lnk .webloc",
        "a part of a document": ".ttf .otf .woff .woff2 .obj .mtl .stl .glb .gltf .fbx .ply .blend",
    }.items()
}
_KINDS = {ending: kind for kind, endings in _OTHERS.items() for ending in endings}
_ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})


def left_out(path: str, location: str) -> LeftOut | None:
    """Return why a file is left out, or None for an image.

    An ending that is an image's is believed, as the image is opened later; other files are read up to HEAD_BYTES.
    """
    ending = Path(path).suffix.lower()
    if ending in IMAGE_ENDINGS:
        return None
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return LeftOut(location, f"the file cannot be read: {error.strerror or error}")
    found = image_format(head)
    # Raw files are TIFF inside, some without a mark that tells them from it.
    is_raw = ending in _RAW_ENDINGS and (found is None or found.name == "TIFF")
    if found is not None and found.is_read and not is_raw:
        return None
    if kind := _KINDS.get(ending):
        return LeftOut(location, f"{kind}, not an image", is_failure=False)
    if found is not None and not is_raw:
        return LeftOut(location, f"{found.name} is not read; {found.remedy}")
    if is_raw:
        return LeftOut(location, f"a camera's raw file ({ending}) is not read; export it as JPEG")
    if ending in _ARCHIVES:
        return LeftOut(location, "an archive in a folder is not read; unpack it")
    if not head:
        return LeftOut(location, "the file is empty; copy it again, or delete it")
    if _is_text(head):
        return LeftOut(location, "text, not an image", is_failure=False)
    return LeftOut(location, "its content is no known image; save it as JPEG, PNG or WebP")


def is_table(name: str) -> bool:
    """Return whether a file is a table by its ending."""
    return Path(name).suffix.lower() in RECORD_ENDINGS


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # The end may cut a character.
        head[: max(1, len(head) - 3)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
