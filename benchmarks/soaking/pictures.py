"""Pictures in every form that Pillow writes, made of a plain one: what a reader has to see in them is known exactly."""

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

ORIENTATION = 0x0112
# What a camera does to an upright picture before it writes the tag: the opposite of what a reader has to do.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
READ = STORED | {6: STORED[8], 8: STORED[6]}
INVALID_TAGS = (0, 9, 42, 65535)
TURNABLE = ("png", "tif", "webp", "jpg")
# Colorants of sRGB under D50, as a profile holds them.
RED, GREEN, BLUE = (
    (0.4360747, 0.2225045, 0.0139322),
    (0.3850649, 0.7168786, 0.0971045),
    (0.1430804, 0.0606169, 0.7141733),
)
WHITE = (0.9642, 1.0, 0.8249)


@dataclass
class Odd:
    """A picture to write. image: in its own mode; endings: of the formats that hold it, all without loss but jpg; right:
    what a reader has to see, an image or a function of what Pillow decodes; near: by how many of 255 it may differ; save:
    Pillow's options; may_refuse: whether a reader may say no instead."""

    what: str
    image: Image.Image
    endings: tuple
    right: object
    near: int = 0
    save: dict = field(default_factory=dict)
    may_refuse: bool = False
    content: bytes | None = None  # of a file that Pillow cannot write


@dataclass
class Written:
    """A picture file: what a reader has to see in it, an RGB image, and its orientation tag or None."""

    path: Path
    what: str
    right: Image.Image
    tag: int | None
    near: int
    may_refuse: bool


def write_odd(image, rng, path_of, ways=None):
    """Write an RGB image in an odd form to path_of(ending); returns what is Written."""
    ways = ways or WAYS
    odd = ways[int(rng.integers(len(ways)))](image, rng)
    ending = odd.endings[int(rng.integers(len(odd.endings)))]
    path, options, tag = path_of(ending), dict(odd.save), None
    if odd.content is not None:
        path.write_bytes(odd.content)
    else:
        stored = odd.image
        if ending in TURNABLE and "append_images" not in options and rng.random() < 0.4:
            tag = int(rng.choice([*STORED, 1, *INVALID_TAGS]))
            stored = stored.transpose(STORED[tag]) if tag in STORED else stored
            exif = Image.Exif()
            exif[ORIENTATION] = tag
            options["exif"] = exif
        stored.save(path, **save_options(ending), **options)
    right = odd.right
    if callable(right):
        with Image.open(path) as decoded:
            right = right(decoded)
            if decoded.getexif().get(ORIENTATION) in READ:  # Pillow turns TIFF by itself
                right = right.transpose(READ[tag])
    what = f"{odd.what} as {ending}" + (f", orientation {tag}" if tag is not None else "")
    return Written(path, what, right.convert("RGB"), tag, odd.near, odd.may_refuse)


def save_options(ending):
    """Formats as a reader's content tells them, whatever the ending looks like in a file's name."""
    return {
        "format": {
            "jpg": "JPEG",
            "tif": "TIFF",
            "j2k": "JPEG2000",
            "pgm": "PPM",
            "pbm": "PPM",
            "ppm": "PPM",
            "apng": "PNG",
        }.get(ending, ending.upper()),
        **({"lossless": True, "exact": True} if ending == "webp" else {}),
        **({"save_all": True} if ending == "apng" else {}),
    }


def grey_of(image):
    return np.asarray(image.convert("L"))


# ----------------------------------------------------------------------------------------------- depths and modes


def plain(image, rng):
    return Odd("RGB", image, ("png", "bmp", "tif", "ppm", "webp", "tga", "pcx", "j2k"), image)


def grey(image, rng):
    image = image.convert("L")
    return Odd("8-bit grey", image, ("png", "bmp", "tif", "pgm", "tga", "j2k", "gif"), image)


def jpeg(image, rng):
    mode = ("RGB", "L", "CMYK")[int(rng.integers(3))]
    return Odd(
        f"{mode} of a lossy format",
        image.convert(mode),
        ("jpg",),
        lambda decoded: decoded.convert("RGB"),
    )


