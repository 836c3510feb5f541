"""Draw packages: printed panels on a lit body, as RGBA images with a transparent background.

Bottles, cans, tins, jars, cups and tubes are solids of revolution drawn pixel by pixel; boxes and cartons are
panels projected in perspective; pouches are one panel with a soft outline and folds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.demo.sample.artwork import front_panel, side_panel, wrapped_label
from service.demo.sample.products import COLOURS, Colour, PackageDesign, mix
from service.demo.sample.projection import project, stretch_over_quad

Pixels = NDArray[np.float32]

# The longer side of a package, before views scale it.
PACKAGE_PIXELS = 320

METAL: Colour = (190, 192, 196)


@dataclass(frozen=True, slots=True)
class Pose:
    """The pose of a package: turn about its vertical axis and tilt towards the viewer, both in degrees.

    `light` is the direction of the light, from -1 (left) to 1 (right).
    """

    turn: float = 0.0
    tilt: float = 4.0
    light: float = -0.4


@dataclass(frozen=True, slots=True)
class _Solid:
    """A solid of revolution: (height, radius) points as shares, and the heights of its label and of its cap."""

    profile: tuple[tuple[float, float], ...]
    label: tuple[float, float]
    cap: tuple[float, float]
    squat: float  # width over height at form 0
    slender: float  # width over height at form 1
    is_metal: bool = False


_SOLIDS: dict[str, tuple[_Solid, ...]] = {
    "bottle": (
        _Solid(((0, 0.34), (0.1, 0.34), (0.1, 0.28), (0.22, 0.28), (0.38, 0.97), (0.42, 1), (0.97, 1), (1, 0.94)),
               (0.43, 0.9), (0, 0.09), 0.4, 0.3),
        _Solid(((0, 0.5), (0.13, 0.5), (0.13, 0.42), (0.16, 0.42), (0.22, 0.9), (0.27, 1), (0.6, 0.96), (0.97, 1),
                (1, 0.95)), (0.3, 0.92), (0, 0.13), 0.5, 0.38),
        _Solid(((0, 0.4), (0.08, 0.4), (0.08, 0.34), (0.12, 0.34), (0.35, 1), (0.5, 0.9), (0.62, 1), (0.97, 1),
                (1, 0.93)), (0.3, 0.86), (0, 0.08), 0.46, 0.36),
    ),
    "can": (
        _Solid(((0, 0.84), (0.02, 0.86), (0.06, 1), (0.95, 1), (0.985, 0.88), (1, 0.86)), (0.06, 0.95), (0, 0),
               0.56, 0.4, is_metal=True),
    ),
    "tin": (
        _Solid(((0, 1), (0.03, 1), (0.03, 0.975), (0.97, 0.975), (0.97, 1), (1, 1)), (0.08, 0.92), (0, 0),
               1.5, 0.72, is_metal=True),
    ),
    "jar": (
        _Solid(((0, 0.86), (0.17, 0.86), (0.17, 0.8), (0.2, 0.8), (0.29, 1), (0.95, 1), (1, 0.93)), (0.36, 0.86),
               (0, 0.16), 0.95, 0.62),
    ),
    "cup": (
        _Solid(((0, 1), (0.03, 1), (0.03, 0.94), (0.98, 0.72), (1, 0.7)), (0.05, 0.96), (0, 0.03), 1.05, 0.75),
    ),
    "tube": (
        _Solid(((0, 1), (0.05, 1), (0.5, 0.92), (0.8, 0.82), (0.84, 0.5), (0.85, 0.55), (1, 0.58)), (0.06, 0.8),
               (0.85, 1), 0.42, 0.32),
    ),
}  # fmt: skip


def draw_package(design: PackageDesign, pose: Pose) -> Image.Image:
    """Draw a package as an RGBA image whose longer side is about PACKAGE_PIXELS."""
    match design.shape:
        case "box":
            return _draw_box(design, pose)
        case "carton":
            return _draw_carton(design, pose)
        case "pouch":
            return _draw_pouch(design, pose)
        case _:
            return _draw_solid(design, pose)


def _draw_solid(design: PackageDesign, pose: Pose) -> Image.Image:
    solids = _SOLIDS[design.shape]
    # The later digits of the form choose among variants, the first ones between squat and slender.
    solid = solids[int(design.form * 1000) % len(solids)]
    width, height = _scaled(solid.squat + (solid.slender - solid.squat) * design.form)
    levels, radii = zip(*solid.profile, strict=True)
    radius = np.interp(np.linspace(0, 1, height), levels, radii).astype(np.float32) * (width / 2)
    # How far the front of the widest circle hangs below its sides; a tube's upper end is flat and has no circle.
    sag = width / 2 * math.sin(math.radians(pose.tilt * (0.25 if design.shape == "tube" else 1.0)))
    row, x, y, cover = _seen_rows(radius, width, sag)
    nearest_row = np.clip(row, 0, height - 1).astype(np.intp)
    theta = np.arcsin(np.clip(x / radius[nearest_row], -1, 1))
    level = (nearest_row / height).astype(np.float32)
    colour = _solid_colours(design, solid, level, theta + math.radians(pose.turn), (width, height))
    colour = colour * _round_shade(theta, pose.light)[..., None] + _gloss(theta, pose.light)[..., None]
    # Pixels above the upper edge of the front show the lid.
    from_centre = np.hypot(x, y * width / 2 / max(sag, 1e-3)) / radius[0]
    is_lid = row < 0
    colour[is_lid] = _lid_colours(design, solid, from_centre[is_lid])
    # Only the far half of the lid borders the background; smoothing its near edge would open a gap.
    lid_cover = np.where(y < 0, np.clip((1 - from_centre) * sag + 0.5, 0, 1), np.abs(x) <= radius[0])
    alpha = np.where(is_lid, lid_cover, cover)
    rgba = np.concatenate([np.clip(colour, 0, 255), alpha[..., None] * 255], axis=2)
    return Image.fromarray(rgba.astype(np.uint8))


def _scaled(aspect: float) -> tuple[int, int]:
    """Return width and height whose longer side is PACKAGE_PIXELS."""
    if aspect > 1:
        return PACKAGE_PIXELS, round(PACKAGE_PIXELS / aspect)
    return round(PACKAGE_PIXELS * aspect), PACKAGE_PIXELS


def _seen_rows(radius: Pixels, width: int, sag: float) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """Return four arrays over the output: the row of the body seen there, x and y from its top, and the cover.

    A circle of radius r looks like an ellipse whose front hangs lower by its share of `sag`. Going down a column,
    whatever would appear above a point already passed is hidden behind it, hence the running maximum. Rows are
    negative above the body; the cover is 0..1.
    """
    height = len(radius)
    y, x = np.mgrid[-math.ceil(sag) : height + math.ceil(sag), 0:width].astype(np.float32)
    x -= (width - 1) / 2
    rows = np.arange(height, dtype=np.float32)
    drop = sag / (width / 2) * np.sqrt(np.clip(radius[:, None] ** 2 - x[0] ** 2, 0, None))
    seen_at = np.maximum.accumulate(rows[:, None] + drop, axis=0)
    row = np.empty_like(y)
    for column in range(width):
        row[:, column] = np.interp(y[:, column], seen_at[:, column], rows, left=-1)
    cover = np.clip(seen_at[-1] + 1 - y, 0, 1)
    return row, x, y, cover * np.clip(radius[np.clip(row, 0, None).astype(np.intp)] - np.abs(x) + 0.5, 0, 1)


def _solid_colours(
    design: PackageDesign,
    solid: _Solid,
    level: Pixels,
    angle: Pixels,
    size: tuple[int, int],
) -> Pixels:
    """Return the unlit colour [H, W, 3] of each pixel from its level (0 top, 1 bottom) and angle (0 front)."""
    width, height = size
    colour = np.empty((*level.shape, 3), np.float32)
    colour[:] = _body_colour(design, solid)
    if design.shape == "tin":
        colour *= (1 + 0.12 * np.sin(level * height * 0.9))[..., None]
    in_cap = (level >= solid.cap[0]) & (level < solid.cap[1])
    ribs = 1 + 0.1 * np.sin(angle[in_cap] * 36)
    colour[in_cap] = np.array(design.cap_colour, np.float32) * ribs[:, None]
    top, bottom = solid.label
    in_label = (level >= top) & (level < bottom)
    label_width, label_height = round(math.pi * width), round((bottom - top) * height)
    label = np.asarray(wrapped_label(design, label_width, label_height))
    rows = ((level[in_label] - top) / (bottom - top) * label_height).astype(np.intp)
    columns = ((angle[in_label] / (2 * math.pi) + 0.5) * label_width).astype(np.intp) % label_width
    colour[in_label] = label[np.minimum(rows, label_height - 1), columns]
    return colour


def _body_colour(design: PackageDesign, solid: _Solid) -> Colour:
    """Return the colour of the unprinted body: metal, plastic, or the content seen through glass."""
    if solid.is_metal:
        return METAL
    if design.shape in ("bottle", "jar"):
        return mix(design.flavour.colour, COLOURS["white"], 0.12)
    return design.ground if design.shape == "tube" else COLOURS["white"]


def _lid_colours(design: PackageDesign, solid: _Solid, distance: Pixels) -> Pixels:
    """Return the colours of the lid seen from above, by the distance from its centre (1 at the rim)."""
    colour = METAL if solid.is_metal else design.cap_colour
    rim = np.where(np.abs(distance - 0.85) < 0.06, 0.75, 1.08).astype(np.float32)
    return np.array(colour, np.float32) * rim[..., None]


def _round_shade(theta: Pixels, light: float) -> Pixels:
    """Return how bright a round body is where its surface faces `theta` (0 towards the camera)."""
    shade: Pixels = 0.45 + 0.62 * np.clip(np.cos(theta - 0.8 * light), 0, 1)
    return shade


def _gloss(theta: Pixels, light: float) -> Pixels:
    """Return the brightness that two upright reflections add."""
    main = 60 * np.exp(-(((theta - light * 1.1) / 0.12) ** 2))
    gloss: Pixels = main + 25 * np.exp(-(((theta + light * 1.9) / 0.09) ** 2))
    return gloss


def _draw_box(design: PackageDesign, pose: Pose) -> Image.Image:
    is_upright = design.pattern_scale < 0.7
    width, height = _scaled(0.62 + 0.5 * design.form if is_upright else 1.25 + 0.4 * design.form)
    depth = round(min(width, height) * (0.28 + 0.3 * design.pattern_scale))
    return _draw_faces(_box_faces(design, width, height, depth), pose)


def _draw_carton(design: PackageDesign, pose: Pose) -> Image.Image:
    """A drink carton: a box with a sloping roof that ends in an upright fin."""
    width, height = _scaled(0.36 + 0.14 * design.form)
    depth, roof = width, round(width * 0.42)
    body_height = height - roof
    faces = _box_faces(design, width, body_height, depth)[:-1]
    right, below, back = width / 2, -body_height / 2, depth / 2
    ridge, fin = below - roof * 0.7, below - roof
    slope = front_panel(design, width, body_height).crop((0, 0, width, 8)).resize((width, roof))
    paper = Image.new("RGB", (depth, roof), mix(design.ground, COLOURS["black"], 0.15))
    for side in (-1, 1):
        # The gable's triangle: two of the quad's corners nearly meet at the ridge.
        tip = (side * right, ridge)
        corners = ((*tip, -1.0), (*tip, 1.0), (side * right, below, back), (side * right, below, -back))
        faces.append(_Face(paper, corners, 0.8))
    ridge_edge = (-right, ridge, 0.0), (right, ridge, 0.0)
    faces.append(_Face(slope, (*ridge_edge, (right, below, -back), (-right, below, -back)), 1.1))
    strip = Image.new("RGB", (width, roof - round(roof * 0.7)), design.house_colour)
    faces.append(_Face(strip, ((-right, fin, 0.0), (right, fin, 0.0), *reversed(ridge_edge)), 0.95))
    return _draw_faces(faces, pose)


@dataclass(frozen=True, slots=True)
class _Face:
    """A printed panel in space; its corners (x, y, z) start at the panel's top left and go clockwise."""

    panel: Image.Image
    corners: tuple[tuple[float, float, float], ...]
    brightness: float


