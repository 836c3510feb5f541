"""A grid of queries with their nearest neighbours, hits and misses marked."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from embedding.decoding import decode_image
from embedding.errors import InvalidImage
from training.report.run_folder import NEIGHBOUR_GRID, NEIGHBOURS, Record, entries, number, read_run_file, table

HIT_COLOUR, MISS_COLOUR = "#009E73", "#D55E00"
_INK, _QUIET, _PAPER, _TILE, _GREY = "#1c2024", "#60646c", "#ffffff", "#f3f4f5", "#c9ccd0"
_FRAME = 4
_GAP = 12
_JPEG_QUALITY = 90


class LabelledImage(Protocol):
    """An image file with its class, such as an image of a snapshot."""

    @property
    def path(self) -> Path:
        """The path of the file."""

    @property
    def label(self) -> str:
        """The class."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One result of a query."""

    path: Path
    label: str
    score: float
    is_hit: bool


@dataclass(frozen=True, slots=True)
class NeighbourRow:
    """A query and its nearest neighbours, best first."""

    path: Path
    label: str
    hits: tuple[Neighbour, ...]


def choose_rows(
    queries: Sequence[LabelledImage],
    gallery: Sequence[LabelledImage],
    nearest_QK: NDArray[np.int64],
    scores_QK: NDArray[np.float32],
    *,
    num_rows: int = 12,
) -> list[NeighbourRow]:
    """Choose rows to show: half of them with a correct first neighbour, which come first, and half with a wrong one.

    If one half has too few, the other is larger. Each half covers as many classes as possible and is spread evenly
    over the order of the queries; equal input gives equal rows. `nearest_QK` contains positions in the gallery, best
    first; negative positions are empty and ignored.
    """
    rows = [
        NeighbourRow(query.path, query.label, _neighbours(query, gallery, nearest_K, scores_K))
        for query, nearest_K, scores_K in zip(queries, nearest_QK, scores_QK, strict=True)
    ]
    answered = [row for row in rows if row.hits]
    right = [row for row in answered if row.hits[0].is_hit]
    wrong = [row for row in answered if not row.hits[0].is_hit]
    num_wrong = min(len(wrong), max(num_rows // 2, num_rows - len(right)))
    return _spread_out(right, num_rows - num_wrong) + _spread_out(wrong, num_wrong)


def _neighbours(
    query: LabelledImage,
    gallery: Sequence[LabelledImage],
    nearest_K: NDArray[np.int64],
    scores_K: NDArray[np.float32],
) -> tuple[Neighbour, ...]:
    found = [
        (gallery[position], float(score)) for position, score in zip(nearest_K, scores_K, strict=True) if position >= 0
    ]
    return tuple(Neighbour(image.path, image.label, score, image.label == query.label) for image, score in found)


def _spread_out(rows: list[NeighbourRow], count: int) -> list[NeighbourRow]:
    """Choose `count` rows: as many classes as possible, evenly over the given order."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        turns.append(seen.setdefault(row.label, 0))
        seen[row.label] += 1
    # A second row of a class is a candidate only if there are fewer classes than rows wanted.
    by_turn = sorted(range(len(rows)), key=lambda position: (turns[position], position))
    candidates = by_turn[: max(count, len(seen))]
    if not candidates:
        return []
    picks = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [rows[candidates[pick]] for pick in picks]


def write_neighbours(run_dir: Path, rows: Sequence[NeighbourRow], *, tile: int = 112) -> Path | None:
    """Write neighbours.json and the grid neighbours.jpg into a run's folder; no grid without rows."""
    content = [
        {
            "query": {"path": str(row.path), "label": row.label},
            "hits": [
                {"path": str(hit.path), "label": hit.label, "score": hit.score, "is_hit": hit.is_hit}
                for hit in row.hits
            ],
        }
        for row in rows
    ]
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (run_dir / NEIGHBOURS).write_text(text + "\n", encoding="utf-8")
    path = run_dir / NEIGHBOUR_GRID
    if not rows:
        path.unlink(missing_ok=True)
        return None
    save_grid(draw_neighbour_grid(rows, tile=tile), path)
    return path


def save_grid(grid: Image.Image, path: Path) -> None:
    """Save a grid as JPEG without chroma subsampling, so that small text stays sharp."""
    grid.save(path, "JPEG", quality=_JPEG_QUALITY, subsampling=0)


def read_neighbours(run_dir: Path) -> list[NeighbourRow]:
    """Return the rows of a run's neighbours.json; empty without the file."""
    rows = []
    for entry in entries(read_run_file(run_dir, NEIGHBOURS)):
        query = table(entry, "query")
        hits = tuple(
            Neighbour(
                Path(_text(hit, "path")), _text(hit, "label"), number(hit, "score") or 0.0, bool(hit.get("is_hit"))
            )
            for hit in entries(entry.get("hits"))
        )
        rows.append(NeighbourRow(Path(_text(query, "path")), _text(query, "label"), hits))
    return rows


def _text(record: Record, key: str) -> str:
    return str(record.get(key, ""))


def draw_neighbour_grid(rows: Sequence[NeighbourRow], *, tile: int = 112) -> Image.Image:
    """Draw one line per row: the query on the left, its neighbours to the right, each `tile` pixels wide.

    A hit has a green frame and a check mark, a miss a red frame and a cross. An unreadable image is a grey tile with
    a note.
    """
    if tile < 32:
        raise ValueError(f"tile must be at least 32 pixels, got {tile}")
    num_columns = 1 + max((len(row.hits) for row in rows), default=0)
    font_size = max(9, round(tile / 10))
    text_height = round(font_size * 2.9)
    cell_width, cell_height = tile + _GAP, tile + text_height + _GAP
    # An extra gap separates the query from its neighbours.
    query_gap = _GAP
    width = num_columns * cell_width + query_gap + _GAP
    grid = Image.new("RGB", (width, max(1, len(rows)) * cell_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(grid)
    for position, row in enumerate(rows):
        top = _GAP + position * cell_height
        _draw_cell(grid, (_GAP, top), row.path, tile, colour=_INK, frame=1)
        _draw_texts(draw, (_GAP, top + tile + 3), tile, font_size, (row.label, "query"))
        for column, hit in enumerate(row.hits, start=1):
            left = _GAP + query_gap + column * cell_width
            colour = HIT_COLOUR if hit.is_hit else MISS_COLOUR
            _draw_cell(grid, (left, top), hit.path, tile, colour=colour, frame=_FRAME)
            _draw_mark(draw, (left + tile, top), font_size, is_hit=hit.is_hit)
            _draw_texts(draw, (left, top + tile + 3), tile, font_size, (hit.label, f"{hit.score:.3f}"))
    return grid


def _draw_cell(grid: Image.Image, corner: tuple[int, int], path: Path, tile: int, *, colour: str, frame: int) -> None:
    draw = ImageDraw.Draw(grid)
    left, top = corner
    box = (left, top, left + tile - 1, top + tile - 1)
    inner = tile - 2 * frame
    try:
        image = ImageOps.contain(decode_image(path.read_bytes()), (inner, inner), Image.Resampling.LANCZOS)
    except (OSError, InvalidImage):
        draw.rectangle(box, fill=_GREY, outline=colour, width=frame)
        middle = (left + tile // 2, top + tile // 2)
        draw.text(middle, "cannot be\nread", font=_font(max(9, tile // 10)), fill=_INK, anchor="mm", align="center")
        return
    draw.rectangle(box, fill=_TILE, outline=colour, width=frame)
    grid.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))


def _draw_mark(draw: ImageDraw.ImageDraw, corner: tuple[int, int], font_size: int, *, is_hit: bool) -> None:
    """Draw a badge in the upper right corner, so that the mark does not rely on colour alone."""
    right, top = corner
    size = font_size + 7
    box = (right - size, top, right - 1, top + size - 1)
    draw.rectangle(box, fill=HIT_COLOUR if is_hit else MISS_COLOUR)
    middle = (right - size / 2, top + size / 2)
    draw.text(middle, "✓" if is_hit else "✗", font=_font(font_size + 2), fill=_PAPER, anchor="mm")


def _draw_texts(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], width: int, font_size: int, texts: tuple[str, str]
) -> None:
    left, top = corner
    font = _font(font_size)
    for line, (text, colour) in enumerate(zip(texts, (_INK, _QUIET), strict=True)):
        place = (left, top + line * round(font_size * 1.3))
        draw.text(place, _shortened(text, font, width), font=font, fill=colour)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text on one line, cut so that it fits into `width` pixels."""
    # Longer text never fits, and measuring a very long label is slow.
    line = " ".join(text[:300].split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's built-in font lacks check marks and non-Latin letters; Matplotlib ships one with both.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
