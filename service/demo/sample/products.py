"""The products of the sample shop: brands, their ranges, and varieties that differ only in flavour.

A brand owns a few ranges (one package shape, one kind of goods, one design) and each range comes in a few
flavours. Varieties of a range share everything but the flavour's name, colour and emblem, which
makes them hard to distinguish.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]

MAX_PRODUCTS = 10_000

# Separate streams of random numbers for brands and shapes; photos use stream 1.
_BRAND_STREAM, _SHAPE_STREAM = 2, 3

LAYOUTS = ("stacked", "badge", "diagonal", "spine", "hero")
PATTERNS = ("plain", "stripes", "bands", "dots", "waves", "checks", "gradient", "rays", "chevrons", "leaves")

COLOURS: dict[str, Colour] = {
    "red": (196, 38, 44), "orange": (236, 122, 32), "yellow": (244, 200, 50), "lime": (160, 192, 56),
    "green": (44, 128, 66), "teal": (24, 126, 128), "sky blue": (112, 182, 222), "blue": (36, 88, 176),
    "navy": (26, 40, 84), "purple": (102, 54, 130), "pink": (232, 138, 168), "brown": (112, 70, 44),
    "beige": (218, 196, 158), "cream": (248, 238, 214), "white": (248, 248, 246), "grey": (146, 150, 154),
    "black": (36, 34, 38),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flavour:
    """A variety: name, colour and emblem."""

    name: str
    colour: Colour
    emblem: str


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of product with its package shapes, flavours and sizes."""

    name: str
    shapes: tuple[str, ...]
    flavours: str
    sizes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lettering:
    """How a brand's name is set: capitals, slant (horizontal shift per height), stroke in 1/100 of the size."""

    is_upper: bool
    slant: float
    weight: int


@dataclass(frozen=True, slots=True)
class PackageDesign:
    """The print and the form of a package."""

    shape: str
    form: float  # 0..1, where the shape lies between squat and slender
    brand: str
    kind: str
    flavour: Flavour
    size: str
    lettering: Lettering
    layout: str
    pattern: str
    pattern_scale: float  # 0..1, from fine to coarse
    pattern_angle: float  # degrees
    emblem_count: int
    ground: Colour
    pattern_colour: Colour
    house_colour: Colour
    cap_colour: Colour


@dataclass(frozen=True, slots=True)
class SampleProduct:
    """A product of the sample shop; `seed` and `number` determine its photos."""

    id: str
    title: str
    attributes: dict[str, str]
    seed: int
    number: int
    design: PackageDesign


@dataclass(frozen=True, slots=True)
class _Brand:
    """What all packages of one brand share."""

    name: str
    lettering: Lettering
    house_colour: Colour


