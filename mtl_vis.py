"""Pictures: what a network sees in test images, or in photographs of your own; and the curves of a run.

    python mtl_vis.py                         four test images with target and prediction -> mask.png
    python mtl_vis.py cat.jpg holiday.webp    photographs of your own, of any size and any of Pillow's formats
    python mtl_vis.py --checkpoint runs/baseline/seed0/best.pt --data datasets/synthetic --out baseline.png
    python mtl_vis.py --gallery runs/mtl/seed0 --out gallery.png    its best, median and worst test images

Green is the mask, yellow the head box: dashed where it is the target. A photograph that cannot be read is named in a warning
and the others are drawn; the exit status is 2 only where none can be.
"""

import csv
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure  # not pyplot, which keeps figures and may want a screen
from matplotlib.patches import Rectangle
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms
from torchvision.utils import draw_segmentation_masks

import checkpoint
import cli
import data_check
import lettering
import photographs
from cli import InputError
from dataloader_mtl import MTLDataset

CLASSES = ("cat", "dog")
MASK_COLOUR, BOX_COLOUR = (0, 200, 120), "gold"
PANEL_INCHES, MAX_SIDE, DPI = 3.2, 1600, 120
MOST_PHOTOGRAPHS, MOST_PIXELS = 200, 2**16 - 1  # in one figure; of its height, which is matplotlib's bound


@dataclass
class Picture:
    """One row of a figure. image (3, H, W) uint8; masks (H, W) bool and boxes (4,) in pixels of it, or None; a title; the
    whole photograph's (width, height) where `image` is a reduced one."""
    name: str
    image: torch.Tensor
    mask: torch.Tensor | None = None
    box: torch.Tensor | None = None
    label: str | None = None
    target_mask: torch.Tensor | None = None
    target_box: torch.Tensor | None = None
    target_label: str | None = None
    frame: tuple[int, int] | None = None


@torch.no_grad()
def predict(model, image, size, shown=None):
    """Segment one image of any size.

    model in evaluation mode; image (3, H, W) uint8; size: side in pixels at which the network looks at it; shown: another
    (H, W) that the prediction is for. Returns (mask (H, W) bool, box (4,) in pixels of H x W or None, "cat 97%" or None).
    """
    device = next(model.parameters()).device
    height, width = shown or image.shape[-2:]
    small = transforms.resize(image, [size, size], antialias=True)
    outputs = {task: value.float().cpu() for task, value in model(small[None].to(device)).items()}
    mask = box = label = None
    if "seg" in outputs:
        mask = F.interpolate(outputs["seg"], size=(height, width), mode="bilinear", align_corners=False)[0, 0] > 0
    if "bbox" in outputs:
        box = outputs["bbox"][0] * torch.tensor([width, height, width, height])
    if "cls" in outputs:
        probability, winner = outputs["cls"].softmax(dim=1)[0].max(dim=0)
        label = f"{CLASSES[winner]} {probability:.0%}"
    return mask, box, label


def pictures_of_dataset(model, dataset, rows):
    """Pictures of some rows of an MTLDataset, or of the first so many, with targets and predictions."""
    pictures = []
    for row in range(min(rows, len(dataset))) if isinstance(rows, int) else rows:
        sample = dataset[0, row]
        picture = Picture(dataset.names[row], sample["image"], *predict(model, sample["image"], dataset.size))
        if "seg" in sample:
            picture.target_mask = sample["seg"][0] > 0
        if "bbox" in sample and not sample["bbox"].isnan().any():
            picture.target_box = sample["bbox"] * dataset.size
        if "cls" in sample:
            picture.target_label = CLASSES[sample["cls"]]
        pictures.append(picture)
    return pictures


