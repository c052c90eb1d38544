"""The one reader of photographs and masks: upright, in 8-bit sRGB over white, of all of Pillow's
formats.

What becomes of the values of a file:

- 8 bits a channel: as Pillow converts them to RGB. 16 bits a channel of colour: the upper 8, as
Pillow reads them.
- Grey of more than 8 bits: round(value / 257), so that 65535 is 255. 32-bit integers are taken as
16-bit ones; refused where
  they are negative, over 65535, or none of them is over 255, because such a picture would be
  black.
- Floating-point grey: from 0 to 1, round(value * 255); refused where a value lies outside or is no
number.
- An embedded colour profile (ICC) of RGB, grey or CMYK: converted to sRGB. One that is sRGB
changes nothing, nor does one
  that is damaged or of another kind of colour.
- Transparency, of every form: over white.
- Several frames or pages: the first.
- More than MAX_PIXELS: reduced while reading. More than MOST_PIXELS: refused.
"""

import errno
import functools
import io
import logging
import math
import os
import re
import stat
import unicodedata
import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

MAX_PIXELS = 2**25  # 33 million, more than most cameras give; what is larger is reduced
MOST_PIXELS = 2**28  # 268 million, more than any telephone gives
ORIENTATION = 0x0112  # EXIF
BITS, WHITE_IS_ZERO = 258, 262  # TIFF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACK = TURNS | {6: TURNS[8], 8: TURNS[6]}
PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# Pillow hands these to another program, which would execute what the file says.
PROGRAMS = {"EPS": "an EPS or PostScript drawing", "WMF": "a WMF or EMF drawing"}
NO_PHOTOGRAPHS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # Pillow knows these by name only
AGAIN = "copy or download it again"
HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")

logging.getLogger("PIL").addHandler(
    logging.NullHandler()
)  # some plug-ins log errors that they raise as well

try:
    import pillow_heif
except (ImportError, OSError):  # not installed, or without its library
    pillow_heif = None
else:
    pillow_heif.register_heif_opener()

Image.init()
PHOTOGRAPH_SUFFIXES = frozenset(
    [
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in Image.OPEN and name not in NO_PHOTOGRAPHS
    ]
    + [".mpo", ".avif", ".heic", ".heif", ".hif"]
)  # the last ones even where Pillow cannot read them: named, not passed over


class Unreadable(Exception):
    """A picture cannot be read; the message is the reason and the way out, without the path."""


@dataclass(frozen=True)
class Photograph:
    """image: PIL image in RGB, perhaps reduced; size: (width, height) of the whole picture in the
    orientation of `image`; orientation: its EXIF tag, 1 where there is none or none that is valid.
    """

    image: Image.Image
    size: tuple[int, int]
    orientation: int


def read(path, upright=True, at_least=None, max_pixels=MAX_PIXELS):
    """Read a photograph as the module says.

    upright: turn it as its EXIF orientation asks, else leave it as it is stored; max_pixels:
    reduce one of more pixels to at most so many, but to no side under at_least. Returns a
    Photograph. Raises Unreadable and FileNotFoundError.
    """
    with opened(path) as image:
        deep = any(
            "16" in str(tile[3]) for tile in image.tile
        )  # first of all, as reading EXIF may decode the picture
        if (
            image.format == "PNG"
        ):  # reading its EXIF decodes it, and what goes wrong then would pass for damaged EXIF
            load(image)
        size, orientation = image.size, orientation_of(image)
        drafted = draft(image, at_least, max_pixels)
        load(image)
        size = size if drafted else image.size
        left = orientation_of(image)  # Pillow has turned some formats already
        turn = (
            TURNS.get(left) if upright else BACK.get(orientation) if left != orientation else None
        )
        profile = image.info.get("icc_profile")
        image = plain(image, deep)
        factor = reduction(image.size, at_least, max_pixels)
        image = over_white(image.reduce(factor) if factor > 1 else image, profile)
        if turn is not None:
            image = image.transpose(turn)
            size = size[::-1] if turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8]) else size
    return Photograph(image, size, orientation)


