"""Save, load and verify checkpoints.

A checkpoint of a network holds: model (its weights), tasks, width, sharing and encoder (names), beside (tasks that the network was
trained with and whose heads were left out), size (side of the images in pixels), metrics (on the validation split), experiment,
seed, split_hash, border, trained_on and trained_on_looks (known_images.remember of the images that it was trained on; None in one
that an earlier version wrote, for trained_on with a warning), settings (what tasks learned of the training split before the network
was built), calibration (of tasks with classes: training/calibration.py).

The file is what torch.save writes, so torch.load reads it, with a SHA-256 of all that comes before in the comment that a zip
archive may end with: no byte of it can change unnoticed.
"""

import functools
import hashlib
import io
import math
import os
import warnings
import zipfile
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

import cli
import registry
from cli import InputError
from data import contract
from models import MTLNet, digest
from training import known_images

DEFAULT = Path("mtl_model.pt")
BESIDE = Path(__file__).resolve().parents[1] / DEFAULT  # the one that comes along
MAX_WIDTH = 256
MODEL_KEYS = {
    "model": dict,
    "tasks": (list, tuple),
    "width": int,
    "sharing": str,
    "encoder": str,
    "beside": (list, tuple),
    "size": int,
    "metrics": dict,
    "experiment": str,
    "seed": int,
    "split_hash": str,
    "border": str,
    "trained_on": (torch.Tensor, type(None)),
    "trained_on_looks": (torch.Tensor, type(None)),
    "settings": dict,
    "calibration": dict,
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SEAL_MARK = b"sha256 "
SEAL_BYTES = len(SEAL_MARK) + 64


def save(content, path, previous=None):
    """Write a dict of plain values and tensors; with `previous`, what was there before is kept under that path."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = bytearray(buffer.getbuffer())
    data[-2:] = SEAL_BYTES.to_bytes(
        2, "little"
    )  # the length of the comment is the last field of a zip archive
    replace(data + seal(data), path, previous)


def seal(data):
    """What the file of these bytes ends with."""
    return SEAL_MARK + hashlib.sha256(data).hexdigest().encode()


def replace(data, path, previous=None):
    """Write a file's bytes: beside it first, flushed to the disk, then put in its place.

    At every moment the old file or the new one is there, under `path` or, for an instant, under `previous`.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a write names no file
            error.filename = str(path)
        raise


def flush_folder(folder):
    """Make a new name in a folder survive a power failure, where the system lets folders be opened."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load(path, keys=MODEL_KEYS):
    """Read a checkpoint onto the CPU; check its digest and that it has `keys`, a dict of names and types.

    Nothing in it is executed (weights_only), and it cannot ask for more memory than its file has bytes.
    """
    damaged = InputError(
        f"{path} is no checkpoint of this project, or damaged; train again or name another"
    )
    try:
        if Path(path).exists() and not Path(path).is_file():  # a device may have no end
            raise damaged
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there is no checkpoint {path}; train one with 'python train_mtl.py' or name another"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name another checkpoint"
        ) from None
    is_sealed = data[-SEAL_BYTES:].startswith(SEAL_MARK)
    if is_sealed and data[-SEAL_BYTES:] != seal(data[:-SEAL_BYTES]):
        raise damaged
    try:
        if sum(entry.file_size for entry in zipfile.ZipFile(io.BytesIO(data)).infolist()) > len(
            data
        ):
            raise damaged  # torch.save does not compress, so this would unpack to no end
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of kinds of tensors that are refused later
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # hostile bytes make zipfile and the unpickler raise nearly anything
        raise damaged from None
    if keys is MODEL_KEYS and isinstance(content, dict) and isinstance(content.get("best"), dict):
        content = last_epoch(content)
    if isinstance(content, dict):
        if "trained_on" in content and not is_sealed:  # written with a digest, which is gone
            raise damaged
        # What earlier versions did not write, or called otherwise.
        older = {
            "trained_on": None,
            "trained_on_looks": None,
            "settings": {},
            "best_value": content.get("best_dice"),
            "sharing": "hard", "encoder": "unet",
            "beside": [],
            "calibration": {},
        }
        content = {key: value for key, value in older.items() if key in keys} | content
    wrong = [
        key
        for key in keys
        if not isinstance(content, dict) or not isinstance(content.get(key, damaged), keys[key])
    ]
    if wrong:
        raise InputError(
            f"{path} is no checkpoint of this project (it lacks {', '.join(sorted(wrong))}); name another"
        )
    if content["trained_on"] is None:
        cli.warn(
            f"{path} does not say which images it was trained on"
            + (
                ""
                if is_sealed
                else ", and damage to it cannot be noticed: it is of an earlier version"
            )
        )
    return content


def last_epoch(content):
    """Of the content of a last.pt what a best.pt would have, for the last epoch's weights, or their average where one was kept."""
    average = content.get("average")
    kept = (
        {
            name.removeprefix("module."): value
            for name, value in average.items()
            if str(name).startswith("module.")
        }
        if isinstance(average, dict)
        else content.get("model")
    )
    return content["best"] | {"model": kept, "metrics": {}, "calibration": {}}


def find(path=None, runs="runs"):
    """The checkpoint to use where none is named, which is printed: mtl_model.pt of the working directory, else the newest
    best.pt of an mtl run, else the mtl_model.pt that lies beside the scripts."""
    if path is not None:
        return Path(path)
    if DEFAULT.exists():
        return DEFAULT
    found = sorted(Path(runs).glob("mtl/seed*/best.pt"), key=lambda p: p.stat().st_mtime)
    if found:
        return found[-1]
    if BESIDE.exists():
        return BESIDE
    raise InputError(
        f"there is no {DEFAULT} here or in {BESIDE.parent} and no mtl run under {runs}; run 'python train_mtl.py' "
        "first or name a network with --checkpoint"
    )


def load_model(path):
    """The network of a checkpoint, in evaluation mode on the CPU, and the checkpoint's other values as a dict."""
    content = load(path)
    weights = content.pop("model")
    reason = misfit(weights, content, Path(path).stat().st_size)
    if reason:
        raise InputError(
            f"{path} does not fit the network that it names ({reason}); it is of another version or damaged, "
            "so name another"
        )
    return make_model(weights, content), content


def make_model(weights, content):
    """The network of a checkpoint's weights and other values, in evaluation mode."""
    model = make_network(make_tasks(content), content)
    model.load_state_dict(cast(weights, torch.float32))
    return model.eval()


def make_network(tasks, content):
    """The network that a checkpoint's values name, of some tasks, with random weights."""
    sharing = registry.find("sharing", content["sharing"])
    encoder = registry.find("encoders", content["encoder"])
    return MTLNet(tasks, content["width"], 0, sharing, encoder, content["beside"])


def make_tasks(content):
    """The tasks that a checkpoint's values name, as they were when it was written."""
    tasks = {task.name: task for task in registry.find_tasks(content["tasks"])}
    for name, task in tasks.items():
        task.settings = content["settings"].get(name, {})
    set_temperatures(tasks, content)
    return tasks.values()


def set_temperatures(tasks, content):
    """Let tasks, {name: Task}, answer as a checkpoint's values say."""
    for name, task in tasks.items():
        task.temperature = content["calibration"].get(name, {}).get("temperature", 1.0)


def load_parts(path, model):
    """Copy a checkpoint's weights into a model, in every part that both have.

    Returns (names of these parts, the checkpoint's other values, SHA-256 of its weights in hexadecimal).
    """
    source, info = load_model(path)
    for what, its, ours in (
        ("width", source.width, model.width),
        ("sharing", source.sharing.name, model.sharing.name),
        ("encoder", source.backbone.name, model.backbone.name),
    ):
        if its != ours:
            raise InputError(
                f"{path} is of {what} {its} and the network of {what} {ours}; use --{what} {its}"
            )
    parts = [
        name
        for name, _ in source.named_children()
        if hasattr(model, name)
        and (name not in source.task or source.task[name].settings == model.task[name].settings)
    ]
    wanted, theirs = model.encoder.state_dict(), source.encoder.state_dict()
    if any(
        name not in theirs or theirs[name].shape != value.shape for name, value in wanted.items()
    ):
        raise InputError(
            f"{path} is of the tasks {', '.join(source.tasks)}, and under the sharing {model.sharing.name} the "
            "encoder holds parts of each; use no other --tasks"
        )
    for name in parts:
        part = getattr(model, name)
        given = getattr(source, name).state_dict()
        part.load_state_dict({key: given[key] for key in part.state_dict()})
    return parts, info, digest(source.state_dict())


def misfit(weights, content, file_bytes):
    """Why a checkpoint's values are not those of a network of ours, or None; found before memory is taken for one."""
    if not 1 <= content["width"] <= MAX_WIDTH:
        return f"its width is {content['width']}"
    if not contract.MIN_SIZE <= content["size"] <= contract.MAX_SIZE:
        return f"its images' side is {content['size']}"
    for one in content["calibration"].values():
        temperature = one.get("temperature") if isinstance(one, dict) else None
        if not isinstance(temperature, float) or not 0 < temperature < math.inf:
            return f"its calibration holds {contract.shorten(repr(temperature))} as a temperature"
    try:
        # Not below: tensors of a file that is imported there would be of no use ever after.
        tasks, _ = make_tasks(content), registry.find("encoders", content["encoder"])
        if len(tasks) + len(content["beside"]) > len(
            weights
        ):  # each has some, and may have an encoder
            return "it names more tasks than weights"
        with torch.device("meta"), Unfilled():
            expected = make_network(tasks, content).state_dict()
    except (InputError, ValueError, TypeError, KeyError, AttributeError) as error:
        return contract.shorten(error)
    if weights.keys() != expected.keys():
        return f"its weights and the network differ in {min(map(str, weights.keys() ^ expected.keys()))}"
    for name, value in weights.items():
        if not is_plain(value) or value.shape != expected[name].shape:
            return f"{name} should have the shape {tuple(expected[name].shape)}"
        if value.dtype not in (FLOATS if expected[name].is_floating_point() else (torch.int64,)):
            return f"{name} is of the type {value.dtype}"
    values = list(weights.values())
    for key, dtype, row in (
        ("trained_on", torch.int64, ()),
        ("trained_on_looks", torch.uint8, (32,)),
    ):
        known = content[key]
        if known is not None and not (
            is_plain(known) and known.dtype == dtype and known.ndim and known.shape[1:] == row
        ):
            return f"its {key} holds no image hashes"
        values += [] if known is None else [known]
    # A view can show the same few bytes as a tensor of any size.
    if sum(value.nbytes for value in values) > file_bytes:
        return "it names more weights than its file has bytes"
    return None


class Unfilled(TorchFunctionMode):
    """Leaves out random numbers where there are no values: drawing them imports torch._dynamo, which takes as long as PyTorch."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.Tensor.normal_, torch.nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def is_plain(value):
    """Whether a value is a tensor with its elements in this machine's memory."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
    )


