"""Networks on a split made harder by rule (data/stress.py): small, crowded, dark, blurred, turned, compressed, without a pet.

    python benchmarks/bench_stress.py --data D [--split val] [--checkpoint mtl_model.pt ...] [--sheet scenes.png]

A table of pooled Dice, Dice an image, border IoU, accuracy and box IoU for every kind; of the pictures without a pet how many give
an empty mask (under 0.5% of the picture) and how many are called cat or dog with over 90%. Each network looks at the size that it
was trained for. --sheet draws what each kind, and each of the scenes that training can be given (--scenes), makes of some images.
Half a minute for each kind on 2 cores at 256 px.
"""

import sys
from pathlib import Path

import common
import torch
from data.chances import USUAL
from tqdm import tqdm

import cli
from data import scenes, stress
from dataloader_mtl import MTLDataset, make_loader
from training import evaluation, known_images

FIGURES = ("dice_pooled", "dice", "border_iou", "accuracy", "box_iou")
DRAWN = 8  # images a row of the sheet
EMPTY_SHARE = 0.005  # of the picture: a smaller mask counts as empty
SURE = 0.9


def parse_args(argv=None):
    parser = common.make_parser(__doc__)
    parser.add_argument("--split", choices=("train", "val", "test"), default="val")
    parser.add_argument(
        "--checkpoint", type=Path, nargs="+", default=[common.ROOT / "mtl_model.pt"]
    )
    parser.add_argument("--limit", type=cli.integer(1), help="use the first so many images")
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="draw what the scenes make of some images"
    )
    return parser.parse_args(argv)


def main(args):
    data, rows, values = common.data_folder(args.data), [], {}
    for path in args.checkpoint:
        model, info = common.load_segmenter(path)
        for kind in tqdm(stress.KINDS, path.name, leave=False, disable=None):
            dataset = MTLDataset(
                data,
                args.split,
                limit=args.limit,
                tasks=model.task.values(),
                scenes=None if kind == "as it is" else stress.Stress(kind),
            )
            if kind == "as it is":
                known_images.warn_of_known_images(dataset, info)
            resizes = info["size"] != dataset.size
            network = evaluation.Resized(model, info["size"]) if resizes else model
            found = (
                empty(network, dataset)
                if kind == "empty"
                else {
                    key: value
                    for key, value in evaluation.evaluate(network, make_loader(dataset, 16))[
                        0
                    ].items()
                    if key in FIGURES
                }
            )
            values.setdefault(str(path), {})[kind] = found
            rows.append([str(path), kind, *(found.get(key) for key in (*FIGURES, "empty", "sure"))])
    if args.sheet:
        draw(data, args.split, args.sheet)
    common.report(
        [
            "network",
            "kind",
            *(key.replace("_", " ") for key in FIGURES),
            "mask is empty",
            "called over 90%",
        ],
        rows,
        {"split": args.split, "networks": values},
    )


def alarms(tasks, outputs, targets):
    """What a network sees in pictures that show no pet: {what: (B,) float of 0 and 1}, of those that are such (their mask is
    empty) alone.

    empty: a mask under EMPTY_SHARE of the picture; sure: a class that is called with a probability over SURE.
    """
    shows_none = (targets["seg"] != 1).flatten(1).all(1)
    found = {
        "empty": ((outputs["seg"] > 0).flatten(1).double().mean(1) < EMPTY_SHARE)[
            shows_none
        ].double()
    }
    if "cls" in outputs:
        probability = (outputs["cls"] / tasks["cls"].temperature).softmax(1).amax(1)
        found["sure"] = (probability > SURE)[shows_none].double()
    return found


@torch.no_grad()
def empty(network, dataset):
    """{"empty", "sure"}: shares of a dataset's pictures without a pet, as `alarms` says them; None where there are none."""
    found = {}
    network.eval()
    for batch in make_loader(dataset, 16):
        seen = alarms(dataset.tasks, network(batch["image"]), batch)
        for key, value in seen.items():
            found.setdefault(key, []).append(value)
    whole = {key: torch.cat(parts) for key, parts in found.items()}
    return {key: values.mean().item() if len(values) else None for key, values in whole.items()}


def draw(data, split, path):
    """A row for each scene and each kind of stress: its name, and images with the contour of their masks."""
    from matplotlib.figure import Figure

    made = {
        f"--scenes {name}": scenes.Scenes(f"{name}:{1 / chance}") for name, chance in USUAL.items()
    } | {f"stress: {kind}": stress.Stress(kind) for kind in stress.KINDS if kind != "as it is"}
    figure = Figure(figsize=(1.5 * DRAWN, 1.7 * len(made)), dpi=80)
    for k, (name, way) in enumerate(tqdm(made.items(), "draw", leave=False, disable=None)):
        dataset = MTLDataset(data, split, seed=1, tasks=("seg",), scenes=way)
        for column in range(DRAWN):
            sample = dataset[(0, column * len(dataset) // DRAWN)]
            axes = figure.add_subplot(len(made), DRAWN, k * DRAWN + column + 1)
            axes.imshow(sample["image"].permute(1, 2, 0).numpy())
            mask = (sample["seg"][0] == 1).numpy()
            if 0 < mask.mean() < 1:
                axes.contour(mask, [0.5], colors="lime", linewidths=1)
            axes.set_axis_off()
            if not column:
                axes.set_title(name, loc="left", fontsize=9)
    figure.subplots_adjust(0, 0, 1, 0.985, 0.02, 0.16)
    figure.savefig(path)


if __name__ == "__main__":
    cli.run(main, parse_args(sys.argv[1:]))
