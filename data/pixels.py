"""What is done to the pixels of one picture: (3, H, W) or (1, H, W) uint8 tensors in, the same
out."""

import io
import math

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F

FINE = 128  # pixels: pictures of this side and more are painted over at half their resolution
GREY = torch.tensor([0.2989, 0.587, 0.114])  # of red, green and blue in grey (ITU-R BT.601)


def resize(kind, pixels, height, width=None):
    """A picture at another height and width (the same, where only one is given): images bilinear
    and antialiased, all others without mixing their values."""
    size = height, width or height
    if kind == "images":
        return resize_images(pixels[None], *size)[0]
    return (
        pixels
        if pixels.shape[-2:] == size
        else F.interpolate(pixels[None], size=size, mode="nearest-exact")[0]
    )


def resize_images(images, height, width):
    """(B, 3, H, W) uint8 on any device -> (B, 3, height, width) uint8, bilinear and antialiased. To
    the byte what torchvision's transforms do, which take as long to import as PyTorch."""
    if images.shape[-2:] == (height, width):
        return images
    is_on_cpu = images.device.type == "cpu"  # where PyTorch resizes bytes as they are
    resized = F.interpolate(
        images if is_on_cpu else images.float(),
        size=(height, width),
        mode="bilinear",
        antialias=True,
    )
    return resized if is_on_cpu else resized.round().to(torch.uint8)


def adjust_colours(image, brightness, contrast, saturation):
    """Multiply brightness, contrast and saturation, in this order, with factors: (3, H, W) uint8 ->
    the same.

    What torchvision's functions of these names do one after another. Each mixes a pixel, its grey
    and the mean grey, so all three together do too: a third of the time. Values are clamped once,
    at the end."""
    # No matrix product: inside a forked worker that can spin for ever (seen with MKL).
    pixels = image.flatten(1).float()  # (3, HW)
    grey = (pixels * GREY[:, None]).sum(0)  # (HW,)
    offset = (1 - contrast) * brightness * grey.mean() + 0.5  # rounded, not cut
    grey *= contrast * brightness * (1 - saturation)
    pixels *= contrast * brightness * saturation
    return pixels.add_(grey).add_(offset).clamp_(0, 255).to(torch.uint8).view_as(image)


def lit(image, gamma, gains, noise, rng):
    """Light of another strength (gamma over 1 is darker) and colour (gains (3,) of red, green and
    blue), and a sensor's noise of the given deviation, in 0-255."""
    values = np.arange(256, dtype=np.float32) / 255
    tables = 255 * values**gamma * np.asarray(gains, np.float32)[:, None]  # (3, 256)
    tables = np.clip(tables, 0, 255)
    pixels = np.stack([tables[k][image[k].numpy()] for k in range(3)])
    if noise:
        pixels += np.float32(noise) * rng.standard_normal(pixels.shape, np.float32)
    return torch.from_numpy(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def blurred(image, sigma):
    """Out of focus: a Gaussian whose deviation is so many pixels, as Pillow approximates it."""
    return of_pillow(to_pillow(image).filter(ImageFilter.GaussianBlur(sigma)))


def shaken(image, length, angle):
    """Moved while it was taken: the mean along a line of so many pixels, at an angle in radians."""
    steps = torch.linspace(-0.5, 0.5, max(2, round(length))) * (length - 1)
    reach = math.ceil(length / 2)
    padded = F.pad(image[None].float(), [reach] * 4, mode="replicate")[0]
    height, width = image.shape[-2:]
    down = (reach + (steps * math.sin(angle)).round()).int().tolist()
    across = (reach + (steps * math.cos(angle)).round()).int().tolist()
    moved = []
    for y, x in zip(down, across, strict=True):
        moved.append(padded[:, y : y + height, x : x + width])
    return torch.stack(moved).mean(0).round().to(torch.uint8)


def compressed(image, quality):
    """As a JPEG file of a quality of 1 to 100 holds it."""
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=quality)
    return of_pillow(Image.open(file))


def to_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def of_pillow(image):
    """A PIL image in RGB as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def coarse(image, share):
    """Taken with a share of the pixels in each direction, and enlarged."""
    height, width = image.shape[-2:]
    small = resize("images", image, max(1, round(height * share)), max(1, round(width * share)))
    return resize("images", small, height, width)


def grown(region, margin):
    """A region (H, W) bool and what lies within a margin in pixels around it, in a square."""
    found = region.numpy()
    # Rows, then columns: a maximum over a square of floats takes twenty times as long.
    for _ in range(2):
        before, found = found, found.copy()
        for k in range(1, margin + 1):
            found[k:] |= before[:-k]
            found[:-k] |= before[k:]
        found = found.T
    return torch.from_numpy(np.ascontiguousarray(found))


def painted_over(image, region):
    """A picture whose region, (H, W) bool, is painted over with what surrounds it, mirrored at the
    nearest point of its edge; where that is in the region too, the nearest point itself is taken.
    The region must not be all of it."""
    from scipy import ndimage

    where = region.numpy()
    # Nearest points are looked for where the region is, and at half the resolution of large
    # pictures: that is most of the time.
    step, coarse = 1, where
    if min(where.shape) >= FINE:
        pooled = F.max_pool2d(region[None].float(), 2, ceil_mode=True)[0].numpy() > 0
        if not pooled.all():
            step, coarse = 2, pooled
    nearest = ndimage.distance_transform_edt(coarse, return_distances=False, return_indices=True)
    pixels = np.stack(np.nonzero(where))  # (2, n): rows and columns
    last = np.array(where.shape)[:, None] - 1
    near = np.minimum(step * nearest[:, *(pixels // step)], last)
    beyond = np.clip(2 * near - pixels, 0, last)
    source = np.where(where[*beyond], near, beyond)
    result = image.contiguous().numpy().copy()
    result[:, *pixels] = result[:, *source]
    return torch.from_numpy(result)


def pasted(image, other, region):
    """A picture with that part of another of its size on it that lies in a region, (H, W) bool, its
    edge softened by a pixel."""
    soft = Image.fromarray(region.to(torch.uint8).mul(255).numpy()).filter(ImageFilter.BoxBlur(1))
    return of_pillow(Image.composite(to_pillow(other), to_pillow(image), soft))