_FLAVOURS: dict[str, tuple[Flavour, ...]] = {
    "fruit": (
        Flavour("Strawberry", (214, 40, 60), "strawberry"), Flavour("Lemon", (246, 208, 44), "citrus"),
        Flavour("Orange", (242, 136, 28), "citrus"), Flavour("Lime", (134, 184, 50), "citrus"),
        Flavour("Blueberry", (62, 76, 158), "berries"), Flavour("Raspberry", (206, 40, 92), "berries"),
        Flavour("Blackcurrant", (88, 36, 102), "berries"), Flavour("Apple", (122, 178, 58), "apple"),
        Flavour("Peach", (246, 164, 112), "apple"), Flavour("Cherry", (160, 22, 44), "cherry"),
        Flavour("Grape", (124, 62, 142), "grapes"), Flavour("Pear", (196, 204, 90), "pear"),
        Flavour("Grapefruit", (238, 108, 100), "citrus"), Flavour("Elderflower", (222, 222, 180), "flower"),
    ),
    "sweet": (
        Flavour("Vanilla", (240, 220, 160), "flower"), Flavour("Chocolate", (96, 54, 34), "bean"),
        Flavour("Caramel", (204, 134, 56), "drop"), Flavour("Hazelnut", (156, 104, 62), "nut"),
        Flavour("Almond", (212, 170, 120), "nut"), Flavour("Honey", (236, 172, 40), "honeycomb"),
        Flavour("Coffee", (82, 52, 40), "bean"), Flavour("Coconut", (222, 232, 232), "sun"),
        Flavour("Strawberry", (222, 62, 84), "strawberry"), Flavour("Cinnamon", (170, 84, 50), "star"),
    ),
    "savoury": (
        Flavour("Basil", (58, 132, 62), "leaf"), Flavour("Tomato", (212, 52, 38), "tomato"),
        Flavour("Chilli", (190, 26, 30), "chilli"), Flavour("Garlic", (232, 222, 200), "drop"),
        Flavour("Olive", (122, 128, 52), "olive"), Flavour("Black Pepper", (66, 62, 60), "dots"),
        Flavour("Sea Salt", (104, 168, 206), "wave"), Flavour("Rosemary", (94, 136, 110), "sprig"),
        Flavour("Paprika", (218, 88, 34), "chilli"), Flavour("Lemon", (242, 204, 60), "citrus"),
    ),
    "herbal": (
        Flavour("Mint", (72, 178, 140), "leaf"), Flavour("Sage", (148, 168, 134), "sprig"),
        Flavour("Lavender", (152, 128, 196), "sprig"), Flavour("Rose", (226, 126, 150), "flower"),
        Flavour("Chamomile", (246, 220, 110), "flower"), Flavour("Eucalyptus", (92, 158, 156), "leaf"),
        Flavour("Ginger", (214, 166, 88), "star"), Flavour("Aloe", (124, 196, 106), "drop"),
        Flavour("Ocean", (48, 124, 188), "wave"), Flavour("Citrus", (250, 186, 50), "citrus"),
    ),
    "plain": (
        Flavour("Original", (190, 44, 48), "star"), Flavour("Light", (126, 188, 224), "wave"),
        Flavour("Organic", (90, 150, 70), "leaf"), Flavour("Extra", (222, 158, 44), "sun"),
        Flavour("Harvest", (150, 106, 62), "sprig"), Flavour("Mild", (240, 196, 150), "heart"),
        Flavour("Family", (232, 110, 130), "heart"), Flavour("Alpine", (72, 112, 160), "mountain"),
    ),
}  # fmt: skip

_KINDS = (
    _Kind("Muesli", ("box", "pouch"), "sweet", ("500 g", "750 g")),
    _Kind("Crackers", ("box",), "savoury", ("200 g",)),
    _Kind("Tea", ("box", "tin"), "herbal", ("20 bags", "50 bags")),
    _Kind("Biscuits", ("box", "pouch"), "sweet", ("180 g", "300 g")),
    _Kind("Pasta", ("box", "pouch"), "plain", ("500 g",)),
    _Kind("Soap", ("box",), "herbal", ("100 g",)),
    _Kind("Juice", ("bottle", "carton"), "fruit", ("1 L", "0.7 L")),
    _Kind("Iced Tea", ("bottle", "can"), "fruit", ("0.5 L", "330 ml")),
    _Kind("Shampoo", ("bottle", "tube"), "herbal", ("250 ml",)),
    _Kind("Dish Soap", ("bottle",), "herbal", ("500 ml",)),
    _Kind("Syrup", ("bottle",), "fruit", ("0.5 L",)),
    _Kind("Soda", ("can",), "fruit", ("330 ml", "250 ml")),
    _Kind("Tonic", ("can", "bottle"), "herbal", ("250 ml",)),
    _Kind("Cold Brew", ("can",), "sweet", ("250 ml",)),
    _Kind("Granola", ("pouch",), "sweet", ("350 g",)),
    _Kind("Crisps", ("pouch",), "savoury", ("150 g", "90 g")),
    _Kind("Coffee", ("pouch", "tin"), "plain", ("250 g", "500 g")),
    _Kind("Rice", ("pouch", "box"), "plain", ("1 kg",)),
    _Kind("Jam", ("jar",), "fruit", ("340 g",)),
    _Kind("Spread", ("jar",), "sweet", ("350 g",)),
    _Kind("Pesto", ("jar",), "savoury", ("190 g",)),
    _Kind("Oat Drink", ("carton",), "sweet", ("1 L",)),
    _Kind("Milk", ("carton",), "plain", ("1 L", "0.5 L")),
    _Kind("Soup", ("carton", "tin"), "savoury", ("400 ml",)),
    _Kind("Tuna", ("tin",), "savoury", ("160 g",)),
    _Kind("Beans", ("tin",), "savoury", ("400 g",)),
    _Kind("Toothpaste", ("tube",), "herbal", ("75 ml",)),
    _Kind("Hand Cream", ("tube",), "herbal", ("50 ml",)),
    _Kind("Mustard", ("tube", "jar"), "savoury", ("100 g",)),
    _Kind("Yoghurt", ("cup",), "fruit", ("150 g", "500 g")),
    _Kind("Pudding", ("cup",), "sweet", ("200 g",)),
)

