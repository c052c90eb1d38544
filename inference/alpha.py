"""Cut-outs with soft edges: alpha in [0, 1] at the photograph's resolution, and clean colours.

1. A network gives a trimap: pet, background, and an edge between whose alpha is unknown. The task
   `border` predicts it; without that task the mask's edge is unknown as far as a trimap's border
   reaches, inwards if that counted as pet in training.
2. Guided filters, from coarse to fine, solve for alpha in the edge, so that it follows the
   photograph's own edges (He, Sun and Tang, "Guided image filtering", 2010: one pass is a step of
   solving the matting Laplacian). The last fit, alpha = slope . colour + offset, is enlarged and
   applied to the photograph (He and Sun, "Fast guided filter", 2015).
3. Foreground colours remove the background's from the edge (Forte, "Approximate fast foreground
   colour estimation", 2021).

Maps are of SIZE pixels a side; they are enlarged a strip of the photograph at a time.
"""

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch.nn import functional as F

from data import photographs
from data.pixels import resize_images
from tasks import resized

SIZE = 512
PASSES = {64: 12, 128: 6, 256: 3, 512: 1}  # of the guided filter at each side in pixels
RADIUS = 2  # pixels of its windows
EPSILON = 1e-4  # variance of colours in [0, 1] below which a window counts as flat
CONTRAST = 3.0  # of alpha about one half, as each pass softens it
WIDE, NARROW = 43, 8  # pixels: radii of the two steps of foreground estimation
BORDER = 0.031  # width of a trimap's border, of the picture's side
STRIP = 2**20  # pixels
MAX_PIXELS = 10**8  # a photograph with more is reduced


def trimap(tasks, outputs, border):
    """(h, w) of 1 pet, 0 background, 1/2 edge, from outputs of the whole picture; None without
    masks.

    border: what a trimap's border counted as in training: "pet", "background" or another word.
    """
    inside = None
    for name, task in tasks.items():
        found = task.foreground(outputs[name])
        if found is not None:
            inside = found.float()
            break
    for name, task in tasks.items():
        found = task.trimap(outputs[name])
        if found is not None:
            return found if inside is None else found * inside
    if inside is None:
        return None
    reach = {"pet": (BORDER, 0), "background": (0, BORDER)}.get(border, (BORDER / 2, BORDER / 2))
    inwards, outwards = (round(share * max(inside.shape)) for share in reach)
    eroded, dilated = 1 - largest(1 - inside, inwards), largest(inside, outwards)
    return (eroded + dilated) / 2


def largest(maps, radius):
    """The largest value in a square window around each pixel of (h, w)."""
    return F.max_pool2d(maps[None], 2 * radius + 1, 1, radius)[0]


def solve(image, trimap):
    """(guide (3, s, s) of colours in [0, 1], fit (4, s, s)) of alpha = slope . colour + offset.

    image (1, 3, H, W) uint8; trimap (h, w).
    """
    return solve_guides({size: resize_images(image, size, size) for size in PASSES}, trimap)


def solve_guides(images, trimap):
    """The same of an image at each of the sides in PASSES, {side: (1, 3, side, side)}."""
    alpha = trimap[None]
    for size, passes in PASSES.items():
        guide = GuidedFilter(images[size][0].float() / 255)
        known = resized(trimap[None], size, size)
        alpha = resized(alpha, size, size)
        for _ in range(passes):
            fit = guide.fit(alpha)
            alpha = alpha_of(fit, guide.image, contrast=1)[None]
            alpha = torch.where(known > 0.75, 1.0, torch.where(known < 0.25, 0.0, alpha))
    return guide.image, guide.fit(alpha)


class GuidedFilter:
    """Fits maps as linear functions of an image's colours (3, h, w) in small windows."""

    def __init__(self, image):
        self.image = image
        red, green, blue = image
        products = [red * red, red * green, red * blue, green * green, green * blue, blue * blue]
        self.mean, squares = box_mean(torch.cat([image, torch.stack(products)]), RADIUS).split(
            [3, 6]
        )
        r, g, b = self.mean
        rr, rg, rb, gg, gb, bb = squares - torch.stack([r * r, r * g, r * b, g * g, g * b, b * b])
        rr, gg, bb = rr + EPSILON, gg + EPSILON, bb + EPSILON
        # The covariance matrix is symmetric; its inverse by cofactors.
        first = torch.stack([gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg])
        second = torch.stack([first[1], rr * bb - rb * rb, rb * rg - rr * gb])
        third = torch.stack([first[2], second[2], rr * gg - rg * rg])
        determinant = (first * torch.stack([rr, rg, rb])).sum(0)
        self.inverse = torch.stack([first, second, third]) / determinant

    def fit(self, target):
        """(4, h, w): slope (3) and offset of a map (1, h, w)."""
        means = box_mean(torch.cat([target, target * self.image]), RADIUS)
        covariance = means[1:] - means[:1] * self.mean
        slope = (self.inverse * covariance).sum(1)
        offset = means[:1] - (slope * self.mean).sum(0, keepdim=True)
        return box_mean(torch.cat([slope, offset]), RADIUS)