def read_mask(path, colours=()):
    """Read a mask as the numbers that its file holds: (H, W) uint8, uint16 or int32.

    Of a picture with a palette these are the indices, of one bit 0 and 1, of colours that are all
    grey the grey; of other colours the numbers that `colours`, ((red, green, blue), number), gives
    them. Raises Unreadable and FileNotFoundError.
    """
    with opened(path) as image:
        load(image)
        if colours and image.mode in ("P", "RGB", "RGBA"):
            return numbers_of(np.asarray(image.convert("RGB")), colours)
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        is_bit = image.mode == "P" and image.getextrema()[1] <= 1
        if is_bit and image.getpalette()[:6] == [255, 255, 255, 0, 0, 0]:
            raise Unreadable(
                "its palette shows 0 in white and 1 in black, so that its numbers say the "
                "opposite of what one sees; save it in grey"
            )
        if image.mode in ("L", "P"):
            return np.asarray(image).copy()
        if image.mode == "PA":
            return np.asarray(image)[:, :, 0].copy()
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        if image.mode == "I":
            return np.asarray(image, np.int32).copy()
        if image.mode == "F":
            return whole_numbers(np.asarray(image))
        pixels = np.asarray(image.convert("RGBA"))
    grey, alpha = pixels[:, :, 0], pixels[:, :, 3]
    coloured = (pixels[:, :, :3] != grey[:, :, None]).any(2)
    if coloured.any():
        values = np.unique(pixels[coloured][:, :3], axis=0)
        shown = ", ".join(str(tuple(value)) for value in values[:3].tolist())
        count = f"{len(values)} colours, such as" if len(values) > 1 else "1 colour,"
        raise Unreadable(
            f"it holds {count} {shown}, and a mask should hold one number a pixel; save it in "
            "grey or with a palette, or put the labelmap.txt of its classes beside the masks' "
            "folder"
        )
    if grey.min() == grey.max() and alpha.min() != alpha.max():
        raise Unreadable(
            f"its pixels are all {grey.min()} and differ in their transparency only; save that in "
            "grey"
        )
    return grey.copy()


def numbers_of(pixels, colours):
    """The class number of each pixel of (H, W, 3) uint8, (H, W) uint8, by ((red, green, blue),
    number) of each class."""
    codes = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    numbers = np.full(codes.shape, -1)
    for (red, green, blue), number in colours:
        numbers[codes == (red << 16) + (green << 8) + blue] = number
    if (numbers < 0).any():
        colour = tuple(pixels[numbers < 0][0].tolist())
        raise Unreadable(f"it holds the colour {colour}, which labelmap.txt does not name; add it")
    return numbers.astype(np.uint8)


def read_grey(path):
    """A picture's brightness as its file holds it, (H, W) of any integer type. Raises Unreadable
    and FileNotFoundError."""
    with opened(path) as image:
        load(image)
        is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
        return np.asarray(image if is_deep else image.convert("L")).copy()


def whole_numbers(pixels):
    """Floating-point numbers that are whole ones, as int32."""
    if not (
        np.isfinite(pixels).all()
        and (pixels == np.round(pixels)).all()
        and np.abs(pixels).max(initial=0) < 2**31
    ):
        raise Unreadable("its values are not all whole numbers; save it with 8 bits a pixel")
    return pixels.astype(np.int32)


def is_photograph_name(name):
    """Whether a file's name ends as one of Pillow's formats does, in any case; hidden files, such
    as those that macOS puts beside the real ones, are none."""
    name = os.path.basename(os.fsdecode(name))
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PHOTOGRAPH_SUFFIXES


def show_name(name):
    r"""Any file's name or path as text that a terminal or a figure can show: bytes that are no
    text as \xNN, control characters escaped."""
    return "".join(
        c
        if c.isprintable()
        or c in "\u200c\u200d"
        or unicodedata.category(c) == "Zs"  # joiners of scripts, and spaces
        else f"\\x{ord(c) - 0xDC00:02x}"
        if "\udc80" <= c <= "\udcff"
        else c.encode("unicode_escape").decode()
        for c in os.fsdecode(name)
    )