def deep_grey(image, rng):
    """16 bits, of which each value lies near 257 times an 8-bit one."""
    value = grey_of(image).astype(int)
    deep = np.clip(value * 257 + rng.integers(-128, 129, value.shape), 0, 65535).astype(np.uint16)
    if rng.random() < 0.3:  # as big-endian words
        turned = Image.frombytes("I;16B", image.size, deep.astype(">u2").tobytes())
        return Odd("16-bit grey, big-endian", turned, ("tif",), image.convert("L"))
    return Odd(
        "16-bit grey", Image.fromarray(deep), ("png", "tif", "pgm", "j2k"), image.convert("L")
    )


def deep_colour(image, rng):
    """16 bits a channel, which Pillow cannot write."""
    value = np.asarray(image).astype(int)
    deep = np.clip(value * 256 + rng.integers(0, 256, value.shape), 0, 65535)
    return Odd("48-bit colour", None, ("png",), image, 1, content=png(deep, 16, 2))


def deep_alpha(image, rng):
    """16 bits a channel with transparency, which Pillow cannot write."""
    hidden, shown = hide(image, rng)
    grey = bool(rng.integers(2))
    colours = np.asarray(image.convert("L"))[..., None] if grey else np.asarray(image)
    value = np.concatenate([colours, np.where(hidden, 0, 255)[..., None]], 2).astype(int) * 257
    right = hide_in(image.convert("L").convert("RGB"), hidden) if grey else shown
    return Odd(
        "16-bit " + ("grey" if grey else "colour") + " with transparency",
        None,
        ("png",),
        right,
        1,
        content=png(value, 16, 4 if grey else 6),
    )


def floating(image, rng):
    value = grey_of(image)
    return Odd(
        "floating-point grey",
        Image.fromarray((value / 255).astype(np.float32)),
        ("tif",),
        image.convert("L"),
        may_refuse=True,
    )


def wide_integers(image, rng):
    """32-bit whole numbers that use 16 bits."""
    return Odd(
        "32-bit grey",
        Image.fromarray(grey_of(image).astype(np.int32) * 257),
        ("tif",),
        image.convert("L"),
        may_refuse=True,
    )


def one_bit(image, rng):
    image = image.convert("1")
    return Odd("1 bit", image, ("png", "tif", "bmp", "pbm", "pcx"), image)


def palette(image, rng):
    image = image.quantize(int(rng.integers(2, 257)))
    return Odd("palette", image, ("png", "gif", "bmp", "tif", "pcx", "tga"), image.convert("RGB"))


def cmyk(image, rng):
    image = image.convert("CMYK")
    return Odd("CMYK", image, ("tif",), image.convert("RGB"))


