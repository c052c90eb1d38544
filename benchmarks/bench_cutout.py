"""Edges of cut-outs: against full-size trimaps, against composites of known alpha, and seconds.

    python benchmarks/bench_cutout.py --root ORIGINALS [--cutout hard]

--root is an Oxford-IIIT Pet folder as its archives hold it. The contour is taken as the middle of
the trimap's border. Composites have fur-like edges made by rule, over another photograph of the
folder; the error of their alpha is averaged over a band of BAND of the longer side around the
contour.
"""

import time
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps
from scipy import ndimage

import cli
from data import photographs
from data.pixels import of_pillow
from inference import alpha, tta
from training import checkpoint

BAND = 0.02
HAIRS = 3  # a hair for so many pixels of the contour
MEGAPIXELS = (0.2, 12, 48)


def middle(trimap):
    """Signed distance in pixels to the middle of a trimap's border, above zero in the pet."""
    to_pet = ndimage.distance_transform_edt(trimap != 1)
    to_background = ndimage.distance_transform_edt(trimap != 2)
    inside = to_background > to_pet
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return distance - np.where(inside, 0.5, -0.5)


def read_pairs(root):
    """(name, photograph, signed distance) of each that has a trimap of its size with a pet."""
    for path in sorted((root / "images").glob("[A-Za-z]*.jpg")):
        trimap = root / "annotations/trimaps" / f"{path.stem}.png"
        if not trimap.exists():
            continue
        image, trimap = photographs.read(path).image, photographs.read_mask(trimap)
        if trimap.shape == image.size[::-1] and (trimap == 1).any():
            yield path.stem, image, middle(trimap)


def furry(distance, rng):
    """Alpha (H, W) with fur-like edges around a contour: a rough, soft edge and single hairs."""
    side = max(distance.shape)
    noise = ndimage.gaussian_filter(rng.standard_normal(distance.shape), side / 250)
    rough = distance + noise / noise.std() * side / 250
    edge = np.clip(rough / (side / 125) + 0.5, 0, 1)
    hairs = Image.new("L", (2 * distance.shape[1], 2 * distance.shape[0]))
    draw = ImageDraw.Draw(hairs)
    down, right = np.gradient(distance)
    ys, xs = np.nonzero(np.abs(distance) < 1)
    chosen = rng.choice(len(ys), len(ys) // HAIRS, replace=False)
    for y, x in zip(ys[chosen], xs[chosen], strict=True):
        angle = np.arctan2(-down[y, x], -right[y, x]) + rng.normal(0, 0.5)
        length = 2 * side * rng.uniform(0.004, 0.016)
        end = 2 * x + length * np.cos(angle), 2 * y + length * np.sin(angle)
        draw.line([(2 * x, 2 * y), end], fill=int(rng.integers(120, 256)), width=1)
    hairs = np.asarray(hairs.resize(distance.shape[::-1], Image.Resampling.BOX)) / 255
    return np.maximum(edge, hairs)


def composite(image, distance, other, rng):
    """(photograph, its alpha): a pet with fur-like edges, over another photograph."""
    side = max(distance.shape)
    core = distance > side / 100
    nearest = ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    colours = np.asarray(image)[tuple(nearest)]
    known = furry(distance, rng)
    ground = np.asarray(ImageOps.fit(other, image.size))
    mixed = known[..., None] * colours + (1 - known[..., None]) * ground
    return Image.fromarray(mixed.round().astype(np.uint8)), known


def cut(model, info, image, cutout):
    """Alpha (H, W) in [0, 1] as predict.py gives it."""
    seen = tta.look(model, of_pillow(image), info["size"])
    if cutout == "hard":
        name = tta.mask_task(model.task)
        mask = model.task[name].answer(seen.outputs[name], image.height, image.width)
        pet = alpha.hard_cutout(image, mask)
    else:
        trimap = alpha.trimap(model.task, seen.outputs, info["border"])
        pet = alpha.soft_cutout(image, trimap)
    return np.asarray(pet.getchannel("A")) / 255


def measure(found, pet):
    """Share of background in what is opaque, share of the pet that is kept, Dice."""
    both = (found * pet).sum()
    total = max(found.sum(), 1e-9)
    return 1 - both / total, both / pet.sum(), 2 * both / (total + pet.sum())


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--root", type=Path, required=True, help="Oxford-IIIT Pet folder")
    parser.add_argument("--checkpoint", type=Path, default=common.ROOT / "mtl_model.pt")
    parser.add_argument("--cutout", choices=("soft", "hard"), default="soft")
    parser.add_argument("--limit", type=cli.integer(1), help="use the first N photographs")
    parser.add_argument("--skip", nargs="*", default=[], help="names whose trimap is wrong")
    parser.add_argument("--no-times", action="store_true", help="measure no seconds")
    return parser.parse_args(argv)


def main(args):
    torch.set_num_threads(1)
    model, info = checkpoint.load_model(args.checkpoint)
    pairs = [pair for pair in read_pairs(args.root) if pair[0] not in args.skip][: args.limit]
    edges, errors = [], []
    for k, (_, image, distance) in enumerate(pairs):
        edges.append(measure(cut(model, info, image, args.cutout), distance > 0))
        photo, known = composite(image, distance, pairs[k - 1][1], np.random.default_rng(k))
        band = np.abs(distance) < BAND * max(distance.shape)
        found = cut(model, info, photo, args.cutout)
        errors.append(np.abs(found - known)[band].mean())
    background, kept, dice = np.mean(edges, 0).round(4).tolist()
    result = {"photographs": len(pairs), "background": background, "kept": kept, "dice": dice}
    result["composite_error"] = round(float(np.mean(errors)), 4)
    for megapixels in () if args.no_times else MEGAPIXELS:
        width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
        image = pairs[0][1].resize((width, width * 3 // 4))
        start = time.perf_counter()
        cut(model, info, image, args.cutout)
        result[f"seconds_{megapixels}_mp"] = round(time.perf_counter() - start, 2)
    common.print_results(result)


if __name__ == "__main__":
    cli.run(main, parse_args())