@contextmanager
def opened(path):
    """A picture file, opened but not decoded. Whatever goes wrong in it or in the block is
    Unreadable, in silence."""
    try:
        check_file(path)
        with quiet(), open(path, "rb") as file, Image.open(file) as image:
            if image.format in PROGRAMS:
                raise Unreadable(f"it is {PROGRAMS[image.format]}; save it as PNG or JPEG first")
            yield image
    except (Unreadable, FileNotFoundError):
        raise
    except UnidentifiedImageError:
        raise Unreadable(unknown(path)) from None
    except Image.DecompressionBombError:
        raise Unreadable(
            f"it has more than {MOST_PIXELS / 1e6:.0f} million pixels; make it smaller first"
        ) from None
    except MemoryError:
        raise Unreadable("there is not enough memory for it; make it smaller first") from None
    except Exception as error:  # Pillow raises many kinds, down to SyntaxError and struct.error
        raise Unreadable(explain(error)) from None


def check_file(path):
    """Refuse what is no ordinary file before it is opened: a pipe would be waited for, and a
    device may have no end."""
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise Unreadable("it is a folder; name the photographs in it")
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("it is no ordinary file; name a picture file")
    if not found.st_size:
        raise Unreadable(f"the file is empty; {AGAIN}")


@contextmanager
def quiet():
    """Read without Pillow's warnings, and with our bound on pixels in place of its own."""
    bound = Image.MAX_IMAGE_PIXELS
    # Pillow warns over it and refuses over twice as many
    Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = bound


