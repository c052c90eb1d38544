"""Measure any checkpoint on any prepared data, in fp32; one JSON object on standard output, nothing else there.

    python evaluate.py [--checkpoint mtl_model.pt] [--data datasets/data_new] [--split test] [--batch-size 16] [--resize] [--mirror]

A warning on standard error says how many images of the split the network was trained on, if any, or that the checkpoint does
not tell. The numbers do not depend on the batch size; what the split cannot measure is null.

A network measured at another image size than its own is another one, mostly a worse one: a warning names both sizes. With
--resize it looks at the images at its own size (bilinear, with antialias), and its logits, brought back to the data's size
(bilinear), are held against the masks as they are stored. "size" is the data's size, "network_size", where it is another,
that at which the network looked. With --mirror outputs are the mean with those of the mirror image, at twice the time.

    python evaluate.py --split val --calibrate calibrated.pt

also writes a copy of the checkpoint with the temperatures that the split's classes ask for (training/calibration.py), as a finished
run has them: what pictures and predict.py say of a class is then as probable as it is often right. No metric changes.
"""

import json
import sys
from pathlib import Path

import cli
from cli import InputError
from training.options import DEVICES


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/data_new"), help="the data folder"
    )
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    parser.add_argument(
        "--resize", action="store_true", help="look at images of another size at the network's own"
    )
    parser.add_argument(
        "--mirror", action="store_true", help="look at the mirror image too, and take the mean"
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="with --split val: write the checkpoint with temperatures fitted on it",
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    args = parser.parse_args(argv)
    if args.calibrate and args.split != "val":
        parser.error("--calibrate fits temperatures on the validation split; add --split val")
    if args.calibrate and args.mirror:
        parser.error("--calibrate is for the network as it looks by itself; leave --mirror out")
    return args


def main(args):
    from dataloader_mtl import (
        MTLDataset,
        make_loader,
    )  # here, as PyTorch takes a while to import, and --help does without
    from models import count_parameters
    from training import calibration, checkpoint, evaluation, known_images, targets
    from training.devices import choose_device, to_device

    path = checkpoint.find(args.checkpoint)
    if args.checkpoint is None:
        print(f"evaluate.py: using {path}", file=sys.stderr)
    model, info = checkpoint.load_model(path)
    if args.calibrate:
        refuse_target(args.calibrate, model.task)
    device = choose_device(args.device)
    loader = make_loader(
        MTLDataset(args.data, args.split, tasks=model.task.values()), args.batch_size
    )
    resizes = args.resize and info["size"] != loader.dataset.size
    known_images.warn_of_other_size(loader.dataset, info, resizes)
    known_images.warn_of_known_images(loader.dataset, info)
    targets.warn_of_unmeasured(loader.dataset)
    parameters = count_parameters(model)
    network = evaluation.Resized(model, info["size"]) if resizes else model
    network = evaluation.Mirrored(network, model.task) if args.mirror else network
    metrics, _ = evaluation.evaluate(to_device(network, device), loader)
    temperatures = calibration.calibrate(network, loader) if args.calibrate else {}
    if args.calibrate:
        if not temperatures:
            raise InputError(
                f"no image of {args.data / args.split} has a class, so there is nothing to fit; name other --data"
            )
        checkpoint.save(checkpoint.load(path) | {"calibration": temperatures}, args.calibrate)
    print(
        json.dumps(
            {
                "experiment": info["experiment"],
                "seed": info["seed"],
                **metrics,
                "n_images": len(loader.dataset),
                "parameters": parameters,
                **evaluation.describe_data(loader.dataset),
                **({"network_size": info["size"]} if resizes else {}),
                **({"mirror": True} if args.mirror else {}),
                "device": device.type,
                "precision": "fp32",
                **({"calibration": temperatures} if args.calibrate else {}),
            }
        )
    )


def refuse_target(path, tasks):
    """Refuse a file that is not to be written, and a network without classes."""
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "lies in no folder that is there"
        raise InputError(
            f"--calibrate {path} {what}; name the file to write, such as calibrated.pt"
        )
    if path.with_name("config.json").exists():
        raise InputError(
            f"--calibrate {path} lies in a run folder, whose files are the run's own; name another file"
        )
    if not any(task.classes for task in tasks.values()):
        raise InputError(
            f"the network has no task with classes to calibrate (its tasks are {', '.join(tasks)}); leave --calibrate out"
        )


if __name__ == "__main__":
    cli.run(main, parse_args())