def _box_faces(design: PackageDesign, width: int, height: int, depth: int) -> list[_Face]:
    """Return the sides, the front and the top of a box around the origin; the front lies at z = -depth / 2."""
    x, y, z = width / 2, height / 2, depth / 2
    side = side_panel(design, depth, height)
    top = Image.new("RGB", (width, depth), mix(design.ground, COLOURS["white"], 0.1))
    ImageDraw.Draw(top).line(
        (0, depth // 2, width, depth // 2), fill=mix(design.ground, COLOURS["black"], 0.3), width=2
    )
    return [
        _Face(side, ((-x, -y, z), (-x, -y, -z), (-x, y, -z), (-x, y, z)), 0.72),
        _Face(side, ((x, -y, -z), (x, -y, z), (x, y, z), (x, y, -z)), 0.72),
        _Face(front_panel(design, width, height), ((-x, -y, -z), (x, -y, -z), (x, y, -z), (-x, y, -z)), 1.0),
        _Face(top, ((-x, -y, z), (x, -y, z), (x, -y, -z), (-x, -y, -z)), 1.12),
    ]


def _draw_faces(faces: list[_Face], pose: Pose) -> Image.Image:
    """Draw those faces that look towards the camera, in the order given."""
    corners = np.array([face.corners for face in faces], np.float64).reshape(-1, 3)
    points = project(corners, math.radians(pose.turn), math.radians(pose.tilt), PACKAGE_PIXELS)
    points -= points.min(axis=0) - 2
    size = (math.ceil(points[:, 0].max()) + 2, math.ceil(points[:, 1].max()) + 2)
    package = Image.new("RGBA", size, (0, 0, 0, 0))
    for face, quad in zip(faces, points.reshape(-1, 4, 2), strict=True):
        if _signed_area(quad) < 4:
            continue
        lit = _lit(face, pose.light).convert("RGBA")
        package.alpha_composite(*stretch_over_quad(lit, [(float(x), float(y)) for x, y in quad], size))
    return package


def _lit(face: _Face, light: float) -> Image.Image:
    """Return the face's panel as bright as its own brightness and the side of the light make it."""
    # The upper edge of a left side runs towards the camera, that of a right side away from it.
    depth_step = face.corners[1][2] - face.corners[0][2]
    facing = 0.0 if depth_step == 0 else math.copysign(0.35, depth_step)
    brightness = face.brightness * (1 + facing * light)
    if brightness == 1:
        return face.panel
    return face.panel.point([min(255, round(value * brightness)) for value in range(256)] * 3)


def _signed_area(quad: NDArray[np.float64]) -> float:
    """Return the area of a quadrilateral in pixels; negative when it is seen from behind."""
    x, y = quad[:, 0], quad[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


def _draw_pouch(design: PackageDesign, pose: Pose) -> Image.Image:
    """A bag with crimped ends: the panel, darker towards its edges, with folds that catch the light."""
    width, height = _scaled(0.62 + 0.2 * design.form)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    inset = 0.05 * np.cos(y * math.pi / 2) + 0.012 * np.sin(y * 9 + design.form * 20)
    cover = np.clip((1 - inset - np.abs(x)) * width / 2 + 0.5, 0, 1)
    bulge = np.sqrt(np.clip(1 - np.abs(x) ** 2.6, 0, 1) * np.clip(1 - np.abs(y) ** 6, 0, 1))
    slope = np.gradient(bulge, axis=1) * width / 2
    creases = np.sin(x * 17 + 3 * np.sin(y * 5 + design.form * 30)) * np.abs(y) ** 3
    shade = 0.72 + 0.36 * bulge - 0.16 * pose.light * np.clip(slope, -1.5, 1.5) + 0.1 * creases
    crimp = np.abs(y) > 0.93
    shade = np.where(crimp, 0.85 + 0.12 * np.sin(x * width * 0.55), shade)
    panel = np.asarray(front_panel(design, width, height), np.float32)
    glare = 70 * np.exp(-(((x - 0.45 * pose.light - 0.1 * np.sin(y * 4)) / 0.09) ** 2)) * bulge
    colour = np.clip(panel * shade[..., None] + glare[..., None] * ~crimp[..., None], 0, 255)
    rgba = np.concatenate([colour, cover[..., None] * 255], axis=2).astype(np.uint8)
    right, bottom = width / 2, height / 2
    corners = ((-right, -bottom, 0.0), (right, -bottom, 0.0), (right, bottom, 0.0), (-right, bottom, 0.0))
    return _draw_faces([_Face(Image.fromarray(rgba), corners, 1.0)], pose)
