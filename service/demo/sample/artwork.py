"""The print of packages: ground pattern, brand, emblem and text on flat panels."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.demo.sample.emblems import draw_emblem
from service.demo.sample.products import COLOURS, Colour, Lettering, PackageDesign, luminance, mix

Pixels = NDArray[np.float32]
Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the panel

_PLAIN_LETTERING = Lettering(is_upper=False, slant=0.0, weight=1)
_MEASURED_SIZE = 64


@lru_cache(maxsize=4)
def front_panel(design: PackageDesign, width: int, height: int) -> Image.Image:
    """Print the front of a package (RGB); the caller must not change the image."""
    panel = _ground(design, width, height)
    _LAYOUT_PRINTERS[design.layout](panel, design)
    write_text(panel, design.size, (0.66, 0.945, 0.96, 0.985), _ink_on(design.ground))
    return panel


@lru_cache(maxsize=4)
def side_panel(design: PackageDesign, width: int, height: int) -> Image.Image:
    """Print the side of a package (RGB): the brand, ingredients as small print, a barcode."""
    panel = Image.new("RGB", (width, height), mix(design.ground, design.pattern_colour, 0.3))
    write_text(panel, design.brand, (0.1, 0.05, 0.9, 0.14), _ink_on(design.ground), design.lettering)
    _small_print(panel, (0.12, 0.2, 0.88, 0.7), _ink_on(design.ground))
    _barcode(panel, (0.15, 0.78, 0.85, 0.93))
    return panel


@lru_cache(maxsize=4)
def wrapped_label(design: PackageDesign, width: int, height: int) -> Image.Image:
    """Print a label that goes once around a package (RGB), with the front panel in its middle."""
    label = _ground(design, width, height)
    front_width = round(width * 0.4)
    front = front_panel(design, front_width, height)
    label.paste(front, ((width - front_width) // 2, 0))
    back = (0.0, 0.1, 0.17, 0.9)
    ImageDraw.Draw(label).rectangle(_pixels(label, back), fill=mix(design.ground, COLOURS["white"], 0.6))
    _small_print(label, (0.02, 0.15, 0.15, 0.6), COLOURS["black"])
    _barcode(label, (0.03, 0.66, 0.14, 0.86))
    return label


def write_text(
    panel: Image.Image,
    text: str,
    box: Box,
    colour: Colour,
    lettering: Lettering = _PLAIN_LETTERING,
    *,
    turned: bool = False,
) -> None:
    """Write one line as large as `box` allows, centred in it; `turned` reads from bottom to top."""
    left, top, right, bottom = _pixels(panel, box)
    width, height = (bottom - top, right - left) if turned else (right - left, bottom - top)
    mask = _text_mask(text.upper() if lettering.is_upper else text, lettering, width, height)
    if turned:
        mask = mask.transpose(Image.Transpose.ROTATE_90)
    corner = ((left + right - mask.width) // 2, (top + bottom - mask.height) // 2)
    panel.paste(colour, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)


def _text_mask(text: str, lettering: Lettering, width: int, height: int) -> Image.Image:
    """Render text as a mask no larger than the box given."""
    measured = _font(_MEASURED_SIZE).getbbox(text, stroke_width=_MEASURED_SIZE * lettering.weight // 100)
    text_width = measured[2] - measured[0] + lettering.slant * (measured[3] - measured[1])
    size = min(width / text_width, height / (measured[3] - measured[1])) * _MEASURED_SIZE
    font, stroke = _font(max(5, int(size))), int(size) * lettering.weight / 100
    left, top, right, bottom = font.getbbox(text, stroke_width=stroke)
    shear = lettering.slant * (bottom - top)
    mask = Image.new("L", (max(1, math.ceil(right - left + shear)), max(1, math.ceil(bottom - top))))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, stroke_width=stroke)
    if lettering.slant:
        coefficients = (1, lettering.slant, -shear, 0, 1, 0)
        mask = mask.transform(mask.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    return mask


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _pixels(panel: Image.Image, box: Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    width, height = panel.size
    return round(left * width), round(top * height), round(right * width), round(bottom * height)


def _ink_on(colour: Colour) -> Colour:
    """Return black or white, whichever can be read on `colour`."""
    return COLOURS["white"] if luminance(colour) < 0.55 else COLOURS["black"]


def _readable(colour: Colour, ground: Colour) -> Colour:
    """Return `colour` if it can be read on `ground`, else black or white."""
    return colour if abs(luminance(colour) - luminance(ground)) > 0.3 else _ink_on(ground)


def _looks_alike(first: Colour, second: Colour) -> bool:
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) < 130


def _ground(design: PackageDesign, width: int, height: int) -> Image.Image:
    """Print the ground with its pattern."""
    share = _pattern_share(design, width, height)[..., None]
    ground, second = np.array(design.ground, np.float32), np.array(design.pattern_colour, np.float32)
    return Image.fromarray((ground + (second - ground) * share).astype(np.uint8))


def _pattern_share(design: PackageDesign, width: int, height: int) -> Pixels:
    """Return the second colour's share 0..1 in each pixel [height, width]."""
    angle = math.radians(design.pattern_angle)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x -= width / 2
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    period = 14 + 44 * design.pattern_scale
    turn = 2 * math.pi / period
    match design.pattern:
        case "plain":
            return np.zeros((height, width), np.float32)
        case "gradient":
            descent: Pixels = y / height
            return descent
        case "stripes":
            wave = np.sin(along * turn)
        case "bands":
            wave = np.sin(y * turn / 2) - 0.4
        case "dots":
            wave = np.sin(along * turn) * np.sin(across * turn) - 0.45
        case "waves":
            wave = np.sin((y + 0.2 * period * np.sin(x * turn)) * turn)
        case "checks":
            wave = np.sin(along * turn / 2) * np.sin(across * turn / 2)
        case "rays":
            wave = np.sin(np.arctan2(y - height * 0.45, x) * 4 * round(2 + 3 * design.pattern_scale))
        case "chevrons":
            wave = np.sin((y + np.abs((x % (2 * period)) - period)) * turn)
        case _:
            leaf = np.sin(along * turn / 1.5) * np.sin(across * turn / 3)
            wave = np.abs(leaf) - 0.6
    # A slope of one pixel smooths the edges.
    share: Pixels = np.clip(wave * period / (2 * math.pi) + 0.5, 0, 1).astype(np.float32)
    return share


