"""Cats and dogs drawn in code, written to disk in the Oxford-IIIT Pet dataset's own layout.

The default data of this repository: no download, and the code that reads the real dataset reads it
too. Only shape tells a cat from a dog (ears, muzzle, pupils, tail). Colour does not: every coat
exists as a cat breed and as a dog breed, and the things in the background are painted from the
same range of colours.

A pet is a list of parts (data/sources/synthetic_shapes.py). The outline of a part is filled with
fur on the picture and with 1 on the pet's mask, so the trimap and the head box are exact.
"""

import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

import cli
from data.sources.synthetic_shapes import posed, tufted

PET, BACKGROUND, BORDER = 1, 2, 3  # trimap values of the Oxford-IIIT Pet dataset

FUR = {
    "black": (46, 42, 44),
    "grey": (124, 126, 132),
    "white": (236, 231, 222),
    "cream": (222, 199, 162),
    "ginger": (206, 128, 62),
    "tan": (184, 142, 96),
    "brown": (118, 80, 54),
    "dark": (70, 48, 38),
}

# pattern, main colour, second colour, cat breed, dog breed
COATS = [
    ("stripes", "tan", "dark", "Tabby", "brindle_hound"),
    ("stripes", "ginger", "cream", "Marmalade", "marmalade_terrier"),
    ("tuxedo", "black", "white", "Tuxedo", "magpie_sheepdog"),
    ("points", "cream", "dark", "Moonpoint", "masked_mastiff"),
    ("patches", "white", "ginger", "Calico", "foxhound_like"),
    ("spots", "cream", "brown", "Ocelotte", "domino_hound"),
    ("saddle", "ginger", "black", "Duskback", "saddle_shepherd"),
    ("solid", "grey", "white", "Slate", "slate_pointer"),
    ("solid", "white", "cream", "Snowball", "snow_retriever"),
    ("solid", "brown", "dark", "Cocoa", "cocoa_setter"),
]
BREEDS = [
    (coat[3 + s], species, coat[:3]) for coat in COATS for s, species in enumerate(("cat", "dog"))
]


# --------------------------------------------------------------------------------- fur and painting


def clouds(rng, width, height, cell):
    """Smooth noise, (height, width), roughly uniform in 0..1, lumps about `cell` pixels wide."""
    grid = rng.random(
        (max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)), dtype=np.float32
    )
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def jitter(rng, colour, amount=12):
    """`colour` with some random change, float RGB in 0..255."""
    return np.clip(np.array(colour) + rng.normal(0, amount) + rng.normal(0, amount / 3, 3), 12, 248)


