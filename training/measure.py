"""Measures a checkpoint on a split of prepared data: what evaluate.py does."""

import json
import sys

from cli import InputError
from dataloader_mtl import MTLDataset, make_loader
from files import write_json
from models import count_parameters
from training import calibrate as calibration
from training import checkpoint, checks, leakage
from training import evaluate as evaluation
from training.devices import choose_device, to_device
from training.run_folder import write_per_image


def measure(args):
    """Measure a checkpoint; args: the options of evaluate.py. Prints a JSON object."""
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
    if args.unseen and seen.all():
        where = dataset.data / dataset.split
        raise InputError(f"{path} was trained on all images of {where}; leave --unseen out")
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
        results["calibration"] = write_calibrated(args, network, loader)
    if args.out:
        write_per_image(args.out.with_name(args.out.name + "_per_image.csv"), names, measured)
        write_json(args.out.with_name(args.out.name + ".json"), results)
    print(json.dumps(results))


def write_calibrated(args, network, loader):
    """Write the checkpoint with the temperatures that fit the split; returns them."""
    temperatures = calibration.calibrate(network, loader)
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