def lab(image, rng):
    """As Pillow converts it: in 8 bits a channel there is no way back to the colours that it was made of."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    return Odd("LAB", image, ("tif",), lambda decoded: decoded.convert("RGB"))


def moving(image, rng):
    """Several frames: the first counts."""
    others = {
        "append_images": [image.rotate(90).resize(image.size), image.point(lambda v: 255 - v)]
    }
    first = image.quantize(200)
    ending = ("gif", "tif", "webp", "apng")[int(rng.integers(4))]
    if ending == "gif":
        return Odd(
            "frames",
            first.convert("RGB"),
            ("gif",),
            lambda decoded: decoded.convert("RGB"),
            save={"save_all": True, **others},
        )
    return Odd(
        "frames",
        image,
        (ending,),
        image,
        save=others if ending == "apng" else {"save_all": True, **others},
    )


# ------------------------------------------------------------------------------------------------- transparency


def hide(image, rng):
    """A region to be transparent, (H, W) bool, and the image with white there."""
    mask = Image.new("1", (3, 3))
    mask.putdata([int(v) for v in rng.integers(0, 2, 9)])
    hidden = np.asarray(mask.resize(image.size, Image.Resampling.NEAREST))
    return hidden, hide_in(image, hidden)


def hide_in(image, hidden):
    pixels = np.array(image)
    pixels[hidden] = 255
    return Image.fromarray(pixels)


def alpha_of(hidden):
    return Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))


def transparent(image, rng):
    """RGBA or grey with alpha; beneath it lies what an editor leaves there, or noise."""
    hidden, right = hide(image, rng)
    pixels, grey = np.array(image), bool(rng.integers(2))
    pixels[hidden] = rng.integers(0, 256, 3) if rng.random() < 0.5 else 0
    image = Image.fromarray(pixels)
    if grey:
        image = image.convert("L")
        right = hide_in(image.convert("RGB"), hidden)
    image.putalpha(alpha_of(hidden))
    return Odd(
        f"transparency, {image.mode}",
        image,
        ("png", "tif", "tga") if grey else ("png", "tif", "tga", "webp"),
        right,
    )


def opaque(image, rng):
    """An alpha channel that hides nothing changes nothing."""
    right = image
    image = image.convert("RGBA")
    return Odd("alpha that hides nothing", image, ("png", "tif", "webp", "tga"), right)


def half_transparent(image, rng):
    """One alpha everywhere."""
    alpha = int(rng.integers(1, 255))
    right = Image.blend(Image.new("RGB", image.size, "white"), image, alpha / 255)
    image = image.copy()
    image.putalpha(alpha)
    return Odd("half transparent", image, ("png", "webp"), right, 1)


def transparent_palette(image, rng):
    """One colour of a palette, or some of them, are transparent."""
    image = image.quantize(int(rng.integers(2, 60)))
    pixels = np.asarray(image)
    right = image.convert("RGB")
    if rng.random() < 0.5:
        index = int(rng.choice(np.unique(pixels)))
        return Odd(
            "a transparent colour of a palette",
            image,
            ("png", "gif"),
            hide_in(right, pixels == index),
            save={"transparency": index},
        )
    alphas = rng.choice([0, 255], 256)
    return Odd(
        "a palette with transparency",
        image,
        ("png",),
        hide_in(right, alphas[pixels] == 0),
        save={"transparency": bytes(alphas[: pixels.max() + 1].astype(np.uint8).tolist())},
    )


def colour_key(image, rng):
    """One colour or grey of a PNG is transparent."""
    way = int(rng.integers(3))
    if way == 0:
        pixels = np.asarray(image)
        key = pixels[int(rng.integers(len(pixels))), 0]
        return Odd(
            "a transparent colour",
            image,
            ("png",),
            hide_in(image, (pixels == key).all(2)),
            save={"transparency": tuple(int(v) for v in key)},
        )
    image = image.convert("L")
    pixels = np.asarray(image)
    key = int(pixels[int(rng.integers(len(pixels))), 0])
    right = hide_in(image.convert("RGB"), pixels == key)
    if way == 1:
        return Odd("a transparent grey", image, ("png",), right, save={"transparency": key})
    return Odd(
        "a transparent 16-bit grey",
        Image.fromarray(pixels.astype(np.uint16) * 257),
        ("png",),
        right,
        save={"transparency": key * 257},
    )


# ----------------------------------------------------------------------------------------------- colour profiles


def srgb_profile(image, rng):
    """sRGB, as lcms and as others write it: changes nothing."""
    made = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = made if rng.random() < 0.5 else icc(RED, GREEN, BLUE)
    return Odd(
        "the profile sRGB", image, ("png", "tif", "webp"), image, save={"icc_profile": profile}
    )


def exchanged_colorants(image, rng):
    """A profile whose red is green, whose green is blue and whose blue is red."""
    red, green, blue = image.split()
    return Odd(
        "a profile with other primaries",
        image,
        ("png", "tif", "webp"),
        Image.merge("RGB", (blue, red, green)),
        2,
        {"icc_profile": icc(GREEN, BLUE, RED)},
    )


def other_gamma(image, rng):
    """A profile with another curve, of colour or of grey."""
    gamma = float(rng.choice([1.0, 1.8, 2.6]))
    right = image.convert("L") if rng.random() < 0.5 else image
    light = (np.arange(256) / 255) ** gamma
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    table = [round(255 * v) for v in encoded.clip(0, 1)]
    profile = icc(RED, GREEN, BLUE, gamma=gamma) if right.mode == "RGB" else icc(gamma=gamma)
    return Odd(
        f"a profile of {right.mode} with gamma {gamma}",
        right,
        ("png", "tif"),
        right.point(table * len(right.getbands())),
        3,
        {"icc_profile": profile},
    )


def useless_profile(image, rng):
    """Damaged, empty, or of another kind of colour: as if there were none."""
    whole = icc(GREEN, BLUE, RED)
    others = [
        rng.bytes(200),
        whole[: int(rng.integers(1, 128))],
        b"\x00" * 500,
        icc(gamma=1.0),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        whole[:16] + b"CMYK" + whole[20:],
    ]
    profile = others[int(rng.integers(len(others)))]
    return Odd("a profile of no use", image, ("png", "tif"), image, save={"icc_profile": profile})


def icc(*colorants, gamma=None):
    """An ICC profile (version 2.4) of RGB with three colorants, or of grey with none; gamma None is sRGB's curve."""

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    if gamma is None:
        v = np.arange(4096) / 4095
        curve = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
        curve = (
            b"curv\0\0\0\0"
            + struct.pack(">I", 4096)
            + np.round(curve * 65535).astype(">u2").tobytes()
        )
    else:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    text = b"text\0\0\0\0none\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"soak\0" + bytes(78)
    tags = {b"desc": name, b"cprt": text, b"wtpt": xyz(WHITE)}
    if colorants:
        tags |= {key: xyz(value) for key, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    table, content, at = b"", b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        value += bytes(-len(value) % 4)
        table += key + struct.pack(">II", at + len(content), len(value))
        content += value
    space = b"RGB " if colorants else b"GRAY"
    head = (
        bytes(4)
        + b"\x02\x40\0\0"
        + b"mntr"
        + space
        + b"XYZ "
        + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
        + b"acsp"
    )
    head += bytes(28) + xyz(WHITE)[8:]
    body = head.ljust(124, b"\0") + struct.pack(">I", len(tags)) + table + content
    return struct.pack(">I", 4 + len(body)) + body


def png(values, depth, colour_type):
    """A PNG file of values (H, W, channels) with 16 bits each."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


WAYS = (
    plain,
    grey,
    jpeg,
    deep_grey,
    deep_colour,
    deep_alpha,
    floating,
    wide_integers,
    one_bit,
    palette,
    cmyk,
    lab,
    moving,
    transparent,
    opaque,
    half_transparent,
    transparent_palette,
    colour_key,
    srgb_profile,
    exchanged_colorants,
    other_gamma,
    useless_profile,
)


# -------------------------------------------------------------------------------------------------------- masks


def write_trimap(trimap, rng, path):
    """Write a trimap of 1, 2 and 3 in a form that says the same, or as a mask of pet and background; returns (what, the
    right mask (H, W) of 0 and 1)."""
    way, pet = int(rng.integers(7)), trimap != 2
    right = pet
    if way == 0:
        image, what = Image.fromarray(trimap), "grey"
    elif way == 1:
        image, what = Image.fromarray(trimap), "palette"
        image.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    elif way == 2:
        image, what = Image.fromarray(np.stack([trimap] * 3, 2)), "RGB"
    elif way == 3:
        image, what = Image.fromarray(trimap.astype(np.uint16)), "16 bits"
    elif way == 4:
        image, what = Image.fromarray(pet.astype(np.uint8) * 255), "0 and 255"
    elif way == 5:
        image, what = Image.fromarray(pet.astype(np.uint8)), "0 and 1"
    else:
        image, what = Image.fromarray(pet), "1 bit"
    image.save(path, format="PNG")
    return f"trimap in {what}", right.astype(np.uint8)