_BEGINNINGS = (
    "Al", "Bel", "Bor", "Cal", "Cor", "Dal", "El", "Fen", "Fjor", "Gal", "Hal", "Il", "Jor", "Kal", "Lin", "Lor",
    "Mar", "Mel", "Nor", "Ol", "Or", "Pel", "Quin", "Ros", "Sal", "Sol", "Tam", "Tor", "Ul", "Val", "Vel", "Zan",
)  # fmt: skip
_ENDINGS = (
    "ano", "aro", "berg", "brook", "by", "co", "dale", "den", "dina", "ella", "era", "eto", "fini", "gard", "hof",
    "ia", "ika", "ina", "is", "land", "lo", "mark", "mora", "nova", "osa", "ria", "sen", "tana", "tis", "via", "wick",
    "zo",
)  # fmt: skip
_SUFFIXES = ("", "Farm", "Bros", "House", "Mill", "Valley", "Garden", "Kitchen", "Works", "Bay")


def sample_products(num_products: int, seed: int) -> list[SampleProduct]:
    """Return the first `num_products` products of the shop of this seed.

    The list is the same in every process, and a longer list starts with the shorter one.
    """
    if not 1 <= num_products <= MAX_PRODUCTS:
        raise ValueError(f"num_products must be within 1..{MAX_PRODUCTS}, got {num_products}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")
    designs = _designs(seed)
    return [_product(next(designs), number, seed) for number in range(num_products)]


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend two colours; `share` 0..1 is the second one's part."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Return how bright a colour looks, 0..1."""
    red, green, blue = colour
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def _product(design: PackageDesign, number: int, seed: int) -> SampleProduct:
    attributes = {
        "brand": design.brand,
        "category": design.shape,
        "kind": design.kind,
        "flavour": design.flavour.name,
        "colour": _colour_name(design.ground),
        "size": design.size,
    }
    title = f"{design.brand} {design.kind} {design.flavour.name}, {design.size}"
    return SampleProduct(f"sample-{number:04d}", title, attributes, seed, number, design)


def _designs(seed: int) -> Iterator[PackageDesign]:
    """Yield designs endlessly, brand by brand; no two have the same brand, kind and flavour."""
    names: set[str] = set()
    shapes = _shapes(seed)
    brand_number = 0
    while True:
        generator = np.random.default_rng([seed, brand_number, _BRAND_STREAM])
        brand = _brand(generator, names)
        kinds: list[_Kind] = []
        for _ in range(int(generator.integers(2, 4))):
            shape = next(shapes)
            candidates = [kind for kind in _KINDS if shape in kind.shapes and kind not in kinds]
            kinds.append(candidates[generator.integers(len(candidates))])
            yield from _range(generator, brand, kinds[-1], shape)
        brand_number += 1


