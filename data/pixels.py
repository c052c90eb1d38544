"""What is done to the pixels of one picture: (3, H, W) or (1, H, W) uint8 tensors in, the same out."""

import io
import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

GREY = torch.tensor([0.2989, 0.587, 0.114])  # of red, green and blue in grey (ITU-R BT.601)


def resize(kind, pixels, height, width=None):
    """A picture at another height and width (the same, where only one is given): images bilinear and antialiased, all others
    without mixing their values."""
    mode = InterpolationMode.BILINEAR if kind == "images" else InterpolationMode.NEAREST_EXACT
    return transforms.resize(pixels, [height, width or height], mode, antialias=kind == "images")


def adjust_colours(image, brightness, contrast, saturation):
    """Multiply brightness, contrast and saturation, in this order, with factors: (3, H, W) uint8 -> the same.

    What torchvision's functions of these names do one after another. Each mixes a pixel, its grey and the mean grey, so all
    three together do too: a third of the time. Values are clamped once, at the end.
    """
    # No matrix product: inside a forked worker that can spin for ever (seen with MKL).
    pixels = image.flatten(1).float()                      # (3, HW)
    grey = (pixels * GREY[:, None]).sum(0)                 # (HW,)
    offset = (1 - contrast) * brightness * grey.mean() + 0.5  # rounded, not cut
    grey *= contrast * brightness * (1 - saturation)
    pixels *= contrast * brightness * saturation
    return pixels.add_(grey).add_(offset).clamp_(0, 255).to(torch.uint8).view_as(image)


def lit(image, gamma, gains, noise, rng):
    """Light of another strength (gamma over 1 is darker) and colour (gains (3,) of red, green and blue), and a sensor's noise of
    the given deviation, in 0-255."""
    values = torch.arange(256) / 255
    tables = (255 * values**gamma * torch.as_tensor(gains)[:, None]).clamp(0, 255)  # (3, 256)
    pixels = torch.stack([table[channel.long()] for table, channel in zip(tables, image)])
    if noise:
        pixels += torch.from_numpy(rng.normal(0, noise, image.shape).astype(np.float32))
    return pixels.add_(0.5).clamp_(0, 255).to(torch.uint8)


def blurred(image, sigma):
    """Out of focus: a Gaussian whose deviation is so many pixels."""
    size = 2 * math.ceil(3 * sigma) + 1
    return transforms.gaussian_blur(image, [size, size], [sigma, sigma])


def shaken(image, length, angle):
    """Moved while it was taken: the mean along a line of so many pixels, at an angle in radians."""
    steps = torch.linspace(-0.5, 0.5, max(2, round(length))) * (length - 1)
    reach = math.ceil(length / 2)
    padded = F.pad(image[None].float(), [reach] * 4, mode="replicate")[0]
    height, width = image.shape[-2:]
    moved = [padded[:, reach + y:reach + y + height, reach + x:reach + x + width] for y, x in zip(
        (steps * math.sin(angle)).round().int().tolist(), (steps * math.cos(angle)).round().int().tolist())]
    return torch.stack(moved).mean(0).round().to(torch.uint8)


def compressed(image, quality):
    """As a JPEG file of a quality of 1 to 100 holds it."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def coarse(image, share):
    """Taken with a share of the pixels in each direction, and enlarged."""
    height, width = image.shape[-2:]
    small = transforms.resize(image, [max(1, round(height * share)), max(1, round(width * share))], antialias=True)
    return transforms.resize(small, [height, width], antialias=True)


def grown(region, margin):
    """A region (H, W) bool and what lies within a margin in pixels around it, in a square."""
    size = 2 * margin + 1
    return F.max_pool2d(region[None, None].float(), size, 1, margin)[0, 0] > 0


def painted_over(image, region):
    """A picture whose region, (H, W) bool, is painted over with what surrounds it, mirrored at the nearest point of its edge;
    where that is in the region too, the nearest point itself is taken. The region must not be all of it."""
    from scipy import ndimage

    where = region.numpy()
    nearest = ndimage.distance_transform_edt(where, return_distances=False, return_indices=True)      # (2, H, W)
    rows, columns = np.nonzero(where)
    near = nearest[:, rows, columns]
    beyond = np.clip(2 * near - np.stack([rows, columns]), 0, np.array(where.shape)[:, None] - 1)
    source = np.where(where[beyond[0], beyond[1]], near, beyond)
    result = image.clone()
    result[:, rows, columns] = image[:, source[0], source[1]]
    return result


def pasted(image, other, region):
    """A picture with that part of another of its size on it that lies in a region, (H, W) bool, its edge softened by a pixel."""
    soft = F.avg_pool2d(region[None].float(), 3, 1, 1, count_include_pad=False)[0]
    return torch.lerp(image.float(), other.float(), soft).round().to(torch.uint8)