def cast(weights, dtype):
    """A state dict with its floating-point tensors in another type; counters stay as they are. What batch normalisation counted
    is float32 in any case: a variance can be more than half precision holds, and then its channel would be silent."""
    return {
        name: value.to(torch.float32 if is_counted(name) else dtype)
        if value.is_floating_point()
        else value
        for name, value in weights.items()
    }


def is_counted(name):
    """Whether a value of a state dict is a statistic of batch normalisation."""
    return name.endswith((".running_mean", ".running_var"))


def mean(paths):
    """The mean of some networks' weights and what a checkpoint says of it; counters are the first network's."""
    networks = [(model.state_dict(), info) for model, info in map(load_model, paths)]
    (weights, info), *others = networks
    for path, (_, other) in zip(paths[1:], others):
        for key in (
            "experiment",
            "tasks",
            "settings",
            "width",
            "sharing",
            "encoder",
            "beside",
            "size",
            "border",
            "split_hash",
        ):
            if other[key] != info[key]:
                raise InputError(
                    f"{paths[0]} and {path} differ in {key} ({info[key]} and {other[key]}), so a mean of their "
                    "weights is no network; name checkpoints of one experiment on the same data"
                )
    if others:
        weights = {
            name: torch.stack([each[name] for each, _ in networks]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in weights.items()
        }
        known = functools.reduce(known_images.both, [each for _, each in networks])
        info |= {"metrics": {}, "calibration": {}, **known}
    return weights, info


def subset(model, info, names):
    """(The network of some of a network's tasks alone, what a checkpoint says of it). Raises cli.InputError for a task that
    it does not have."""
    if unknown := [name for name in names if name not in model.tasks]:
        raise InputError(
            f"--tasks {' '.join(unknown)}: the network has none of that name; its tasks are {', '.join(model.tasks)}"
        )
    kept = [name for name in model.tasks if name in names]
    part = model.subset(kept)
    measured = {name: {f"loss_{name}", *task.metrics} for name, task in model.task.items()}
    lost = set().union(*measured.values()) - set().union(*(measured[name] for name in kept))
    of_kept = {
        key: {name: value for name, value in info[key].items() if name in kept}
        for key in ("settings", "calibration")
        if key in info
    }
    return part, info | of_kept | {
        "tasks": kept,
        "beside": list(part.beside),
        "metrics": {name: value for name, value in info["metrics"].items() if name not in lost},
    }