def _small_print(panel: Image.Image, box: Box, colour: Colour) -> None:
    """Suggest lines of text too small to read."""
    left, top, right, bottom = _pixels(panel, box)
    draw = ImageDraw.Draw(panel)
    for number, y in enumerate(range(top, bottom, 6)):
        end = right - (right - left) * (number * 37 % 23) // 60
        draw.line((left, y, end, y), fill=colour, width=2)


def _barcode(panel: Image.Image, box: Box) -> None:
    left, top, right, bottom = _pixels(panel, box)
    draw = ImageDraw.Draw(panel)
    draw.rectangle((left, top, right, bottom), fill=COLOURS["white"])
    for number, x in enumerate(range(left + 3, right - 2, 3)):
        draw.line((x, top + 2, x, bottom - 3), fill=COLOURS["black"], width=1 + number * 7 % 3 // 2)


def _paste_emblems(panel: Image.Image, design: PackageDesign, box: Box) -> None:
    """Print the emblem once, or several times along a slight arc."""
    left, top, right, bottom = _pixels(panel, box)
    count = design.emblem_count
    if any(_looks_alike(design.flavour.colour, colour) for colour in (design.ground, design.pattern_colour)):
        # A pale patch, so that an emblem does not vanish on a package of its own colour.
        patch = mix(design.ground, COLOURS["black" if luminance(design.ground) > 0.8 else "white"], 0.72)
        ImageDraw.Draw(panel).ellipse((left, top, right, bottom), fill=patch)
    step = (right - left) / count
    side = max(8, int(min(step * (1.0 if count == 1 else 1.25), bottom - top)))
    emblem = draw_emblem(design.flavour.emblem, design.flavour.colour, side)
    for number in range(count):
        x = left + step * (number + 0.5) - side / 2
        drop = 0.0 if number % 2 else 0.15 * side * (count > 1)
        panel.paste(emblem, (round(x), round((top + bottom - side) / 2 + drop)), emblem)


def _print_stacked(panel: Image.Image, design: PackageDesign) -> None:
    """Brand on a band at the top, emblem in the middle, flavour on a ribbon."""
    draw = ImageDraw.Draw(panel)
    draw.rectangle(_pixels(panel, (0, 0.07, 1, 0.25)), fill=design.house_colour)
    write_text(panel, design.brand, (0.08, 0.1, 0.92, 0.22), _ink_on(design.house_colour), design.lettering)
    write_text(panel, design.kind, (0.12, 0.29, 0.88, 0.37), _ink_on(design.ground))
    _paste_emblems(panel, design, (0.1, 0.4, 0.9, 0.76))
    draw.rectangle(_pixels(panel, (0, 0.8, 1, 0.92)), fill=design.flavour.colour)
    write_text(panel, design.flavour.name, (0.1, 0.82, 0.9, 0.9), _ink_on(design.flavour.colour))


def _print_badge(panel: Image.Image, design: PackageDesign) -> None:
    """Brand and kind in an oval badge, emblem and flavour under it."""
    draw = ImageDraw.Draw(panel)
    draw.ellipse(_pixels(panel, (0.03, 0.12, 0.97, 0.52)), fill=design.house_colour)
    draw.ellipse(_pixels(panel, (0.07, 0.14, 0.93, 0.5)), fill=COLOURS["cream"])
    write_text(
        panel,
        design.brand,
        (0.14, 0.22, 0.86, 0.35),
        _readable(design.house_colour, COLOURS["cream"]),
        design.lettering,
    )
    write_text(panel, design.kind, (0.24, 0.37, 0.76, 0.44), COLOURS["black"])
    _paste_emblems(panel, design, (0.1, 0.54, 0.9, 0.82))
    write_text(panel, design.flavour.name, (0.08, 0.84, 0.92, 0.93), _ink_on(design.ground))


def _print_diagonal(panel: Image.Image, design: PackageDesign) -> None:
    """A slanted field of the flavour's colour below the brand."""
    width, height = panel.size
    field = [(0, 0.62 * height), (width, 0.4 * height), (width, height), (0, height)]
    ImageDraw.Draw(panel).polygon(field, fill=mix(design.flavour.colour, COLOURS["white"], 0.35))
    write_text(
        panel,
        design.brand,
        (0.06, 0.08, 0.94, 0.24),
        _readable(design.house_colour, design.ground),
        design.lettering,
    )
    write_text(panel, design.kind, (0.06, 0.27, 0.6, 0.35), _ink_on(design.ground))
    _paste_emblems(panel, design, (0.22, 0.5, 0.96, 0.84))
    write_text(panel, design.flavour.name, (0.06, 0.86, 0.8, 0.94), COLOURS["black"])


def _print_spine(panel: Image.Image, design: PackageDesign) -> None:
    """The brand upwards on a strip at the left, everything else beside it."""
    ImageDraw.Draw(panel).rectangle(_pixels(panel, (0, 0, 0.3, 1)), fill=design.house_colour)
    write_text(
        panel,
        design.brand,
        (0.05, 0.06, 0.25, 0.94),
        _ink_on(design.house_colour),
        design.lettering,
        turned=True,
    )
    write_text(panel, design.kind, (0.35, 0.08, 0.95, 0.2), _ink_on(design.ground))
    _paste_emblems(panel, design, (0.33, 0.25, 0.97, 0.68))
    ImageDraw.Draw(panel).rectangle(_pixels(panel, (0.3, 0.74, 1, 0.88)), fill=design.flavour.colour)
    write_text(panel, design.flavour.name, (0.35, 0.76, 0.95, 0.86), _ink_on(design.flavour.colour))


def _print_hero(panel: Image.Image, design: PackageDesign) -> None:
    """One large emblem; brand above, kind and flavour in a pill below."""
    write_text(
        panel,
        design.brand,
        (0.05, 0.06, 0.95, 0.2),
        _readable(design.house_colour, design.ground),
        design.lettering,
    )
    _paste_emblems(panel, design, (0.04, 0.2, 0.96, 0.72))
    pill = _pixels(panel, (0.06, 0.74, 0.94, 0.93))
    ImageDraw.Draw(panel).rounded_rectangle(pill, radius=(pill[3] - pill[1]) // 3, fill=COLOURS["white"])
    write_text(panel, design.kind, (0.14, 0.76, 0.86, 0.84), COLOURS["black"], Lettering(False, 0.0, 4))
    write_text(
        panel,
        design.flavour.name,
        (0.14, 0.85, 0.86, 0.92),
        _readable(design.flavour.colour, COLOURS["white"]),
    )


_LAYOUT_PRINTERS: dict[str, Callable[[Image.Image, PackageDesign], None]] = {
    "stacked": _print_stacked,
    "badge": _print_badge,
    "diagonal": _print_diagonal,
    "spine": _print_spine,
    "hero": _print_hero,
}