class Painter:
    """The picture so far, `pixels` (H, W, 3) in 0..255, and its masks `pet` and `head` (H, W) in
    0..1."""

    def __init__(self, rng, pixels, coat, unit):
        height, width = pixels.shape[:2]
        self.pixels, self.unit = pixels, unit
        self.pet, self.head = np.zeros((2, height, width), np.float32)
        self.pattern, main, second = coat
        self.main, self.second, self.third = (
            jitter(rng, FUR[colour]) for colour in (main, second, "black")
        )
        noise = rng.standard_normal((256, 256), np.float32) / 3
        # streaks along axis 0, deviation 1
        self.hair = sum(np.roll(noise, k, 0) for k in range(9))
        self.gloss = rng.uniform(0.06, 0.13)
        self.lumps = clouds(rng, width, height, unit * (0.22 if self.pattern == "spots" else 0.75))
        self.more = clouds(rng, width, height, unit * 0.8)
        self.light = rng.choice([-1, 1]) * rng.uniform(0.3, 1), -rng.uniform(0.3, 1)

    def coat(self, kind, u, v, down, lumps, more):
        """The pattern: second colour where it is > 0; `down` goes from 0, a part's top, to 1, its
        foot."""
        if self.pattern == "stripes":
            if kind in ("ear", "muzzle", "chest", "paw"):
                return -1
            brow = v < -0.15
            phase = {
                "leg": 1.6 * v,
                "tail": 1.3 * (u - v),
                "head": np.where(brow, 2.2 * u, 1.8 * v + 0.2),
            }
            wave = np.sin(2 * np.pi * (phase.get(kind, 1.7 * u + 0.2 * v) + 0.5 * lumps)) - 0.25
            return np.where((kind == "head") & ~brow & (np.abs(u) < 0.6), -1, wave)
        if self.pattern in ("spots", "patches"):
            pale = kind in ("muzzle", "chest")
            return -1 if pale else 6 * lumps - (3.7 if self.pattern == "spots" else 3.3)
        return {
            "tuxedo": {
                "muzzle": 1,
                "chest": 1,
                "paw": 1,
                "leg": 6 * (down - 0.7),
                "head": 8 * (0.16 + 0.3 * v + 0.2 * (more - 0.5) - np.abs(u)),
            },
            "points": {
                "muzzle": 1,
                "ear": 1,
                "tail": 1,
                "paw": 1,
                "leg": 5 * (down - 0.6),
                "head": 4 * (0.85 - np.hypot(u - 0.1, v - 0.25)),
            },
            "saddle": {"ear": 1, "tail": 1, "body": 5 * (0.45 - down), "head": 6 * (-0.25 - v)},
            "solid": {"chest": 0.2, "muzzle": 0.1},
        }[self.pattern].get(kind, -1)

    def fur(self, part, window, top, bottom):
        """Colour of the coat, (h, w, 3), in a window of the picture; the part has rows `top` to
        `bottom`."""
        y, x = np.mgrid[window]
        local = (x + 1j * y - part.b) / part.a
        lumps, more, size = self.lumps[window], self.more[window], abs(part.a)
        if part.flow is None:
            along, across = np.abs(local - 0.25j) * size, np.angle(local - 0.25j) * 0.9 * size
        else:
            turned = local * size * np.exp(-1j * (part.flow + 0.7 * (more - 0.5)))
            along, across = turned.real, turned.imag
        hair = self.hair[along.astype(int) % 256, across.astype(int) % 256]
        mix = self.coat(part.kind, local.real, local.imag, (y - top) / (bottom - top), lumps, more)
        mix = mix + 0.3 * hair * (np.abs(mix) < 0.9)  # hairs cross the edges of the pattern
        mix = np.clip(0.5 + 1.2 * mix, 0, 1)[..., None]
        pale = part.kind in ("muzzle", "chest")
        main = 0.75 * self.main + 0.25 * np.array(FUR["white"]) if pale else self.main
        colour = main + mix * (self.second - main)
        if self.pattern == "patches" and not pale:
            colour[more > 0.64] = self.third
        hair = hair[..., None]
        return colour * (1 + self.gloss * hair) + 5 * hair

    def paint(self, rng, part):
        """Put one part over the picture, shaded as if round, and add it to the masks."""
        outline = (
            part.a * (tufted(rng, part.outline, part.tuft) if part.tuft else part.outline) + part.b
        )
        top, bottom = outline.imag.min(), outline.imag.max()
        x0, x1 = np.clip(
            [int(outline.real.min()) - 2, int(outline.real.max()) + 3], 0, self.pet.shape[1]
        )
        y0, y1 = np.clip([int(top) - 2, int(bottom) + 3], 0, self.pet.shape[0])
        if x0 == x1 or y0 == y1:
            return
        window = np.s_[y0:y1, x0:x1]
        twice = 2 * (outline - x0 - 1j * y0)
        shape = Image.new("L", (2 * int(x1 - x0), 2 * int(y1 - y0)))
        ImageDraw.Draw(shape).polygon(
            np.stack([twice.real, twice.imag], 1).ravel().tolist(), fill=255
        )
        shape = shape.reduce(2)
        cover = np.asarray(shape, np.float32) / 255
        colour = np.array(part.colour)
        if part.colour is None:
            # Blurring the shape gives a round body: darker towards its rim, lighter on the side of
            # the light.
            soft = 0.16 * self.unit
            inside = np.asarray(shape.filter(ImageFilter.GaussianBlur(soft)), np.float32) / 255
            shift = [round(d * soft) for d in self.light]
            lit = np.clip(np.roll(inside, (-shift[1], -shift[0]), (0, 1)) - inside, -0.5, 0.5)
            shade = part.shade * (0.6 + 0.42 * inside + 0.3 * lit)
            colour = np.clip(self.fur(part, window, top, bottom) * shade[..., None], 0, 255)
        self.pixels[window] += cover[..., None] * (colour - self.pixels[window])
        if part.in_mask:
            self.pet[window] = np.maximum(self.pet[window], cover)
            if part.kind in ("head", "ear", "muzzle"):
                self.head[window] = np.maximum(self.head[window], cover)


# -------------------------------------------------------------------------------------- backgrounds


def any_colour(rng):
    """RGB array, as often a colour of fur as any other muted colour."""
    other = rng.uniform(50, 220) + rng.uniform(-35, 35, 3)
    return jitter(rng, FUR[rng.choice(list(FUR))] if rng.random() < 0.6 else other)


def ink(colour, factor=1.0):
    """`colour` times `factor` as PIL wants it."""
    return tuple(int(c) for c in np.clip(colour * factor, 0, 255))


