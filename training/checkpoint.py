"""Save, load and verify checkpoints.

A network's checkpoint (best.pt) holds: model (its weights), tasks, width, sharing and encoder
(names), dropped (tasks that it was trained with and whose heads were left out), size (side of the
images in pixels), metrics (on the validation split), experiment, seed, split_hash, border,
trained_on and trained_on_looks (fingerprints of the images that it was trained on,
training/leakage.py), settings (what tasks learned of the training split), calibration (of tasks
with classes).

The file is what torch.save writes, so torch.load reads it. A SHA-256 of all that comes before
stands in the comment that a zip archive may end with: damage is noticed."""

import hashlib
import io
import math
import warnings
import zipfile
from pathlib import Path

import torch

import cli
import registry
from cli import InputError
from files import atomic_write
from legacy import from_legacy_checkpoint
from models import MTLNet, digest

DEFAULT = Path("mtl_model.pt")
SHIPPED = Path(__file__).resolve().parents[1] / DEFAULT
MAX_WIDTH, MAX_SIZE = 256, 4096
MODEL_KEYS = {
    "model": dict,
    "tasks": (list, tuple),
    "width": int,
    "sharing": str,
    "encoder": str,
    "dropped": (list, tuple),
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
# Two networks that differ in one of these have no mean.
ALIKE = ("experiment", "tasks", "settings", "width", "sharing", "encoder", "dropped", "size")
SEAL_MARK = b"sha256 "
SEAL_BYTES = len(SEAL_MARK) + 64


def save(content, path, previous=None):
    """Write a dict of plain values and tensors; previous: a path that gets the file before it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = bytearray(buffer.getbuffer())
    data[-2:] = SEAL_BYTES.to_bytes(2, "little")  # a zip archive ends with its comment's length
    atomic_write(path, data + seal(data), previous)


def seal(data):
    """What the file of these bytes ends with."""
    return SEAL_MARK + hashlib.sha256(data).hexdigest().encode()


def load(path, keys=MODEL_KEYS):
    """Read a checkpoint onto the CPU; check its digest and that it has `keys`, {name: type}.

    Nothing in it is executed (weights_only). A last.pt gives what a best.pt would have, for the
    last epoch's weights, or their EMA."""
    damaged = InputError(
        f"{path} is no checkpoint of this project, or damaged; train again or name another"
    )
    data = read(path)
    is_sealed = data[-SEAL_BYTES:].startswith(SEAL_MARK)
    if is_sealed and data[-SEAL_BYTES:] != seal(data[:-SEAL_BYTES]):
        raise damaged
    try:
        unpacked = sum(one.file_size for one in zipfile.ZipFile(io.BytesIO(data)).infolist())
        if unpacked > len(data):  # torch.save does not compress
            raise damaged
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # hostile bytes make zipfile and the unpickler raise nearly anything
        raise damaged from None
    if not isinstance(content, dict):
        raise damaged
    if "trained_on" in content and not is_sealed:  # written with a digest, which is gone
        raise damaged
    content = from_legacy_checkpoint(content)
    if keys is MODEL_KEYS and isinstance(content.get("best"), dict):
        content = last_epoch(content)
    wrong = [key for key in keys if not isinstance(content.get(key, damaged), keys[key])]
    if wrong:
        raise InputError(
            f"{path} is no checkpoint of this project (it lacks {', '.join(sorted(wrong))}); "
            "name another"
        )
    if content["trained_on"] is None:
        cli.warn(f"{path} does not say which images it was trained on: it is of an earlier version")
    return content


def read(path):
    """The bytes of a file."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a device may have no end
            raise InputError(f"{path} is no ordinary file; name a checkpoint")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there is no checkpoint {path}; train one with 'python train_mtl.py' or name another"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); name another checkpoint"
        ) from None


def last_epoch(content):
    """What a best.pt would hold, of the content of a last.pt: the last epoch's weights or EMA."""
    weights = content.get("model")
    if isinstance(content.get("ema"), dict):
        weights = {}
        for name, value in content["ema"].items():
            if str(name).startswith("module."):
                weights[name.removeprefix("module.")] = value
    best = from_legacy_checkpoint(content["best"])
    return best | {"model": weights, "metrics": {}, "calibration": {}}


def find(path=None, runs="runs"):
    """The checkpoint to use where none is named.

    mtl_model.pt of the working directory, else the newest best.pt of an mtl run, else the
    mtl_model.pt beside the scripts."""
    if path is not None:
        return Path(path)
    if DEFAULT.exists():
        return DEFAULT
    found = sorted(Path(runs).glob("mtl/seed*/best.pt"), key=lambda p: p.stat().st_mtime)
    if found:
        return found[-1]
    if SHIPPED.exists():
        return SHIPPED
    raise InputError(
        f"there is no {DEFAULT} here and no mtl run under {runs}; run 'python train_mtl.py' first "
        "or name a network with --checkpoint"
    )


def load_model(path):
    """The network of a checkpoint, in evaluation mode on the CPU, and its other values as a
    dict."""
    content = load(path)
    weights = content.pop("model")
    reason = misfit(weights, content)
    if reason is None:
        try:
            return make_model(weights, content), content
        except (InputError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error).strip().split("\n")[-1].strip()[:160]
    raise InputError(
        f"{path} does not fit the network that it names ({reason}); it is of another version or "
        "damaged, so name another"
    )


def misfit(weights, content):
    """Why no network can be made of a checkpoint's values, or None; found before memory is
    taken."""
    if not 1 <= content["width"] <= MAX_WIDTH:
        return f"its width is {content['width']}"
    if not 32 <= content["size"] <= MAX_SIZE:
        return f"its images' side is {content['size']}"
    if len(content["tasks"]) + len(content["dropped"]) > len(weights):
        return "it names more tasks than weights"
    for name, value in [*weights.items(), *fingerprints(content)]:
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
            return f"{name} is no plain tensor"
        if value.nbytes > value.untyped_storage().nbytes():
            return f"{name} has more values than the file has bytes"
    for name, value in weights.items():
        is_count = str(name).endswith("num_batches_tracked")
        if value.is_complex() or value.is_floating_point() == is_count:
            return f"{name} is of another type"
    for name, settings in content["settings"].items():
        if not isinstance(settings, dict):
            return f"the settings of {name} are none"
    for name, one in content["calibration"].items():
        temperature = one.get("temperature") if isinstance(one, dict) else None
        if not isinstance(temperature, float) or not 0 < temperature < math.inf:
            return f"the temperature of {name} is no positive number"
    return None


def fingerprints(content):
    """[(name, tensor)] of the images that a network was trained on, where they are known."""
    values = [(name, content[name]) for name in ("trained_on", "trained_on_looks")]
    return [(name, value) for name, value in values if value is not None]


def make_model(weights, content):
    """The network of a checkpoint's weights and other values, in evaluation mode."""
    tasks = registry.find_tasks(content["tasks"])
    for task in tasks:
        task.settings = content["settings"].get(task.name, {})
    set_temperatures(tasks, content["calibration"])
    sharing = registry.find("sharing", content["sharing"])
    encoder = registry.find("encoders", content["encoder"])
    model = MTLNet(tasks, content["width"], 0, sharing, encoder, content["dropped"])
    model.load_state_dict(cast(weights, torch.float32))
    return model.eval()


def set_temperatures(tasks, calibration):
    """Let tasks answer with a checkpoint's calibration."""
    for task in tasks:
        task.temperature = calibration.get(task.name, {}).get("temperature", 1.0)


def load_parts(path, model):
    """Copy a checkpoint's weights into a model, in every part that both have.

    Returns (names of these parts, the checkpoint's other values, SHA-256 of its weights).
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
    wanted, given = model.encoder.state_dict(), source.encoder.state_dict()
    for name, value in wanted.items():
        if name not in given or given[name].shape != value.shape:
            raise InputError(
                f"{path} is of the tasks {', '.join(source.tasks)}, and with {model.sharing.name} "
                "sharing the encoder holds parts of each; use the same --tasks"
            )
    parts = []
    for name, part in source.named_children():
        is_task = name in source.task
        if not hasattr(model, name):
            continue
        if is_task and source.task[name].settings != model.task[name].settings:
            continue
        own = getattr(model, name)
        given = part.state_dict()
        own.load_state_dict({key: given[key] for key in own.state_dict()})
        parts.append(name)
    return parts, info, digest(source.state_dict())


def cast(weights, dtype):
    """A state dict with its floating-point tensors in another type.

    Statistics of batch normalisation stay float32: a variance can be more than half precision
    holds."""
    found = {}
    for name, value in weights.items():
        is_statistic = name.endswith((".running_mean", ".running_var"))
        if value.is_floating_point():
            value = value.to(torch.float32 if is_statistic else dtype)
        found[name] = value
    return found


def mean(paths, join_fingerprints):
    """The mean of some networks' weights, and what a checkpoint says of it.

    join_fingerprints(a, b): training/leakage.py's, of two such dicts. Counters are the first one's.
    """
    networks = [load_model(path) for path in paths]
    (first, info), *others = networks
    for path, (_, other) in zip(paths[1:], others, strict=True):
        for key in (*ALIKE, "border", "split_hash"):
            if other[key] != info[key]:
                raise InputError(
                    f"{paths[0]} and {path} differ in {key} ({info[key]} and {other[key]}), so "
                    "their weights have no mean; name checkpoints of one experiment on the same "
                    "data"
                )
        info |= join_fingerprints(info, other)
    weights = first.state_dict()
    if others:
        states = [model.state_dict() for model, _ in networks]
        for name, value in weights.items():
            if value.is_floating_point():
                weights[name] = torch.stack([state[name] for state in states]).mean(0)
        info |= {"metrics": {}, "calibration": {}}
    return weights, info


def subset(model, info, names):
    """(The network of some of a network's tasks, what a checkpoint says of it)."""
    unknown = [name for name in names if name not in model.tasks]
    if unknown:
        raise InputError(
            f"--tasks {' '.join(unknown)}: the network has none of that name; its tasks are "
            f"{', '.join(model.tasks)}"
        )
    kept = [name for name in model.tasks if name in names]
    part = model.subset(kept)
    info = info | {"tasks": kept, "dropped": list(part.dropped)}
    for key in ("settings", "calibration"):
        info[key] = {name: value for name, value in info[key].items() if name in kept}
    lost = set()
    for name, task in model.task.items():
        if name not in kept:
            lost |= {f"loss_{name}", *task.metrics}
    for name in kept:
        lost -= {f"loss_{name}", *model.task[name].metrics}
    info["metrics"] = {key: value for key, value in info["metrics"].items() if key not in lost}
    return part, info
