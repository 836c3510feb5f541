from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.images import png
from training.report.neighbours import (
    HIT_COLOUR,
    MISS_COLOUR,
    Neighbour,
    NeighbourRow,
    choose_rows,
    draw_neighbour_grid,
    read_neighbours,
    write_neighbours,
)


@dataclass(frozen=True)
class Image:
    path: Path
    label: str


def images(labels):
    return [Image(Path(f"{position}.png"), label) for position, label in enumerate(labels)]


def row(path, *, hits=(True, False), label="apple"):
    found = tuple(Neighbour(path, label if is_hit else "pear", 0.75, is_hit) for is_hit in hits)
    return NeighbourRow(path, label, found)


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    path.write_bytes(png("red", (50, 20)))
    return path


def chosen(labels, is_right, num_rows=4):
    """Let queries of `labels` find their own class first where `is_right`, and choose rows among them."""
    gallery = images([*sorted(set(labels)), "other"])
    first = [
        next(place for place, image in enumerate(gallery) if image.label == (label if right else "other"))
        for label, right in zip(labels, is_right, strict=True)
    ]
    return choose_rows(
        images(labels),
        gallery,
        np.array(first)[:, None],
        np.full((len(labels), 1), 0.5, np.float32),
        num_rows=num_rows,
    )


def test_half_of_the_rows_are_misses():
    rows = chosen("abcdefgh", [True, True, True, True, False, False, False, False])

    assert [row.hits[0].is_hit for row in rows] == [True, True, False, False]


@pytest.mark.parametrize(("num_right", "expected"), [(0, 0), (1, 1), (7, 3), (8, 4)])
def test_where_one_half_is_short_the_other_fills_up(num_right, expected):
    rows = chosen("abcdefgh", [position < num_right for position in range(8)])

    assert len(rows) == 4
    assert sum(row.hits[0].is_hit for row in rows) == expected


def test_as_many_classes_as_possible_are_shown():
    rows = chosen("aaaaaaabbc", [True] * 10, num_rows=3)

    assert {row.label for row in rows} == {"a", "b", "c"}


def test_no_query_is_shown_twice():
    rows = chosen("aaab", [True, True, False, True], num_rows=12)

    assert len({row.path for row in rows}) == len(rows) == 4


def test_the_choice_is_the_same_every_time():
    labels, is_right = "abcabcabcabc", [True, False] * 6

    assert chosen(labels, is_right) == chosen(labels, is_right)


def test_empty_places_are_left_out():
    rows = choose_rows(
        images("ab"), images("ab"), np.array([[0, -1], [-1, -1]]), np.array([[0.9, 0.0], [0.0, 0.0]], np.float32)
    )

    assert [len(row.hits) for row in rows] == [1]


def test_no_queries_give_no_rows():
    assert choose_rows([], images("ab"), np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32)) == []


def colours(image):
    return {f"#{red:02X}{green:02X}{blue:02X}" for red, green, blue in np.asarray(image).reshape(-1, 3)}


def test_hits_and_misses_are_framed_and_marked(red):
    hit, miss = (draw_neighbour_grid([row(red, hits=(is_hit,))]) for is_hit in (True, False))

    assert HIT_COLOUR in colours(hit)
    assert MISS_COLOUR not in colours(hit)
    assert MISS_COLOUR in colours(miss)
    assert HIT_COLOUR not in colours(miss)
    # Without its colours a hit still differs from a miss: the badge holds another sign.
    assert (np.asarray(hit.convert("L")) > 200).tolist() != (np.asarray(miss.convert("L")) > 200).tolist()


def test_an_image_keeps_its_aspect_ratio(red):
    grid = np.asarray(draw_neighbour_grid([NeighbourRow(red, "apple", ())], tile=112))

    is_red = (grid == (255, 0, 0)).all(axis=2)
    assert is_red.any(axis=0).sum() == 110
    assert is_red.any(axis=1).sum() == 44


def test_an_unreadable_image_becomes_a_grey_tile(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")

    for path in (tmp_path / "broken.jpg", tmp_path / "absent.jpg", tmp_path):
        assert "#C9CCD0" in colours(draw_neighbour_grid([row(path)]))


@pytest.mark.parametrize("label", ["", "x" * 100_000, "two\nlines", "苹果 🍎", "<b>&amp;", "Äpfel"])
def test_any_label_fits_its_tile(red, label):
    grid = draw_neighbour_grid([row(red, label=label)])

    assert grid.size == draw_neighbour_grid([row(red)]).size


def test_a_grid_is_as_wide_as_its_longest_row(red):
    short, long = row(red, hits=(True,)), row(red, hits=(True,) * 5)

    assert draw_neighbour_grid([short, long]).width == draw_neighbour_grid([long]).width


def test_an_empty_grid_and_tiny_tiles():
    assert draw_neighbour_grid([]).width > 0
    with pytest.raises(ValueError, match="at least 32 pixels, got 8"):
        draw_neighbour_grid([], tile=8)


def test_rows_come_back_from_the_run_folder(tmp_path, red):
    rows = [row(red), row(red, label="Äpfel", hits=())]

    path = write_neighbours(tmp_path, rows)

    assert path == tmp_path / "neighbours.jpg"
    assert (tmp_path / "neighbours.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert read_neighbours(tmp_path) == rows


def test_no_rows_leave_no_image(tmp_path, red):
    write_neighbours(tmp_path, [row(red)])

    assert write_neighbours(tmp_path, []) is None
    assert not (tmp_path / "neighbours.jpg").exists()
    assert read_neighbours(tmp_path) == []
