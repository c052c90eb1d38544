"""Measure any checkpoint on any prepared data, in fp32; one JSON object on standard output, nothing else there.

    python evaluate.py [--checkpoint mtl_model.pt] [--data datasets/data_new] [--split test] [--batch-size 16] [--resize]

A warning on standard error says how many images of the split the network was trained on, if any, or that the checkpoint does
not tell. The numbers do not depend on the batch size; what the split cannot measure is null.

A network measured at another image size than its own is another one, mostly a worse one: a warning names both sizes. With
--resize it looks at the images at its own size (bilinear, with antialias), and its logits, brought back to the data's size
(bilinear), are held against the masks as they are stored. "size" is the data's size, "network_size", where it is another,
that at which the network looked.
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

import cli
from dataloader_mtl import MTLDataset, make_loader
from models import count_parameters
from training import checkpoint, evaluation, known_images, targets
from training.devices import DEVICES, choose_device, to_device


class Resized(torch.nn.Module):
    """A network that looks at images of any size at its own.

    forward(image: (B, 3, H, W) uint8) returns the network's outputs for the images at size x size, those that are maps
    brought back to the scale of H x W.
    """

    def __init__(self, network, size):
        super().__init__()
        self.network, self.size = network, size

    def forward(self, image):
        outputs = self.network(transforms.resize(image, [self.size, self.size], antialias=True))
        return {name: self.scaled(output, image) if output.ndim == 4 else output for name, output in outputs.items()}

    def scaled(self, output, image):
        shape = [-(-side * output.shape[-1] // self.size) for side in image.shape[-2:]]
        return F.interpolate(output, size=shape, mode="bilinear", align_corners=False)


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: mtl_model.pt, else the newest mtl run's best.pt")
    parser.add_argument("--data", type=Path, default=Path("datasets/data_new"), help="the data folder")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test")
    parser.add_argument("--batch-size", type=cli.integer(1, 4096), default=16)
    parser.add_argument("--resize", action="store_true", help="look at images of another size at the network's own")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    return parser.parse_args(argv)


def main(args):
    path = checkpoint.find(args.checkpoint)
    if args.checkpoint is None:
        print(f"evaluate.py: using {path}", file=sys.stderr)
    model, info = checkpoint.load_model(path)
    device = choose_device(args.device)
    loader = make_loader(MTLDataset(args.data, args.split, tasks=model.task.values()), args.batch_size)
    resizes = args.resize and info["size"] != loader.dataset.size
    warn_of_other_size(loader.dataset, info, resizes)
    warn_of_known_images(loader.dataset, info)
    targets.warn_of_unmeasured(loader.dataset)
    parameters = count_parameters(model)
    network = Resized(model, info["size"]) if resizes else model
    metrics, _ = evaluation.evaluate(to_device(network, device), loader)
    print(json.dumps({"experiment": info["experiment"], "seed": info["seed"], **metrics, "n_images": len(loader.dataset),
                      "parameters": parameters, **evaluation.describe_data(loader.dataset),
                      **({"network_size": info["size"]} if resizes else {}), "device": device.type, "precision": "fp32"}))


def warn_of_other_size(dataset, info, resizes):
    """Say that images are of another size than those that a network was trained on, and what follows from it."""
    doubt = known_images.doubt(dataset, info)
    if info["size"] != dataset.size and (doubt or not resizes):
        way = "" if resizes else ", where it is mostly worse: --resize measures it at its own size"
        cli.warn(f"the network was trained on images of {info['size']} px, and those of {dataset.data / dataset.split} are "
                 f"of {dataset.size} px{way}{doubt}")


def warn_of_known_images(dataset, info):
    """Say how many images of a split a network was trained on: on them it looks better than it is."""
    known = 0 if info["trained_on"] is None else int(known_images.known_images(dataset, info).sum())
    if known:
        cli.warn(f"the network was trained on {known} of the {len(dataset)} images of {dataset.data / dataset.split}, so "
                 "its numbers there say little about other images")


if __name__ == "__main__":
    cli.run(main, parse_args())