def gallery(run, data, n):
    """The n best, n median and n worst test images of a finished run, by test_per_image.csv, as its best.pt sees them.

    run: the run folder; data: the data folder that it was tested on. Returns (pictures, best first, and the checkpoint's
    path). Raises cli.InputError where run and data do not belong together.
    """
    path = run / "best.pt"
    model, info = checkpoint.load_model(path)
    names, dice = read_test_dice(run / "test_per_image.csv")
    dataset = MTLDataset(data, "test", limit=len(names))
    if dataset.summary["split_hash"] != info["split_hash"] or dataset.names != names:
        raise InputError(f"{run} was tested on other images than those of {data} (split hash {info['split_hash']} against "
                         f"{dataset.summary['split_hash']}); name its data folder with --data")
    order = sorted(range(len(names)), key=lambda row: (-dice[row], row))
    n = max(1, min(n, len(order) // 3))  # no image twice, as far as there are enough
    middle = (len(order) - n) // 2
    kinds = {"best": order[:n], "median": order[middle:middle + n], "worst": order[-n:]}
    pictures = pictures_of_dataset(model, dataset, [row for rows in kinds.values() for row in rows])
    for picture, kind in zip(pictures, [kind for kind, rows in kinds.items() for _ in rows]):
        picture.name = f"{kind}: {picture.name}"
    return pictures, path


def read_test_dice(path):
    """Names and Dice of a run's test images."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(row["name"], float(row["dice"])) for row in csv.DictReader(file)]
        names, dice = map(list, zip(*rows))
    except FileNotFoundError:
        raise InputError(f"there is no {path}: the run is not finished, or it is no run folder; run its script with "
                         "--resume or name another") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path} is damaged or empty; test the run again or name another") from None
    return names, dice


def picture_of_photograph(model, path, size, side):
    """The picture of a photograph, reduced to `side` pixels, as a network of images of `size` pixels sees it. Raises
    cli.InputError."""
    name = photographs.show_name(path)
    try:
        photograph = photographs.read(path)
    except FileNotFoundError:
        raise InputError(f"there is no photograph {name}") from None
    except photographs.Unreadable as reason:
        raise InputError(f"{name} cannot be read: {reason}") from None
    image = photograph.image
    pixels = to_tensor(image)
    image.thumbnail((side, side))
    shown = to_tensor(image)
    predicted = predict(model, pixels, size, shown.shape[-2:])
    return Picture(photographs.show_name(path.name), shown, *predicted, frame=photograph.size)


def to_tensor(image):
    """A PIL image in RGB as (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def panels(picture):
    """The panels of a picture: (image (3, H, W) uint8, box, dash, title) each."""
    def overlay(mask):
        return picture.image if mask is None else draw_segmentation_masks(picture.image, mask, alpha=0.5, colors=MASK_COLOUR)

    result = [(picture.image, None, "-", picture.name)]
    if any(target is not None for target in (picture.target_mask, picture.target_box, picture.target_label)):
        target = "target" if picture.target_label is None else f"target: {picture.target_label}"
        result.append((overlay(picture.target_mask), picture.target_box, "--", target))
    predicted = "predicted" if picture.label is None else f"predicted: {picture.label}"
    if picture.mask is not None and picture.target_mask is not None:
        both, total = (picture.mask & picture.target_mask).sum(), picture.mask.sum() + picture.target_mask.sum()
        predicted += f", Dice {2 * both / total if total else 1:.3f}"
    result.append((overlay(picture.mask), picture.box, "-", predicted))
    return result


def draw_pictures(pictures, path):
    """Draw pictures into an image file, one a row, each at its own aspect; over MAX_SIDE pixels they are reduced."""
    rows = [panels(picture) for picture in pictures]
    # A very tall photograph gets a narrower panel, so that one row stays within a screen.
    aspects = [min(picture.image.shape[1] / picture.image.shape[2], 1.6) for picture in pictures]
    columns = max(map(len, rows))
    # One photograph alone is shown large, up to its own size.
    inches = PANEL_INCHES if len(pictures) > 1 else max(PANEL_INCHES, min(pictures[0].image.shape[2], MAX_SIDE) / DPI)
    height = sum(aspects) * inches + 0.35 * len(rows)
    figure = Figure((columns * inches, height), min(DPI, MOST_PIXELS / height), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=aspects)
    for axis in axes.flat:
        axis.axis("off")
    for row, row_axes in zip(rows, axes):
        for (image, box, dash, title), axis in zip(row, row_axes):
            axis.imshow(image.permute(1, 2, 0).numpy(), extent=(0, image.shape[2], image.shape[1], 0))
            title = shorten(lettering.text(title), int(13 * inches))
            axis.set_title(title, fontsize=9, **lettering.style(title))
            if box is not None:
                x1, y1, x2, y2 = box.tolist()
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=BOX_COLOUR, linewidth=2,
                                         linestyle=dash))
    save_figure(figure, path)


def shorten(title, most):
    """A title without its middle where it is wider than `most` Latin letters. Not wrapped, because matplotlib reads what it
    wraps as mathematics, and cannot wrap what has no space."""
    widths = [2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in title]
    if sum(widths) <= most:
        return title
    begin, end = np.cumsum(widths) <= most // 2, np.cumsum(widths[::-1])[::-1] < most // 2
    return "".join(c for c, keep in zip(title, begin) if keep) + "\u2026" + "".join(c for c, keep in zip(title, end) if keep)


def draw_curves(history, path):
    """Draw a run's losses and validation metrics over its epochs; history is a list of log.csv's rows as dicts."""
    epochs = [row["epoch"] for row in history]
    figure = Figure((10, 3.8), DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    for key, style in (("train_loss_", "-"), ("val_loss_", "--")):
        for task, colour in zip(("seg", "cls", "bbox"), ("tab:green", "tab:blue", "tab:orange")):
            if key + task in history[0]:
                left.plot(epochs, [row[key + task] for row in history], style, color=colour,
                          marker="." if len(epochs) < 10 else None, label=f"{task}, {key.split('_')[0]}")
    left.set(xlabel="epoch", ylabel="loss, unweighted", title="losses")
    for key, label in (("val_dice", "Dice"), ("val_accuracy", "accuracy"), ("val_box_iou", "box IoU")):
        values = [row[key] for row in history]
        if any(value is not None for value in values):
            right.plot(epochs, [np.nan if value is None else value for value in values],
                       marker="." if len(epochs) < 10 else None, label=label)
    right.set(xlabel="epoch", ylim=(0, 1), title="validation")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(figure, path)


def save_figure(figure, path):
    path = Path(path)
    try:
        if path.is_dir() or not path.suffix:  # matplotlib would write a file of another name
            raise ValueError("it is a folder or has no ending such as .png")
        figure.savefig(path)
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        reason = data_check.shorten(error) or type(error).__name__
        raise InputError(f"cannot write the picture {path} ({reason}); choose another --out") from None


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="photographs; default: test images")
    parser.add_argument("--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt")
    parser.add_argument("--gallery", type=Path, metavar="RUN", help="a run folder: its best, median and worst test images")
    parser.add_argument("--data", type=Path, default=Path("datasets/data_new"), help="the data folder of the test images")
    parser.add_argument("--out", type=Path, default=Path("mask.png"), help="the picture to write")
    parser.add_argument("--n", type=cli.integer(1, 100), help="how many test images (4), or of each kind in a gallery (1)")
    args = parser.parse_args(argv)
    if args.gallery and (args.images or args.checkpoint):
        parser.error("--gallery draws a run's own test images with its own network; leave photographs and --checkpoint out")
    if len(args.images) > MOST_PHOTOGRAPHS:
        parser.error(f"{len(args.images)} photographs are too many for one picture; name at most {MOST_PHOTOGRAPHS}")
    return args


def main(args):
    if args.gallery:
        pictures, path = gallery(args.gallery, args.data, args.n or 1)
    else:
        pictures, path = choose_pictures(args)
    draw_pictures(pictures, args.out)
    for picture in pictures:
        print(f"{photographs.show_name(picture.name)}: {describe(picture)}")
    print(f"{photographs.show_name(args.out)} drawn with {photographs.show_name(path)}")


def choose_pictures(args):
    """Pictures of own photographs or the first test images, and the checkpoint that made them."""
    path = checkpoint.find(args.checkpoint)
    model, info = checkpoint.load_model(path)
    if args.images:
        pictures = pictures_of_photographs(model, args.images, info["size"])
    else:
        pictures = pictures_of_dataset(model, MTLDataset(args.data, "test"), args.n or 4)
    return pictures, path


def pictures_of_photographs(model, paths, size):
    """Pictures of those photographs that can be read; warns of the others. Raises cli.InputError where none can be."""
    side = MAX_SIDE if len(paths) == 1 else MAX_SIDE // 2  # of several, a panel shows still less
    pictures, reasons = [], []
    for path in paths:
        try:
            pictures.append(picture_of_photograph(model, path, size, side))
        except InputError as reason:
            reasons.append(reason)
    if not pictures and len(paths) == 1:
        raise reasons[0]
    for reason in reasons:
        cli.warn(reason)
    if not pictures:
        raise InputError(f"none of the {len(paths)} photographs can be read; name others")
    return pictures


def describe(picture):
    """One line of text for what was predicted."""
    parts = [picture.label] if picture.label else []
    if picture.mask is not None:
        parts.append(f"{picture.mask.float().mean():.0%} of the picture is pet")
    if picture.box is not None:
        height, width = picture.image.shape[-2:]
        x, y = (picture.frame[0] / width, picture.frame[1] / height) if picture.frame else (1, 1)
        parts.append("head at {:.0f} {:.0f} {:.0f} {:.0f}".format(*(picture.box * torch.tensor([x, y, x, y])).tolist()))
    return ", ".join(parts)


if __name__ == "__main__":
    cli.run(main, parse_args())
