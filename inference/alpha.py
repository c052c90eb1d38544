"""Cut-outs with soft edges: alpha in [0, 1] at the photograph's resolution, and the colours of what is cut out.

1. A network says roughly how opaque each pixel is: the task `border` with its contour in the middle of
   the trimap's border; without that task the mask, shrunk by what the border rule had added to it.
2. A guided filter fits alpha = a . colour + b in small windows, so that edges follow the photograph's
   own (He, Sun and Tang, "Guided image filtering", 2010; coefficients at low resolution as in He and
   Sun, "Fast guided filter", 2015).
3. Foreground colours remove the background's from the edge (Forte, "Approximate fast foreground
   colour estimation", 2021).

Steps 2 and 3 work on maps of SCALE times the network's resolution, which are enlarged a strip of the
photograph at a time, so memory does not grow with it.
"""

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch.nn import functional as F

from data import photographs
from data.pixels import resize_images
from tasks import resized

SCALE = 2
RADIUS = 1 / 64  # of the guided filter's windows, of the side
CONTRAST = 1.0  # of alpha about one half
EPSILON = 1e-4  # variance of colours in [0, 1] below which a window counts as flat
WIDE, NARROW = 1 / 12, 1 / 64  # radii of the two steps of foreground estimation
BORDER = 0.0155  # from the middle of a trimap's border to its edge, of the picture's side
STRIP = 2**20  # pixels
MAX_PIXELS = 10**8  # a photograph with more is reduced


def opacity(tasks, outputs, border):
    """(h, w) float in [0, 1] from outputs of the whole picture; None if no task tells.

    border: what a trimap's border counted as in training: "pet", "background" or another word.
    """
    for name, task in tasks.items():
        found = task.opacity(outputs[name])
        if found is not None:
            return found
    for name, task in tasks.items():
        found = task.probability(outputs[name], *outputs[name].shape[-2:])
        if found is not None:
            return moved(found, {"pet": -BORDER, "background": BORDER}.get(border, 0))
    return None


def moved(probability, share):
    """A probability map whose contour is moved outwards by a share of the side."""
    radius = round(abs(share) * max(probability.shape))
    sign = 1 if share > 0 else -1
    return sign * F.max_pool2d(sign * probability[None], 2 * radius + 1, 1, radius)[0]


def edge_maps(image, opacity):
    """Maps at SCALE times the resolution of `opacity` (h, w), for a photograph (1, 3, H, W) uint8.

    (10, h', w'): slope (3) and offset (1) of alpha = slope . colour + offset, foreground colours (3),
    background colours (3); colours in [0, 1].
    """
    height, width = (SCALE * side for side in opacity.shape)
    guide = resize_images(image, height, width)[0].float() / 255
    side = min(height, width)
    fit = edge_fit(guide, opacity)
    alpha = alpha_of(fit, guide)
    foreground, background = split_colours(guide, guide, guide, alpha, round(WIDE * side))
    foreground, background = split_colours(
        guide, foreground, background, alpha, round(NARROW * side)
    )
    return torch.cat([fit, foreground, background])


def edge_fit(guide, opacity):
    """(4, h, w): slope (3) and offset of alpha = slope . colour + offset, for colours (3, h, w)."""
    height, width = guide.shape[-2:]
    target = resized(opacity[None], height, width)
    return guided_filter(guide, target, round(RADIUS * min(height, width)))


def split_colours(image, foreground, background, alpha, radius):
    """Colours (3, h, w) before and behind a pet, from estimates of both; one step of blur fusion."""
    share = box_mean(alpha[None], radius)
    foreground = box_mean(foreground * alpha, radius) / (share + 1e-5)
    background = box_mean(background * (1 - alpha), radius) / (1 - share + 1e-5)
    return unmixed(image, foreground, background, alpha), background


def unmixed(image, foreground, background, alpha):
    """The foreground, corrected by what a composition of both lacks of the image."""
    rest = image - alpha * foreground - (1 - alpha) * background
    return (foreground + alpha * rest).clamp(0, 1)


def guided_filter(guide, target, radius):
    """(4, h, w) coefficients of `target` (1, h, w) as a linear function of `guide` (3, h, w)."""
    red, green, blue = guide
    products = [red * red, red * green, red * blue, green * green, green * blue, blue * blue]
    means = box_mean(torch.cat([guide, target, guide * target, torch.stack(products)]), radius)
    guide_mean, target_mean, both, second = means.split([3, 1, 3, 6])
    r, g, b = guide_mean
    squares = torch.stack([r * r, r * g, r * b, g * g, g * b, b * b])
    rr, rg, rb, gg, gb, bb = second - squares
    rr, gg, bb = rr + EPSILON, gg + EPSILON, bb + EPSILON
    x, y, z = both - guide_mean * target_mean
    # The covariance matrix is symmetric; its inverse by cofactors.
    c_rr, c_rg, c_rb = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c_gg, c_gb, c_bb = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    determinant = rr * c_rr + rg * c_rg + rb * c_rb
    slope = torch.stack(
        [
            c_rr * x + c_rg * y + c_rb * z,
            c_rg * x + c_gg * y + c_gb * z,
            c_rb * x + c_gb * y + c_bb * z,
        ]
    )
    slope = slope / determinant
    offset = target_mean - (slope * guide_mean).sum(0, keepdim=True)
    return box_mean(torch.cat([slope, offset]), radius)


def box_mean(maps, radius):
    """Mean over a square window, cut off at the picture's edges: (C, h, w) -> the same."""
    return line_mean(line_mean(maps, radius).mT, radius).mT


def line_mean(maps, radius):
    """Mean over `radius` columns to both sides, from running sums: the time does not grow with it."""
    width = maps.shape[-1]
    sums = F.pad(maps.cumsum(-1), (1, 0))
    place = torch.arange(width, device=maps.device)
    first, last = (place - radius).clamp(min=0), (place + radius + 1).clamp(max=width)
    return (sums[..., last] - sums[..., first]) / (last - first)


def alpha_of(fit, colour):
    """(H, W) alpha from a fit of that size and colours (3, H, W) in [0, 1]."""
    alpha = (fit[:3] * colour).sum(0) + fit[3]
    return ((alpha - 0.5) * CONTRAST + 0.5).clamp(0, 1)


# ------------------------------------------------------------ cut-outs


def soft_cutout(image, opacity):
    """The pet of an RGB image as RGBA, from an opacity map (h, w) of any resolution."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    maps = edge_maps(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None], opacity)
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
    """A cut-out that is transparent where the photograph's own file is; its colours are the file's."""
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
