"""Emblems of flavours, drawn from circles and polygons.

Each drawing uses the unit square, with y growing downwards.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from PIL import Image, ImageDraw

from service.demo.sample.products import COLOURS, Colour, luminance, mix

Point = tuple[float, float]

# Emblems are drawn larger and reduced, since ImageDraw does not antialias.
_OVERSAMPLING = 3


class _Pen:
    """Draws on the unit square of an oversampled transparent image."""

    def __init__(self, side: int) -> None:
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._side = side

    def disc(self, x: float, y: float, radius: float, colour: Colour, *, stretch: float = 1.0) -> None:
        """Fill a circle, or an ellipse `stretch` times as high as wide."""
        box = (x - radius, y - radius * stretch, x + radius, y + radius * stretch)
        self._draw.ellipse([value * self._side for value in box], fill=colour)

    def shape(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon."""
        self._draw.polygon([(x * self._side, y * self._side) for x, y in points], fill=colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line with round joints."""
        scaled = [(x * self._side, y * self._side) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(width * self._side)), joint="curve")


@lru_cache(maxsize=64)
def draw_emblem(name: str, colour: Colour, side: int) -> Image.Image:
    """Draw an emblem as an RGBA image of `side` pixels; the caller must not change it."""
    pen = _Pen(side * _OVERSAMPLING)
    _DRAWINGS[name](pen, colour)
    return pen.image.reduce(_OVERSAMPLING)


def _ring(x: float, y: float, radius: float, count: int, *, start: float = 0.0) -> list[Point]:
    """Return points spread evenly on a circle; `start` is the first one's angle in turns."""
    angles = [2 * math.pi * (start + number / count) for number in range(count)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _petal(x: float, y: float, length: float, turns: float, breadth: float = 0.3) -> list[Point]:
    """Return the outline of a leaf that starts at (x, y) and points in the direction `turns`."""
    along = (math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns))
    outline = []
    for step in range(21):
        t = step / 10 if step <= 10 else 2 - step / 10
        side = (1 if step <= 10 else -1) * breadth * length * math.sin(math.pi * t**0.8)
        forth = t * length
        outline.append((x + along[0] * forth - along[1] * side, y + along[1] * forth + along[0] * side))
    return outline


def _light(colour: Colour) -> Colour:
    return mix(colour, COLOURS["white"], 0.45)


def _dark(colour: Colour) -> Colour:
    return mix(colour, COLOURS["black"], 0.4)


def _citrus(pen: _Pen, colour: Colour) -> None:
    pen.disc(0.5, 0.5, 0.45, colour)
    pen.disc(0.5, 0.5, 0.39, mix(colour, COLOURS["white"], 0.85))
    for number in range(8):
        turns = number / 8
        tip = _ring(0.5, 0.5, 0.05, 1, start=turns)[0]
        rim = [_ring(0.5, 0.5, 0.36, 1, start=turns + step / 40)[0] for step in range(-2, 3)]
        pen.shape([tip, *rim], mix(colour, COLOURS["white"], 0.12))


def _strawberry(pen: _Pen, colour: Colour) -> None:
    pen.shape([(0.5, 0.97), (0.2, 0.62), (0.13, 0.42), (0.22, 0.28), (0.5, 0.25), (0.78, 0.28), (0.87, 0.42),
               (0.8, 0.62)], colour)  # fmt: skip
    for x, y in (
        (0.35, 0.42),
        (0.5, 0.4),
        (0.65, 0.42),
        (0.42, 0.56),
        (0.58, 0.56),
        (0.5, 0.72),
        (0.28, 0.5),
    ):
        pen.disc(x, y, 0.022, COLOURS["cream"], stretch=1.5)
    for turns in (0.53, 0.64, 0.75, 0.86, 0.97):
        pen.shape(_petal(0.5, 0.27, 0.28, turns), COLOURS["green"])


def _berries(pen: _Pen, colour: Colour) -> None:
    pen.shape(_petal(0.5, 0.3, 0.42, 0.93), COLOURS["green"])
    pen.shape(_petal(0.5, 0.3, 0.42, 0.6), COLOURS["green"])
    for x, y in ((0.33, 0.42), (0.64, 0.4), (0.5, 0.68)):
        pen.disc(x, y, 0.21, colour)
        pen.shape(_ring(x, y - 0.03, 0.1, 5, start=0.25), _dark(colour))
        pen.disc(x - 0.08, y - 0.09, 0.045, _light(colour))


def _grapes(pen: _Pen, colour: Colour) -> None:
    pen.shape(_petal(0.5, 0.22, 0.36, 0.9), COLOURS["green"])
    for row, count in enumerate((4, 3, 2, 1)):
        for column in range(count):
            x, y = 0.5 + (column - (count - 1) / 2) * 0.2, 0.32 + row * 0.17
            pen.disc(x, y, 0.115, mix(colour, COLOURS["black"], 0.12 * (column % 2)))
            pen.disc(x - 0.03, y - 0.04, 0.025, _light(colour))


def _apple(pen: _Pen, colour: Colour) -> None:
    pen.stroke([(0.5, 0.35), (0.55, 0.1)], 0.05, COLOURS["brown"])
    pen.shape(_petal(0.54, 0.2, 0.32, 0.95), COLOURS["green"])
    pen.disc(0.36, 0.58, 0.28, colour, stretch=1.2)
    pen.disc(0.64, 0.58, 0.28, mix(colour, COLOURS["black"], 0.1), stretch=1.2)
    pen.disc(0.28, 0.48, 0.07, _light(colour), stretch=1.6)


def _pear(pen: _Pen, colour: Colour) -> None:
    pen.stroke([(0.5, 0.2), (0.54, 0.05)], 0.05, COLOURS["brown"])
    pen.shape(_petal(0.53, 0.12, 0.3, 0.95), COLOURS["green"])
    pen.disc(0.5, 0.34, 0.17, colour, stretch=1.2)
    pen.shape([(0.34, 0.36), (0.66, 0.36), (0.78, 0.6), (0.22, 0.6)], colour)
    pen.disc(0.5, 0.68, 0.3, colour, stretch=0.95)
    pen.disc(0.38, 0.6, 0.06, _light(colour), stretch=1.6)


def _cherry(pen: _Pen, colour: Colour) -> None:
    pen.stroke([(0.28, 0.7), (0.42, 0.35), (0.62, 0.1)], 0.035, COLOURS["green"])
    pen.stroke([(0.72, 0.72), (0.7, 0.4), (0.62, 0.1)], 0.035, COLOURS["green"])
    pen.shape(_petal(0.62, 0.12, 0.36, 0.02), COLOURS["green"])
    for x in (0.28, 0.72):
        pen.disc(x, 0.74, 0.2, colour)
        pen.disc(x - 0.07, 0.67, 0.045, _light(colour))


def _tomato(pen: _Pen, colour: Colour) -> None:
    pen.disc(0.5, 0.56, 0.42, colour, stretch=0.9)
    pen.disc(0.3, 0.45, 0.08, _light(colour))
    for turns in (0.03, 0.2, 0.37, 0.55, 0.75, 0.95):
        pen.shape(_petal(0.5, 0.25, 0.24, turns, 0.2), COLOURS["green"])


def _chilli(pen: _Pen, colour: Colour) -> None:
    pen.shape([(0.2, 0.25), (0.42, 0.2), (0.5, 0.45), (0.68, 0.68), (0.95, 0.85), (0.62, 0.84), (0.36, 0.68),
               (0.22, 0.45)], colour)  # fmt: skip
    pen.stroke([(0.3, 0.24), (0.26, 0.12), (0.16, 0.06)], 0.06, COLOURS["green"])
    pen.stroke([(0.32, 0.36), (0.42, 0.58), (0.56, 0.72)], 0.025, _light(colour))


def _olive(pen: _Pen, colour: Colour) -> None:
    pen.shape(_petal(0.5, 0.2, 0.4, 0.95, 0.16), COLOURS["green"])
    pen.shape(_petal(0.5, 0.2, 0.4, 0.55, 0.16), COLOURS["green"])
    for x, y in ((0.35, 0.58), (0.66, 0.64)):
        pen.disc(x, y, 0.17, colour, stretch=1.4)
        pen.disc(x - 0.02, y - 0.12, 0.05, _dark(colour))


def _leaf(pen: _Pen, colour: Colour) -> None:
    for turns, length in ((0.6, 0.62), (0.9, 0.62), (0.75, 0.8)):
        pen.shape(_petal(0.5, 0.92, length, turns), mix(colour, COLOURS["black"], abs(turns - 0.75)))
        (tip,) = _ring(0.5, 0.92, length * 0.85, 1, start=turns)
        pen.stroke([(0.5, 0.92), tip], 0.018, _light(colour))


def _sprig(pen: _Pen, colour: Colour) -> None:
    pen.stroke([(0.5, 0.98), (0.5, 0.08)], 0.03, _dark(colour))
    for step in range(6):
        y = 0.85 - step * 0.13
        pen.shape(_petal(0.5, y, 0.32, 0.9), colour)
        pen.shape(_petal(0.5, y, 0.32, 0.6), mix(colour, COLOURS["black"], 0.15))


def _flower(pen: _Pen, colour: Colour) -> None:
    for number in range(8):
        tone = mix(colour, COLOURS["white"], 0.25 * (number % 2))
        pen.shape(_petal(0.5, 0.5, 0.47, number / 8, 0.22), tone)
    pen.disc(0.5, 0.5, 0.13, COLOURS["yellow"] if luminance(colour) < 0.5 else COLOURS["orange"])


def _bean(pen: _Pen, colour: Colour) -> None:
    for x, y in ((0.32, 0.4), (0.66, 0.56)):
        pen.disc(x, y, 0.22, colour, stretch=1.4)
        pen.stroke([(x + 0.04, y - 0.26), (x - 0.04, y), (x + 0.04, y + 0.26)], 0.035, _light(colour))


def _nut(pen: _Pen, colour: Colour) -> None:
    for x, y in ((0.34, 0.56), (0.68, 0.5)):
        pen.shape([(x - 0.24, y), (x, y - 0.38), (x + 0.24, y)], colour)
        pen.disc(x, y, 0.24, colour, stretch=1.2)
        pen.disc(x, y + 0.16, 0.17, _light(colour), stretch=0.6)


def _honeycomb(pen: _Pen, colour: Colour) -> None:
    for number, (x, y) in enumerate([(0.5, 0.5), *_ring(0.5, 0.5, 0.32, 6)]):
        pen.shape(_ring(x, y, 0.17, 6, start=1 / 12), mix(colour, COLOURS["brown"], 0.12 * (number % 3)))


def _drop(pen: _Pen, colour: Colour) -> None:
    pen.shape([(0.5, 0.04), (0.66, 0.34), (0.79, 0.6), (0.21, 0.6), (0.34, 0.34)], colour)
    pen.disc(0.5, 0.66, 0.3, colour)
    pen.disc(0.4, 0.64, 0.07, _light(colour), stretch=1.7)


def _star(pen: _Pen, colour: Colour) -> None:
    outer, inner = _ring(0.5, 0.5, 0.47, 8, start=-0.25), _ring(0.5, 0.5, 0.22, 8, start=-0.1875)
    pen.shape([point for pair in zip(outer, inner, strict=True) for point in pair], colour)
    pen.disc(0.5, 0.5, 0.1, _light(colour))


def _sun(pen: _Pen, colour: Colour) -> None:
    for number in range(12):
        pen.shape(_petal(0.5, 0.5, 0.48, number / 12, 0.1), colour)
    pen.disc(0.5, 0.5, 0.3, COLOURS["cream"])
    pen.disc(0.5, 0.5, 0.26, colour)


def _wave(pen: _Pen, colour: Colour) -> None:
    for row in range(4):
        points = [(0.04 + t * 0.046, 0.25 + row * 0.17 + 0.06 * math.sin(t * 0.9)) for t in range(21)]
        pen.stroke(points, 0.075, mix(colour, COLOURS["white"], 0.18 * row))


def _heart(pen: _Pen, colour: Colour) -> None:
    pen.disc(0.3, 0.36, 0.225, colour)
    pen.disc(0.7, 0.36, 0.225, colour)
    pen.shape([(0.5, 0.95), (0.1, 0.46), (0.5, 0.3), (0.9, 0.46)], colour)


def _mountain(pen: _Pen, colour: Colour) -> None:
    pen.shape([(0.02, 0.85), (0.36, 0.22), (0.7, 0.85)], colour)
    pen.shape([(0.25, 0.42), (0.36, 0.22), (0.47, 0.42), (0.36, 0.5)], COLOURS["white"])
    pen.shape([(0.4, 0.85), (0.7, 0.4), (0.98, 0.85)], _dark(colour))


def _dots(pen: _Pen, colour: Colour) -> None:
    for x, y in [(0.5, 0.5), *_ring(0.5, 0.5, 0.22, 5), *_ring(0.5, 0.5, 0.42, 9, start=0.06)]:
        pen.disc(x, y, 0.07, colour)


_DRAWINGS: dict[str, Callable[[_Pen, Colour], None]] = {
    "apple": _apple, "bean": _bean, "berries": _berries, "cherry": _cherry, "chilli": _chilli, "citrus": _citrus,
    "dots": _dots, "drop": _drop, "flower": _flower, "grapes": _grapes, "heart": _heart, "honeycomb": _honeycomb,
    "leaf": _leaf, "mountain": _mountain, "nut": _nut, "olive": _olive, "pear": _pear, "sprig": _sprig,
    "star": _star, "strawberry": _strawberry, "sun": _sun, "tomato": _tomato, "wave": _wave,
}  # fmt: skip
