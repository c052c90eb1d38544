"""Save, load and verify checkpoints; as a script, make a half-precision copy to keep or to share.

    python checkpoint.py runs/mtl/seed0/best.pt mtl_model.pt

A checkpoint of a network holds: model (its weights), tasks, width, size (side of the images in pixels), metrics (on the
validation split), experiment, seed, split_hash, border.
"""

import os
import pickle
from pathlib import Path

import torch

import cli
from cli import InputError
from models import MTLNet

DEFAULT = Path("mtl_model.pt")
MODEL_KEYS = ("model", "tasks", "width", "size", "metrics", "experiment", "seed", "split_hash", "border")


def save(content, path):
    """Write a dict of plain values and tensors: beside the file first, flushed to the disk, then put in its place."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path, keys=MODEL_KEYS):
    """Read a checkpoint onto the CPU and check that it has `keys`. Nothing in it is executed (weights_only)."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}; train one with 'python train_mtl.py' or name another") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
        raise InputError(f"{path} is no checkpoint of this project, or damaged; train again or name another") from None
    missing = set(keys) - set(content) if isinstance(content, dict) else set(keys)
    if missing:
        raise InputError(f"{path} is no checkpoint of this project (it lacks {', '.join(sorted(missing))}); name another")
    return content


def find(path=None, runs="runs"):
    """The checkpoint to use where none is named: mtl_model.pt, else the newest best.pt of an mtl run, which is printed."""
    if path is not None:
        return Path(path)
    if DEFAULT.exists():
        return DEFAULT
    found = sorted(Path(runs).glob("mtl/seed*/best.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise InputError(f"there is no {DEFAULT} here and no mtl run under {runs}; run 'python train_mtl.py' first or name "
                         "a network with --checkpoint")
    return found[-1]


def load_model(path):
    """The network of a checkpoint, in evaluation mode on the CPU, and the checkpoint's other values as a dict."""
    content = load(path)
    weights = content.pop("model")
    try:
        model = MTLNet(content["tasks"], width=content["width"])
        model.load_state_dict(cast(weights, torch.float32))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path} does not fit the network that it names ({reason}); it is of another version or damaged, "
                         "so name another") from None
    return model.eval(), content


def cast(weights, dtype):
    """A state dict with its floating-point tensors in another type; counters stay as they are."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("source", type=Path, help="a run's best.pt")
    parser.add_argument("target", type=Path, help="the file to write")
    return parser.parse_args(argv)


def main(args):
    load_model(args.source)  # refuses what could not be used later
    content = load(args.source)
    content["model"] = cast(content["model"], torch.float16)
    save({key: content[key] for key in MODEL_KEYS}, args.target)
    print(f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, {content['experiment']} seed {content['seed']}, "
          f"validation Dice {content['metrics']['dice']:.4f}")


if __name__ == "__main__":
    cli.run(main, parse_args())