def thing(rng, draw, x, y, r):
    """A ball, box, leaf or rod about 2 r high that stands at (x, y)."""
    kind, colour, other = rng.integers(4), any_colour(rng), any_colour(rng)
    wide, bend = r * rng.uniform(0.5, 2), r * rng.normal(0, 0.6)
    corners = (x - wide, y - 2 * r, x + wide, y)
    if kind == 0:
        draw.ellipse(corners, ink(colour), ink(other), max(1, int(r / 7)))
    elif kind == 1:
        draw.rounded_rectangle(corners, 0.3 * r * rng.random(), ink(colour), ink(other), int(r / 9))
    elif kind == 2:
        leaf = (x, y, x - wide + bend, y - r, x + bend, y - 2 * r, x + wide, y - r)
        draw.polygon(leaf, ink(colour))
    else:
        draw.line((x, y, x + bend, y - 3 * r), ink(colour), max(2, int(r / 4)))


def background(rng, width, height, horizon):
    """A cluttered room or garden, (H, W, 3) in 0..255; the floor begins `horizon` pixels down."""
    w, h, horizon = 2 * width, 2 * height, 2 * horizon
    image = Image.new("RGB", (w, h), ink(any_colour(rng)))
    draw, floor = ImageDraw.Draw(image), any_colour(rng)
    for _ in range(rng.integers(2, 16)):  # on the wall, or in the sky
        thing(rng, draw, rng.uniform(0, w), rng.uniform(0, horizon), h * rng.uniform(0.02, 0.12))
    draw.rectangle((0, horizon, w, h), ink(floor))
    for x in np.linspace(-w, 2 * w, rng.integers(0, 40)):
        draw.line((0.2 * w + 0.6 * x, horizon, x, h), ink(floor, rng.uniform(0.7, 1.2)), 3)
    for y in np.sort(rng.uniform(horizon, h, rng.integers(3, 9))):  # far things first
        size = (0.6 + (y - horizon) / h) * h * rng.uniform(0.02, 0.1)
        thing(rng, draw, rng.uniform(0, w), y, size)
    image = image.reduce(2).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
    shade = 0.78 + 0.36 * clouds(rng, width, height, height / 4)
    shade += 0.08 * clouds(rng, width, height, 3)
    return np.asarray(image, np.float32) * shade[..., None]


def grown(mask, reach):
    """`mask` with every pixel that is at most `reach` steps away from it."""
    for _ in range(reach):
        p = np.pad(mask, 1)
        mask = p[1:-1, 1:-1] | p[:-2, 1:-1] | p[2:, 1:-1] | p[1:-1, :-2] | p[1:-1, 2:]
    return mask


def draw_pet(rng, breed):
    """One picture of a pet.

    rng: np.random.Generator; breed: index into BREEDS. Returns image (H, W, 3) uint8 RGB, trimap
    (H, W) uint8 of PET, BACKGROUND, BORDER, and the head box (xmin, ymin, xmax, ymax) in pixels,
    tight around the visible head with its ears, the far ends exclusive. The long side has 200-400
    pixels.
    """
    _, species, coat = BREEDS[breed]
    long_side, aspect = rng.integers(200, 401), np.exp(rng.uniform(np.log(0.66), np.log(1.5)))
    width, height = round(long_side * min(1, aspect)), round(long_side * min(1, 1 / aspect))
    parts, (left, top, right, bottom), cut_below = posed(rng, species)

    # Size: the wished share of the frame, as far as the pet fits into it.
    wish = np.clip(np.exp(rng.normal(np.log(0.35), 0.36)), 0.12, 0.7)
    unit = np.sqrt(wish * width * height / (0.55 * (right - left) * (bottom - top)))
    fit = rng.uniform(0.85, 1.02)
    unit = float(min(unit, fit * width / (right - left), fit * height / (bottom - top)))
    free_x, free_y = width - unit * (right - left), height - unit * (bottom - top)
    x = rng.uniform(0.05, 0.95) * free_x + (rng.random() < 0.2) * -0.12 * unit * (right - left)
    y = free_y if cut_below else rng.uniform(0.4, 0.95) * free_y
    corner = x + 1j * y - unit * (left + 1j * top)
    foot = y + unit * (bottom - top)

    horizon = foot - unit * (bottom - top) * rng.uniform(0.12, 0.6)
    pixels = background(rng, width, height, min(horizon, 0.85 * height))
    if not cut_below:
        shadow = Image.new("L", (width, height))
        corners = (x, foot - 0.45 * unit, x + unit * (right - left), foot + 0.15 * unit)
        ImageDraw.Draw(shadow).ellipse(corners, fill=255)
        shadow = np.asarray(shadow.filter(ImageFilter.GaussianBlur(0.2 * unit)), np.float32)[
            ..., None
        ]
        pixels *= 1 - 0.45 * shadow / 255

    painter = Painter(rng, pixels, coat, unit)
    for part in parts:
        part.a, part.b = part.a * unit, part.b * unit + corner
        painter.paint(rng, part)

    pixels = painter.pixels * rng.uniform(0.78, 1.15) * rng.uniform(0.93, 1.07, 3)
    pixels *= 1 + rng.uniform(-0.18, 0.18) * np.linspace(-1, 1, width)[:, None]
    pixels += rng.normal(0, rng.uniform(1, 4), (height, width, 1))
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    pet, head = painter.pet >= 0.5, painter.head >= 0.5
    if rng.random() < 0.5:
        image, pet, head = image[:, ::-1], pet[:, ::-1], head[:, ::-1]

    reach = round(0.013 * long_side)
    trimap = np.where(grown(pet, reach), BORDER, BACKGROUND).astype(np.uint8)
    trimap[~grown(~pet, reach)] = PET
    columns, rows = np.flatnonzero(head.any(0)), np.flatnonzero(head.any(1))
    return (
        image,
        trimap,
        tuple(int(c) for c in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)),
    )