def alpha_of(fit, colour, contrast=CONTRAST):
    """(H, W) in [0, 1] from a fit of that size and colours (3, H, W) in [0, 1]."""
    alpha = (fit[:3] * colour).sum(0) + fit[3]
    return ((alpha - 0.5) * contrast + 0.5).clamp(0, 1)


def edge_maps(image, trimap):
    """(10, SIZE, SIZE): a fit (4), foreground colours (3), background colours (3) of a photograph.

    image (1, 3, H, W) uint8; trimap (h, w).
    """
    guide, fit = solve(image, trimap)
    alpha = alpha_of(fit, guide)
    foreground, background = split_colours(guide, guide, guide, alpha, WIDE)
    foreground, background = split_colours(guide, foreground, background, alpha, NARROW)
    return torch.cat([fit, foreground, background])


def split_colours(image, foreground, background, alpha, radius):
    """Colours (3, h, w) before and behind a pet, from estimates of both; one step of blur
    fusion."""
    share = box_mean(alpha[None], radius)
    foreground = box_mean(foreground * alpha, radius) / (share + 1e-5)
    background = box_mean(background * (1 - alpha), radius) / (1 - share + 1e-5)
    return unmixed(image, foreground, background, alpha), background


def unmixed(image, foreground, background, alpha):
    """The foreground, corrected by what a composition of both lacks of the image."""
    rest = image - alpha * foreground - (1 - alpha) * background
    return (foreground + alpha * rest).clamp(0, 1)


def box_mean(maps, radius):
    """Mean over a square window, cut off at the picture's edges: (C, h, w) -> the same."""
    return line_mean(line_mean(maps, radius).mT, radius).mT


def line_mean(maps, radius):
    """Mean over `radius` columns to both sides, from running sums: the time does not grow with
    it."""
    width = maps.shape[-1]
    sums = F.pad(maps.cumsum(-1), (1, 0))
    place = torch.arange(width, device=maps.device)
    first, last = (place - radius).clamp(min=0), (place + radius + 1).clamp(max=width)
    return (sums[..., last] - sums[..., first]) / (last - first)


# ------------------------------------------------------------ cut-outs


def soft_cutout(image, trimap):
    """The pet of an RGB image as RGBA, from a trimap (h, w) of any resolution."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    maps = edge_maps(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], trimap)
    result = np.zeros((height, width, 4), np.uint8)
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = enlarged_rows(maps, (height, width), top, bottom)
        colour = torch.from_numpy(pixels[top:bottom].copy()).permute(2, 0, 1).float() / 255
        alpha = alpha_of(strip[:4], colour)
        colour = unmixed(colour, strip[4:7], strip[7:], alpha) * (alpha > 0)
        values = 255 * torch.cat([colour, alpha[None]])
        result[top:bottom] = values.round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(result, "RGBA")


def enlarged_rows(maps, size, top, bottom):
    """Rows `top` to `bottom` of maps (C, h, w), bilinear at `size` (height, width)."""
    height, width = size
    last = maps.shape[1] - 1
    place = (torch.arange(top, bottom) + 0.5) * (maps.shape[1] / height) - 0.5
    place = place.clamp(0, last)
    above = place.long()
    below = (above + 1).clamp(max=last)
    rows = torch.lerp(maps[:, above], maps[:, below], (place - above)[:, None])
    return resized(rows, bottom - top, width)


def hard_cutout(image, mask):
    """The pixels of a mask (H, W) bool as RGBA; black where it is transparent."""
    mask = mask.numpy()[..., None]
    pixels = np.asarray(image) * mask
    return Image.fromarray(np.concatenate([pixels, 255 * mask.astype(np.uint8)], 2), "RGBA")


def keep_transparency(pet, path):
    """A cut-out that is transparent where the photograph's own file is; its colours are the
    file's."""
    with photographs.opened(path) as image:
        if not image.has_transparency_data:
            return pet
        own = ImageOps.exif_transpose(image.convert("RGBA")).resize(pet.size)
    own_alpha = own.getchannel("A")
    cutout = ImageChops.multiply(pet.getchannel("A"), own_alpha)
    is_opaque = own_alpha.point(lambda value: 255 * (value == 255))
    colours = Image.composite(pet.convert("RGB"), own.convert("RGB"), is_opaque)
    colours = Image.composite(colours, Image.new("RGB", pet.size), cutout.point(bool_byte))
    colours.putalpha(cutout)
    return colours


def bool_byte(value):
    return 255 * (value > 0)
