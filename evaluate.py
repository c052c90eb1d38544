"""Measure any checkpoint on any prepared data, in fp32; one JSON object on standard output, nothing else there.

    python evaluate.py [--checkpoint mtl_model.pt] [--data datasets/data_new] [--split test] [--batch-size 16]

A warning on standard error says how many images of the split the network was trained on, if any, or that the checkpoint does
not tell. The numbers do not depend on the batch size.
"""

import json
import sys
from pathlib import Path

import checkpoint
import cli
import engine
from dataloader_mtl import MTLDataset, make_loader
from models import count_parameters


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt")
    parser.add_argument("--data", type=Path, default=Path("datasets/data_new"), help="the data folder")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    parser.add_argument("--device", choices=engine.DEVICES, default="auto")
    return parser.parse_args(argv)


def main(args):
    path = checkpoint.find(args.checkpoint)
    if args.checkpoint is None:
        print(f"evaluate.py: using {path}", file=sys.stderr)
    model, info = checkpoint.load_model(path)
    device = engine.choose_device(args.device)
    loader = make_loader(MTLDataset(args.data, args.split), args.batch_size)
    warn_of_known_images(loader.dataset, info["trained_on"])
    metrics, _ = engine.evaluate(engine.to_device(model, device), loader)
    print(json.dumps({"experiment": info["experiment"], "seed": info["seed"], **metrics, "n_images": len(loader.dataset),
                      "parameters": count_parameters(model), **engine.describe_data(loader.dataset),
                      "device": device.type, "precision": "fp32"}))


def warn_of_known_images(dataset, trained_on):
    """Say how many images of a split a network was trained on: on them it looks better than it is."""
    known = 0 if trained_on is None else dataset.count_among(trained_on)
    if known:
        cli.warn(f"the network was trained on {known} of the {len(dataset)} images of {dataset.data / dataset.split}, so "
                 "its numbers there say little about other images")


if __name__ == "__main__":
    cli.run(main, parse_args())