def image_name(k):
    """Name of image k and its breed as an index into BREEDS; the breeds take turns."""
    breed = k % len(BREEDS)
    return f"{BREEDS[breed][0]}_{k // len(BREEDS) + 1}", breed


def files_of(root, name):
    """Paths of an image, its trimap and its head box."""
    notes = root / "annotations"
    return (
        root / "images" / f"{name}.jpg",
        notes / "trimaps" / f"{name}.png",
        notes / "xmls" / f"{name}.xml",
    )


def write_image(root, seed, k):
    """Draw image k of the dataset and write its files below `root`."""
    rng = np.random.default_rng((seed, k))
    name, breed = image_name(k)
    image, trimap, box = draw_pet(rng, breed)
    jpg, png, xml = files_of(root, name)
    Image.fromarray(image).save(jpg, quality=90)
    Image.fromarray(trimap).save(png)
    if rng.random() < 0.01:  # as in the real dataset, some images have no head box
        return
    corners = "".join(
        f"<{tag}>{c}</{tag}>" for tag, c in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    xml.write_text(
        f"<annotation><filename>{name}.jpg</filename><size><width>{image.shape[1]}</width><height>{image.shape[0]}</height><depth>3</depth></size><object><name>{BREEDS[breed][1]}</name><bndbox>{corners}</bndbox></object></annotation>\n"
    )


def draw_dataset(root, n, seed=0, processes=None):
    """Draw n pets and write them below `root` in the layout of the Oxford-IIIT Pet dataset.

    root: folder, made if missing; pets that an earlier call drew there are replaced. It gets
    images/NAME.jpg, annotations/trimaps/NAME.png, annotations/xmls/NAME.xml (head boxes; about 1
    in 100 is missing, as in the real dataset) and, when all is drawn, annotations/list.txt. n:
    number of images. seed: image k depends on (seed, k) alone, so a larger n begins with the same
    images. processes: number of processes, None for one per core. Raises ValueError if n < 1 or
    processes < 1.
    """
    processes = min(os.cpu_count() or 1 if processes is None else processes, n)
    if processes < 1:
        raise ValueError(f"n and processes must be at least 1, got n={n}, processes={processes}")
    root = Path(root)
    for folder in ("images", "annotations/trimaps", "annotations/xmls"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    breeds = [breed for breed, _, _ in BREEDS]
    names = [path.stem for path in (root / "images").glob("*.jpg")]
    for old in (
        path for name in names if name.rpartition("_")[0] in breeds for path in files_of(root, name)
    ):
        old.unlink(missing_ok=True)
    write, bar = (
        partial(write_image, root, seed),
        partial(tqdm, total=n, desc="drawing pets", disable=None),
    )
    if processes == 1:
        list(bar(map(write, range(n))))
    else:
        with cli.processes(processes) as pool:
            list(bar(pool.map(write, range(n), chunksize=4)))
    lines = [
        "# NAME CLASS-ID SPECIES BREED-ID",
        "# SPECIES: 1 cat, 2 dog. BREED-ID counts within it.",
    ]
    for name, breed in map(image_name, range(n)):
        lines.append(f"{name} {breed + 1} {breed % 2 + 1} {breed // 2 + 1}")
    (root / "annotations" / "list.txt").write_text("\n".join(lines) + "\n")