def unknown(path):
    """What to say of a file that Pillow does not know."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if head[4:8] == b"ftyp" and head[8:12] in HEIC:
        if pillow_heif is None:
            return (
                "it is an HEIC picture; install pillow-heif (pip install -r "
                "requirements-heif.txt) or save it as JPEG"
            )
        return f"it is an HEIC picture and damaged; {AGAIN}"
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return "it is text, not a picture; name a photograph"
    return (
        "it is no picture of a kind that Pillow reads, or damaged; save it as JPEG or PNG, or "
        f"{AGAIN}"
    )


def explain(error):
    """The reason and the way out for an error of Pillow's or of the system's."""
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
        return f"the system says {error.strerror!r}; put that right or name another"
    said = getattr(error, "strerror", None) or str(error)
    text = (said.splitlines() or [""])[0].rstrip(".")[:160]
    if re.search(
        "truncated|not enough image data|unexpected end|eof|ran out of data", text.lower()
    ):
        return f"it is incomplete; {AGAIN}"
    if text in ("", "None"):  # as SyntaxError says it
        text = type(error).__name__
    return (
        f"it is damaged, or packed in a way that Pillow cannot decode ({text}); {AGAIN}, or "
        "save it as JPEG or PNG"
    )


def orientation_of(image):
    """The EXIF orientation, 1 to 8; 1 also where the tag or all of EXIF is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF is no reason to lose a photograph
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def reduction(size, at_least, max_pixels):
    """By how much to divide both sides."""
    factor = math.ceil(math.sqrt(size[0] * size[1] / max_pixels))
    return max(1, min(factor, min(size) // (at_least or 1)))


def draft(image, at_least, max_pixels):
    """Let a large JPEG be decoded at 1/2, 1/4 or 1/8 of its sides; returns whether it will be."""
    power = 2 ** math.ceil(math.log2(reduction(image.size, at_least, max_pixels)))
    if power > 1 and min(image.size) // power < (at_least or 1):
        power //= 2
    if power == 1 or image.format not in ("JPEG", "MPO"):
        return False
    return image.draft(None, (image.width // power, image.height // power)) is not None


def load(image):
    """Decode a picture, whole, so that an incomplete one is noticed."""
    if not image.width * image.height:
        raise Unreadable("it has no pixels; name another")
    image.load()


def plain(image, deep):
    """A picture in 8 bits a channel: grey, RGB or CMYK; grey and RGB with an alpha channel if
    anything is transparent.

    deep: whether Pillow has read 16 bits a channel.
    """
    transparent = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = image_of_deep_grey(image)
        if transparent is not None:
            grey.putalpha(
                Image.fromarray(np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8))
            )
        return grey
    if deep and isinstance(transparent, tuple):  # still in 16 bits
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    has_alpha = transparent is not None or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    grey = image.mode in ("1", "L", "LA", "La")
    mode = (
        "CMYK"
        if image.mode == "CMYK"
        else ("LA" if grey else "RGBA")
        if has_alpha
        else "L"
        if grey
        else "RGB"
    )
    return image if image.mode == mode else image.convert(mode)


def image_of_deep_grey(image):
    """Grey of more than 8 bits as an image of 8."""
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 1):  # nor where one is no number
            raise Unreadable(
                f"its values are floating-point numbers from {low:g} to {high:g}, and should be "
                "from 0 to 1; save it with 8 or 16 bits a pixel"
            )
    elif low < 0 or high > 65535:
        raise Unreadable(
            f"its values are whole numbers from {low} to {high}, and should be from 0 to 65535; "
            "save it with 8 or 16 bits a pixel"
        )
    elif 0 < high <= 255 and tiff_tag(image, BITS) == 32:
        raise Unreadable(
            f"its values are 32-bit numbers of at most {high}, which would be black; save it with "
            "8 bits a pixel"
        )
    scale = {12: 4095 / 255}.get(
        tiff_tag(image, BITS), 257
    )  # Pillow scales the values of all other formats to 16 bits
    result = np.empty(pixels.shape, np.uint8)
    for row in range(
        0, len(pixels), 64
    ):  # a block at a time, as what is computed with takes many times the room
        block = pixels[row : row + 64].astype(np.float64)
        result[row : row + 64] = np.floor(
            (block * 255 if image.mode == "F" else block / scale) + 0.5
        )
    return Image.fromarray(
        255 - result if tiff_tag(image, WHITE_IS_ZERO) == 0 else result
    )  # Pillow turns only 8 bits round


def tiff_tag(image, tag):
    """A number that a TIFF file says of its only channel; None of other formats."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def over_white(image, profile):
    """A picture in grey, RGB or CMYK, with an alpha channel or without, in sRGB over white."""
    alpha = image.getchannel("A") if image.mode in ("LA", "RGBA") else None
    if alpha is not None:
        image = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
    transform = None
    if profile:
        if image.mode == "L" and space_of(profile) == "RGB":
            image = image.convert("RGB")
        transform = to_srgb(profile, image.mode)
    if transform:
        image = transform(image)
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if alpha is None or alpha.getextrema() == (255, 255):
        return image
    return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)


def space_of(profile):
    """The colours that a profile is of, or None where it is damaged."""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except Exception:  # Pillow raises many kinds, and a profile is no reason to lose a photograph
        return None


@functools.lru_cache(16)  # a folder's photographs are mostly of one camera
def to_srgb(profile, mode):
    """What brings an image of a mode and a profile to sRGB, a function; None where that is of no
    use or changes nothing."""
    if space_of(profile) != PROFILE_SPACES[mode]:
        return None
    try:
        source, flags = (
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.Flags.NOOPTIMIZE if mode == "L" else 0,
        )
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=flags
        )
        if (
            mode == "L"
        ):  # each of the 256 greys once, exactly: else lcms interpolates, up to 10 off in the dark
            greys = ImageCms.applyTransform(
                Image.fromarray(np.arange(256, dtype=np.uint8)[None]), transform
            )
            table = np.asarray(greys)[0].T.ravel().tolist()
            return lambda image: image.convert("RGB").point(table)
        if mode != "RGB":
            return lambda image: ImageCms.applyTransform(image, transform)
        # Of sRGB itself there are many profiles, equal but for rounding.
        cube = np.stack(np.meshgrid(*[np.arange(0, 256, 17, dtype=np.uint8)] * 3), -1).reshape(
            64, 64, 3
        )
        there = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
        changes = np.abs(there.astype(int) - cube).max() > 1
        return (lambda image: ImageCms.applyTransform(image, transform)) if changes else None
    except Exception:  # as above
        return None
