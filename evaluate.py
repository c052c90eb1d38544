"""Measure any checkpoint on any prepared data, in fp32; prints one JSON object on standard output.

    python evaluate.py [--checkpoint mtl_model.pt] [--data datasets/data_new] [--split test]
    python evaluate.py --data datasets/official --unseen --out results/network/official

The figures do not depend on the batch size; what the split cannot measure is null. Beside each
stands its 95% interval over images, as "dice_interval": exact (Clopper and Pearson) for an
accuracy, else a bootstrap. A warning says how many images of the split the network was trained on;
--unseen leaves them and their near-duplicates out. --out also writes NAME.json and
NAME_per_image.csv.

A network measured at another image size than its own is mostly worse. With --resize it works at its
own size, and its logits, brought back to the data's size, are compared with the masks as stored.
"""

import argparse
import json
import sys
from pathlib import Path

import cli
from cli import InputError

SPLITS = ("train", "val", "test")


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("datasets/data_new"), help="re-chunked data folder"
    )
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    parser.add_argument(
        "--resize", action="store_true", help="work at the network's own image size"
    )
    parser.add_argument(
        "--hflip", action="store_true", help="test-time augmentation: mean with the horizontal flip"
    )
    parser.add_argument("--mirror", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--unseen", action="store_true", help="leave out images that the network was trained on"
    )
    parser.add_argument(
        "--out", type=Path, metavar="NAME", help="write NAME.json, NAME_per_image.csv"
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="FILE",
        help="with --split val: write the checkpoint with temperatures fitted on it",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    args = parser.parse_args(argv)
    if args.mirror:
        cli.warn("--mirror is now called --hflip; the old spelling goes with the next version")
        args.hflip = True
    if args.calibrate and (args.split != "val" or args.hflip):
        parser.error(
            "--calibrate fits temperatures on the validation split: --split val, no --hflip"
        )
    return args


def main(args):
    # Here, as PyTorch takes seconds to import, and --help does without.
    from dataloader_mtl import MTLDataset, make_loader
    from files import write_json
    from models import count_parameters
    from training import checkpoint, checks, leakage
    from training import evaluate as evaluation
    from training.devices import choose_device, to_device
    from training.run_folder import write_per_image

    path = checkpoint.find(args.checkpoint)
    if args.checkpoint is None:
        print(f"evaluate.py: using {path}", file=sys.stderr)
    model, info = checkpoint.load_model(path)
    if args.calibrate:
        refuse_target(args.calibrate, model.task)
    device = choose_device(args.device)
    dataset = MTLDataset(args.data, args.split, model.task.values())
    loader = make_loader(dataset, args.batch_size)
    resizes = args.resize and info["size"] != dataset.size
    if not resizes:
        way = ", where it is mostly worse: --resize measures it at its own size"
        leakage.warn_of_other_size(dataset, info, way=way)
    seen = leakage.seen_images(dataset, info) if info["trained_on"] is not None else None
    if args.unseen and seen is None:
        raise InputError(f"{path} does not say which images it was trained on; leave --unseen out")
    if not args.unseen:
        leakage.warn_of_leakage(dataset, info)
    checks.warn_of_unmeasured(dataset)
    network = evaluation.Resized(model, info["size"]) if resizes else model
    network = evaluation.Flipped(network, model.task) if args.hflip else network
    _, measured = evaluation.evaluate(to_device(network, device), loader)
    names = dataset.names
    if args.unseen:
        measured = {key: values[~seen] for key, values in measured.items()}
        names = [name for name, one in zip(names, seen.tolist(), strict=True) if not one]
    results = {"experiment": info["experiment"], "seed": info["seed"]}
    results |= evaluation.summarise(model.task, measured)
    results |= evaluation.intervals(model.task, measured)
    results |= {"n_images": len(names), "n_seen": None if seen is None else int(seen.sum())}
    results |= {"parameters": count_parameters(model), **evaluation.describe_data(dataset)}
    if resizes:
        results["network_size"] = info["size"]
    if args.hflip:
        results["hflip"] = True
    results |= {"device": device.type, "precision": "fp32"}
    if args.calibrate:
        results["calibration"] = calibrate(args, network, loader)
    if args.out:
        write_per_image(args.out.with_name(args.out.name + "_per_image.csv"), names, measured)
        write_json(args.out.with_name(args.out.name + ".json"), results)
    print(json.dumps(results))


def calibrate(args, network, loader):
    """Write the checkpoint with the temperatures that fit the split; returns them."""
    from training import checkpoint
    from training.calibrate import calibrate as fit

    temperatures = fit(network, loader)
    if not temperatures:
        raise InputError(f"no image of {args.data / args.split} has a class; name other --data")
    content = checkpoint.load(checkpoint.find(args.checkpoint))
    checkpoint.save(content | {"calibration": temperatures}, args.calibrate)
    return temperatures


def refuse_target(path, tasks):
    """Refuse a file that is not to be written, and a network without classes."""
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--calibrate {path} is no file in an existing folder; name calibrated.pt")
    if path.with_name("config.json").exists():
        raise InputError(f"--calibrate {path} lies in a run folder; name another file")
    if not any(task.classes for task in tasks.values()):
        raise InputError("the network has no task with classes to calibrate; leave --calibrate out")


if __name__ == "__main__":
    cli.run(main, parse_args())
