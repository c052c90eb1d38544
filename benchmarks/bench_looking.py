"""What predict.py's --tiles and --mirror bring, and cost, where pets are small in a large picture, or several.

    python benchmarks/bench_looking.py --data D [--split val] [--checkpoint mtl_model.pt] [--limit 60]

Pictures made of a split's photographs, the same for every way of looking: the photograph as it is; its pet in a picture of two,
three and five times the side, whose ground is another photograph with its pet painted over, enlarged; collages of 2 x 2 and 3 x 3
photographs. Dice is the mean over pictures, at their own size; accuracy and box IoU, where the picture shows one pet, as the
network's tasks measure them. time: of all pictures, over that of one look. A quarter of an hour on one core at 256 px.
"""

import math
import random
import sys
import time
from pathlib import Path

import common
import torch
from tqdm import tqdm

import cli
from data import pixels, scenes
from dataloader_mtl import MTLDataset
from training import known_images
from training.looking import outputs_of
from utils import dice_score

WAYS = {
    "the whole alone": {},
    "--mirror": {"mirror": True},
    "--tiles": {"tiles": True},
    "both": {"tiles": True, "mirror": True},
}
TIMES = {
    "as it is": 1,
    "a half": 2,
    "a third": 3,
    "a fifth": 5,
}  # the picture's side over the photograph's
COLLAGES = {"2 x 2": 2, "3 x 3": 3}
PICTURES = (*TIMES, *COLLAGES)
FIGURES = {
    "accuracy": ("cls", "correct"),
    "box_iou": ("bbox", "box_iou"),
}  # of one pet: (the task, what its `measure` calls it)


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument("--checkpoint", type=Path, default=common.ROOT / "mtl_model.pt")
    parser.add_argument("--limit", type=cli.integer(1), default=60, help="pictures of each kind")
    return parser.parse_args(argv)


def main(args):
    model, info = common.load_segmenter(args.checkpoint)
    dataset = MTLDataset(common.data_folder(args.data), args.split, tasks=model.task.values())
    known_images.warn_of_known_images(dataset, info)
    model.eval()
    found = {picture: {way: {} for way in WAYS} for picture in PICTURES}
    rows = (
        [len(dataset) * k // args.limit for k in range(args.limit)]
        if args.limit < len(dataset)
        else range(len(dataset))
    )
    for row in tqdm(rows, args.checkpoint.name, leave=False, disable=None):
        for picture, sample in pictures(dataset, row).items():
            for way, options in WAYS.items():
                for key, value in measure(model, sample, info["size"], options).items():
                    found[picture][way].setdefault(key, []).append(value)
    spent = {way: sum(sum(ways[way].pop("seconds", ())) for ways in found.values()) for way in WAYS}
    means = {
        picture: {
            way: {key: mean(values) for key, values in measured.items()}
            for way, measured in ways.items()
        }
        for picture, ways in found.items()
    }
    times = {way: seconds / spent["the whole alone"] for way, seconds in spent.items()}
    table = [
        [
            key.replace("_", " "),
            way,
            *(means[picture][way].get(key) for picture in PICTURES),
            times[way] if key == "dice" else None,
        ]
        for key in ("dice", *FIGURES)
        for way in WAYS
        if any(means[picture][way].get(key) is not None for picture in PICTURES)
    ]
    common.report(
        ["figure", "way", *PICTURES, "time"],
        table,
        {
            "split": args.split,
            "n": len(rows),
            "network": str(args.checkpoint),
            "pictures": means,
            "time": times,
        },
    )


def pictures(dataset, row):
    """{name: sample in the form of the dataset's} of one row; those that cannot be made of it are left out."""
    n, sample = len(dataset), dataset[(0, row)]
    found = {}
    others = (dataset[(0, (row + n // 2 + k) % n)] for k in range(1, n))
    grounds = (
        scenes.without_pet({"images": other["image"], "masks": other["seg"]}) for other in others
    )
    ground = next((one for one in grounds if one is not None), None)
    rng = random.Random(row)
    for name, times in TIMES.items():
        if times == 1:
            found[name] = sample
        elif ground is not None:
            found[name] = pasted(dataset.tasks, sample, ground, times, rng.random(), rng.random())
    for name, side in COLLAGES.items():
        found[name] = collage(
            [sample, *(dataset[(0, (row + n * k // side**2) % n)] for k in range(1, side**2))], side
        )
    return found


def pasted(tasks, sample, ground, times, x, y):
    """The pet of a photograph on another ground (3, S, S), enlarged; x and y: where its frame lies, in [0, 1] of the room there is."""
    size = ground.shape[-1]
    side = size * times
    left, top = round(x * (side - size)), round(y * (side - size))
    image, mask = (
        pixels.resize("images", ground, side),
        torch.zeros(1, side, side, dtype=torch.uint8),
    )
    place = (slice(None), slice(top, top + size), slice(left, left + size))
    image[place] = pixels.pasted(image[place], sample["image"], sample["seg"][0] == 1)
    mask[place] = sample["seg"]
    frame = (-left / size, -top / size, times, times)  # the picture, relative to the photograph
    return {"image": image, "seg": mask} | {
        name: tasks[name].crop(sample[name], *frame)
        for name, _ in FIGURES.values()
        if name in tasks
    }


def collage(samples, side):
    """side x side photographs in one picture."""
    joined = {
        key: torch.cat(
            [
                torch.cat([sample[key] for sample in samples[start : start + side]], -1)
                for start in range(0, len(samples), side)
            ],
            -2,
        )
        for key in ("image", "seg")
    }
    return {key: value.contiguous() for key, value in joined.items()}


def measure(model, sample, size, options):
    """{"seconds", "dice", and of FIGURES what the network has a task for and the picture a target} of one look."""
    begin = time.perf_counter()
    outputs = outputs_of(model, sample["image"], size, **options)
    found = {"seconds": time.perf_counter() - begin}
    mask, is_pet = (
        model.task["seg"].answer(outputs["seg"], *sample["seg"].shape[-2:]),
        sample["seg"][0] == 1,
    )
    found["dice"] = dice_score((mask & is_pet).sum(), mask.sum(), is_pet.sum()).item()
    for figure, (name, key) in FIGURES.items():
        if name in outputs and name in sample:
            found[figure] = (
                model.task[name].measure(outputs[name][None], sample[name][None])[key].item()
            )
    return found


def mean(values):
    """Of what is known; None where nothing is."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


if __name__ == "__main__":
    cli.run(main, parse_args(sys.argv[1:]))
