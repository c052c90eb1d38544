"""Which pictures mtl_vis.py draws: of photographs, of test images, or of a run's best, median and
worst test images.

Each function returns (pictures, the path of the checkpoint that looked at them).
"""

import csv
import math

import cli
from cli import InputError
from data import photographs
from data.pixels import of_pillow
from training import checkpoint, looking, pictures
from training.pictures import MAX_SIDE, Picture


def of_test_images(data, network, n):
    """The first n test images of a data folder; network: a checkpoint's path, or None for the usual
    one."""
    from dataloader_mtl import MTLDataset  # here, as photographs do without

    path = checkpoint.find(network)
    model, info = checkpoint.load_model(path)
    dataset = MTLDataset(data, "test", tasks=model.task.values())
    if dataset.size != info["size"]:
        cli.warn(
            f"the network was trained on images of {info['size']} px, and those of {data} are of {dataset.size} px, "
            "where it is mostly worse"
        )
    return pictures.pictures_of_dataset(model, dataset, n), path


def of_photographs(paths, network):
    """Those photographs that can be read; warns of the others. network: a checkpoint's path, or
    None for the usual one. Raises cli.InputError where none can be read."""
    path = checkpoint.find(network)
    model, info = checkpoint.load_model(path)
    side = MAX_SIDE if len(paths) == 1 else MAX_SIDE // 2  # of several, a panel shows still less
    drawn, reasons = [], []
    for photograph in paths:
        try:
            drawn.append(picture_of_photograph(model, photograph, info["size"], side))
        except InputError as reason:
            reasons.append(reason)
    if not drawn and len(paths) == 1:
        raise reasons[0]
    for reason in reasons:
        cli.warn(reason)
    if not drawn:
        raise InputError(f"none of the {len(paths)} photographs can be read; name others")
    return drawn, path


def picture_of_photograph(model, path, size, side):
    """The picture of a photograph, reduced to `side` pixels, as a network of images of `size`
    pixels sees it. Raises cli.InputError."""
    name = photographs.show_name(path)
    photograph = looking.read(path, name, f"there is no photograph {name}")
    image = photograph.image
    pixels = of_pillow(image)
    image.thumbnail((side, side))
    shown = of_pillow(image)
    predicted = looking.predict(model, pixels, size, shown.shape[-2:])
    return Picture(
        photographs.show_name(path.name), shown, model.task, predicted, frame=photograph.size[::-1]
    )


def of_run(run, data, n):
    """The n best, n median and n worst test images of a finished run, by test_per_image.csv, as its
    best.pt sees them.

    run: the run folder; data: the data folder that it was tested on. Returns (pictures, best first,
    and the checkpoint's path). Raises cli.InputError where run and data do not belong together.
    """
    from dataloader_mtl import MTLDataset  # here, as photographs do without

    path = run / "best.pt"
    model, info = checkpoint.load_model(path)
    names, dice = read_test_dice(run / "test_per_image.csv")
    dataset = MTLDataset(data, "test", limit=len(names), tasks=model.task.values())
    if dataset.summary["split_hash"] != info["split_hash"] or dataset.names != names:
        raise InputError(
            f"{run} was tested on other images than those of {data} (split hash {info['split_hash']} against "
            f"{dataset.summary['split_hash']}); name its data folder with --data"
        )
    order = sorted(
        (row for row in range(len(names)) if not math.isnan(dice[row])),
        key=lambda row: (-dice[row], row),
    )
    n = max(1, min(n, len(order) // 3))  # no image twice, as far as there are enough
    middle = (len(order) - n) // 2
    kinds = {"best": order[:n], "median": order[middle : middle + n], "worst": order[-n:]}
    drawn = pictures.pictures_of_dataset(
        model, dataset, [row for rows in kinds.values() for row in rows]
    )
    for picture, kind in zip(drawn, [kind for kind, rows in kinds.items() for _ in rows]):
        picture.name = f"{kind}: {picture.name}"
    return drawn, path


def read_test_dice(path):
    """Names and Dice of a run's test images, NaN where one has no mask."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["name"], float(row["dice"] or "nan")) for row in csv.DictReader(file)]
        names, dice = map(list, zip(*rows))
        if all(map(math.isnan, dice)):
            raise ValueError
    except FileNotFoundError:
        raise InputError(
            f"there is no {path}: the run is not finished, or it is no run folder; run its script with "
            "--resume or name another"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(
            f"{path} is damaged or empty; test the run again or name another"
        ) from None
    return names, dice