def _shapes(seed: int) -> Iterator[str]:
    """Yield shapes endlessly; each round has all shapes once, in random order."""
    shapes = sorted({shape for kind in _KINDS for shape in kind.shapes})
    round_number = 0
    while True:
        generator = np.random.default_rng([seed, round_number, _SHAPE_STREAM])
        yield from (shapes[number] for number in generator.permutation(len(shapes)))
        round_number += 1


def _brand(generator: np.random.Generator, names: set[str]) -> _Brand:
    """Invent a brand whose name is not among `names`, and add it there."""
    name = ""
    while not name or name in names:
        word = _BEGINNINGS[generator.integers(len(_BEGINNINGS))] + _ENDINGS[generator.integers(len(_ENDINGS))]
        suffix = _SUFFIXES[generator.integers(len(_SUFFIXES))] if generator.random() < 0.3 else ""
        name = f"{word} {suffix}".strip()
    names.add(name)
    lettering = Lettering(
        is_upper=bool(generator.random() < 0.5),
        slant=float(generator.choice([0.0, 0.0, 0.25])),
        weight=int(generator.integers(2, 7)),
    )
    house_colour = COLOURS[list(COLOURS)[generator.integers(len(COLOURS))]]
    return _Brand(name, lettering, _jitter(generator, house_colour))


def _range(generator: np.random.Generator, brand: _Brand, kind: _Kind, shape: str) -> Iterator[PackageDesign]:
    """Yield the varieties of one range: one design in two to five flavours."""
    flavours = _FLAVOURS[kind.flavours]
    chosen = generator.choice(len(flavours), size=int(generator.integers(2, 6)), replace=False)
    common = {
        "shape": shape,
        "size": kind.sizes[generator.integers(len(kind.sizes))],
        "layout": LAYOUTS[generator.integers(len(LAYOUTS))],
        "pattern": PATTERNS[generator.integers(len(PATTERNS))],
    }
    form, pattern_scale = (float(value) for value in generator.random(2))
    pattern_angle = float(generator.choice([0, 30, 45, 90, 135]))
    emblem_count = int(generator.choice([1, 1, 2, 3]))
    range_colour = _jitter(generator, COLOURS[list(COLOURS)[generator.integers(len(COLOURS))]])
    cap_colour = _jitter(
        generator, COLOURS[str(generator.choice(["white", "black", "red", "green", "yellow", "blue"]))]
    )
    # In a third of the ranges the ground has the flavour's colour; in the others only parts of the print have it.
    ground_follows_flavour = generator.random() < 0.34
    for choice in chosen:
        flavour = flavours[int(choice)]
        ground = mix(flavour.colour, COLOURS["white"], 0.1) if ground_follows_flavour else range_colour
        yield PackageDesign(
            **common,
            form=form,
            brand=brand.name,
            kind=kind.name,
            flavour=flavour,
            lettering=brand.lettering,
            pattern_scale=pattern_scale,
            pattern_angle=pattern_angle,
            emblem_count=emblem_count,
            ground=ground,
            pattern_colour=_pattern_colour(ground, brand.house_colour),
            house_colour=brand.house_colour,
            cap_colour=cap_colour,
        )


def _pattern_colour(ground: Colour, house_colour: Colour) -> Colour:
    """Return the second colour of the ground: the house colour if it contrasts, else a shade of the ground."""
    if abs(luminance(ground) - luminance(house_colour)) > 0.15:
        return mix(ground, house_colour, 0.45)
    return mix(ground, COLOURS["white"] if luminance(ground) < 0.5 else COLOURS["black"], 0.22)


def _jitter(generator: np.random.Generator, colour: Colour) -> Colour:
    shift = generator.integers(-14, 15, 3)
    red, green, blue = (int(np.clip(value + step, 0, 255)) for value, step in zip(colour, shift, strict=True))
    return red, green, blue


def _colour_name(colour: Colour) -> str:
    def squared_distance(name: str) -> int:
        return sum((a - b) ** 2 for a, b in zip(colour, COLOURS[name], strict=True))

    return min(COLOURS, key=squared_distance)
