"""The options of a run, as one frozen dataclass.

All that depends on what the options are is made from `Config`: the command line, config.json, the
run's name, the command that repeats it, what `--resume` refuses, which runs are comparable, and
the page of options in the docs. `from_legacy` reads the records of earlier versions.

A field's role says what it does to a run:

    result   changes the result; runs that differ in one are different experiments
    speed    changes how fast the result comes, and at most its last digits
    place    names files and folders
"""

import re
import sys
from argparse import SUPPRESS, ArgumentTypeError
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import cli
from data.hard_augment_names import canonical as canonical_augmentations

RESULT, SPEED, PLACE = "result", "speed", "place"
# A field of an earlier version's config.json -> its name now.
LEGACY_NAMES = {
    "average": "ema",
    "scenes": "hard_augment",
    "sides": "resize_schedule",
    "masks": "num_masks",
}
# What a config.json says of the network and its losses, beside the options of earlier versions.
COMPONENTS = ("experiment", "tasks", "weighting", "sharing", "encoder", "encoder_lr", "encoder_bn")
# A key of an earlier version's config.json -> its name now, below `run`.
LEGACY_FACTS = {
    "device": "device",
    "processes": "processes",
    "precision": "precision",
    "convolution": "convolution",
    "threads": "threads",
    "parameters": "parameters",
    "init": "init_sha256",
    "teacher": "teacher_sha256",
    "encoder_weights": "encoder_weights_sha256",
    "settings": "settings",
    "images": "images",
    "images_on": "images_on",
    "taught": "labelled",
    "split_hash": "split_hash",
    "border": "border",
    "size": "size",
    "versions": "versions",
    "commit": "commit",
    "processor": "processor",
}


# ------------------------------------------------------------------------- types of options


def hard_augment(text):
    """An argparse type: names of hard augmentations, as in small+empty or all:0.5."""
    try:
        return canonical_augmentations(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def schedule_pairs(text):
    """[(side in pixels, share of the epochs)] of a resize schedule. Raises ValueError."""
    pairs = []
    for part in text.split(","):
        side, share = part.split(":")
        pairs.append((int(side), float(share)))
    return pairs


def resize_schedule(text):
    """An argparse type: image sizes and the share of the epochs at which each ends:
    128:0.5,256:1."""
    message = f"{text!r} is not as 128:0.5,256:1 (multiples of 32 px, rising shares that end at 1)"
    try:
        pairs = schedule_pairs(text)
    except ValueError:
        raise ArgumentTypeError(message) from None
    sides = [side for side, _ in pairs]
    shares = [share for _, share in pairs]
    rises = shares == sorted(set(shares)) and shares[0] > 0 and shares[-1] == 1
    if not rises or min(sides) < 32 or any(side % 32 for side in sides[:-1]):
        raise ArgumentTypeError(message)
    return text


def experiment_name(text):
    """An argparse type: an experiment's name, which is also a folder's."""
    if not re.fullmatch(r"[\w+][\w.+-]{0,99}", text):
        raise ArgumentTypeError(f"{text[:60]!r} cannot name a folder; use letters, digits, _ + - .")
    return text


# ------------------------------------------------------------------------------- the fields


def option(default, role, help, **more):
    """One field of Config.

    more: type and choices as argparse has them; metavar; nargs; flag, where the option is not the
    field's name; old, the option's spelling in earlier versions; common, whether --help lists it;
    component, whether train.py alone has it; named, the part of a default name, as in "masks{}".
    """
    return field(default=default, metadata={"role": role, "help": help, **more})


@dataclass(frozen=True)
class Config:
    """The options of one training run; see the module's docstring."""

    experiment: str = option(
        None,
        PLACE,
        "name of the experiment; default: made from the options",
        type=experiment_name,
        flag="--name",
        metavar="NAME",
        component=True,
        common=True,
    )
    tasks: tuple = option(
        (),
        RESULT,
        "tasks of tasks/, e.g. seg bbox column:breed; the first one chooses the epoch",
        nargs="+",
        metavar="TASK",
        component=True,
        common=True,
    )
    weighting: str = option(
        "equal",
        RESULT,
        "loss weighting: equal, uncertainty, fixed weights such as 0.8-0.1-0.1, "
        "or one of weighting/, e.g. dwa or torchjd:UPGrad",
        component=True,
        common=True,
        named="{}",
    )
    sharing: str = option(
        "hard",
        RESULT,
        "parameter sharing: hard, soft, cross_stitch, mtan",
        component=True,
        common=True,
        named="{}",
    )
    encoder: str = option(
        "unet",
        RESULT,
        "backbone: unet, efficientnet_lite0, torchvision:NAME, timm:NAME",
        component=True,
        common=True,
        named="{}",
    )
    encoder_weights: str = option(
        "none",
        RESULT,
        "pretrained weights of the encoder: none, hub, package or a state dict's file",
        metavar="none|hub|package|FILE",
        component=True,
        common=True,
        named="{}",
    )
    encoder_lr: float = option(
        None,
        RESULT,
        "peak learning rate of the encoder (default: --lr)",
        type=cli.positive_float,
        component=True,
        named="encoder-lr{}",
    )
    encoder_bn: str = option(
        "train",
        RESULT,
        "keep: the encoder's batch normalisation keeps its pretrained statistics",
        choices=("train", "keep"),
        component=True,
        named="bn-{}",
    )
    data: Path = option(
        Path("datasets/data_new"), PLACE, "re-chunked data folder", type=Path, common=True
    )
    runs: Path = option(Path("runs"), PLACE, "parent of the run folders", type=Path, common=True)
    epochs: int = option(60, RESULT, "number of epochs", type=cli.integer(1, 10**6), common=True)
    batch_size: int = option(16, RESULT, "images a step", type=cli.integer(1, 4096), common=True)
    lr: float = option(2e-3, RESULT, "peak learning rate", type=cli.positive_float, common=True)
    seed: int = option(
        0, RESULT, "seed of weights, order and augmentation", type=cli.integer(0), common=True
    )
    width: int = option(
        48, RESULT, "channels of the U-Net's second stage", type=cli.integer(1, 256), common=True
    )
    num_masks: int = option(
        None,
        RESULT,
        "use only N training masks and all other labels",
        type=cli.integer(1),
        metavar="N",
        old="--masks",
        common=True,
        named="masks{}",
    )
    half_masked: bool = option(
        False,
        RESULT,
        "half of each batch keeps its masks, as with --num-masks, though all have one",
        named="half",
    )
    optimizer: str = option(
        "adamw",
        RESULT,
        "optimizer: adamw, or muon for short runs (try --lr 0.006)",
        choices=("adamw", "muon"),
        named="{}",
    )
    ema: float = option(
        None,
        RESULT,
        "EMA decay, e.g. 0.998; the EMA weights are validated and saved",
        type=cli.share,
        metavar="DECAY",
        old="--average",
    )
    augment: str = option(
        "full",
        RESULT,
        "augmentation: horizontal flips (flip), also random crops and colours (full)",
        choices=("none", "flip", "full"),
    )
    hard_augment: str = option(
        None,
        RESULT,
        "hard augmentations, e.g. small+empty, all, or all:0.5 for half as often",
        type=hard_augment,
        metavar="NAMES",
        old="--scenes",
        named="hard-{}",
    )
    resize_schedule: str = option(
        None,
        RESULT,
        "progressive resizing, e.g. 192:0.5,256:1: image size until this share of the "
        "epochs (default: half the size until 0.6, three quarters until 0.8)",
        type=resize_schedule,
        metavar="PX:SHARE,...",
        old="--sides",
    )
    precision: str = option(
        "auto",
        RESULT,
        "precision of training; auto takes the faster one",
        choices=("auto", "fp32", "bf16"),
        common=True,
    )
    init: Path = option(
        None,
        RESULT,
        "fine-tune: start from a checkpoint's weights in all parts that both have",
        type=Path,
        metavar="CHECKPOINT",
        common=True,
    )
    teacher: Path = option(
        None,
        RESULT,
        "distillation: teacher checkpoint; half of the loss of each task that can",
        type=Path,
        metavar="CHECKPOINT",
        named="teacher-{}",
    )
    limit: int = option(
        None,
        RESULT,
        "use the first N images of each split",
        type=cli.integer(1),
        metavar="N",
        common=True,
    )
    device: str = option(
        "auto", SPEED, "device", choices=("auto", "cpu", "cuda", "mps"), common=True
    )
    convolution: str = option(
        "auto",
        SPEED,
        "3x3 convolution on a CPU: direct or winograd (default: the faster one)",
        choices=("auto", "direct", "winograd"),
    )
    processes: int = option(
        1,
        SPEED,
        "data parallel: number of processes on a CPU",
        type=cli.integer(1, 1024),
        metavar="P",
    )
    threads: int = option(
        None,
        SPEED,
        "threads a process (default: cores / processes)",
        type=cli.integer(1, 1024),
        metavar="N",
        common=True,
    )
    workers: int = option(0, SPEED, "loader processes", type=cli.integer(0, 64), metavar="N")
    conflicts: int = option(
        None,
        SPEED,
        "log the cosine between the tasks' gradients on every K-th batch (default: 16)",
        type=cli.integer(1),
        nargs="?",
        const=16,
        metavar="K",
    )
    tensorboard: bool = option(False, SPEED, "also write the log for TensorBoard")
    resume: bool = option(False, PLACE, "go on with a run, or begin it", common=True)

    # ------------------------------------------------------------------------- command line

    @classmethod
    def parse(cls, doc, name=None, argv=None, extra=()):
        """The Config of a command line.

        doc    the script's docstring.
        name   the experiment's name where the script has one; without it there are options for
               tasks, weighting, sharing and encoder (train.py).
        extra  [(flags, argparse keywords)] of options of the script's own; then (Config, the
               namespace of these) is returned.
        """
        argv = sys.argv[1:] if argv is None else list(argv)
        parser = make_parser(doc, show_all="--help-all" in argv, components=name is None)
        parser.set_defaults(experiment=name)
        for flags, keywords in extra:
            parser.add_argument(*flags, **keywords)
        values = vars(parser.parse_args(argv))
        for old, new in LEGACY_NAMES.items():
            given = values.pop(f"old_{old}", None)
            if given is not None:
                flag = "--" + new.replace("_", "-")
                cli.warn(
                    f"--{old} is now called {flag}; the old spelling goes with the next version"
                )
                values[new] = given
        names = {one.name for one in fields(cls)}
        config = cls(**{key: value for key, value in values.items() if key in names})
        config = replace(config, tasks=tuple(config.tasks))
        rest = {key: value for key, value in values.items() if key not in names}
        return (config, rest) if extra else config

    def argv(self):
        """The command-line words that repeat this configuration, what is default left out."""
        words = []
        for one in fields(self):
            value = getattr(self, one.name)
            flag = flag_of(one)
            if value == one.default:
                continue
            if isinstance(value, bool):
                words.append(flag)
            elif one.metadata.get("nargs") == "+":
                words += [flag, *value]
            else:
                words += [flag, str(value)]
        return words

    # ------------------------------------------------------------------------------ records

    def to_json(self):
        """{field: plain value}, as config.json has it."""
        record = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Path):
                value = str(value)
            record[one.name] = list(value) if isinstance(value, tuple) else value
        return record

    @classmethod
    def from_json(cls, record):
        """The Config of a record in the present form; fields that it lacks have their defaults."""
        values = {}
        for one in fields(cls):
            value = record.get(one.name, one.default)
            if one.metadata.get("type") is Path and value is not None:
                value = Path(value)
            values[one.name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)

    def replace(self, **changes):
        return replace(self, **changes)

    def default_name(self):
        """The experiment's name by its options that are not default:
        seg_bbox_mtan_0.8-0.2_masks100."""
        parts = list(self.tasks)
        for one in fields(self):
            pattern, value = one.metadata.get("named"), getattr(self, one.name)
            if pattern and value != one.default:
                is_file = isinstance(value, Path) or one.name == "encoder_weights"
                parts.append(pattern.format(Path(value).stem if is_file else value))
        return "_".join(re.sub(r"[^\w.+]+", "-", part) for part in parts)[:100]


def diff(a, b, role=RESULT):
    """{field: (value in a, value in b)} of the fields of a role that differ between two records."""
    changed = {}
    for one in fields(Config):
        if one.metadata["role"] == role:
            values = a.get(one.name, one.default), b.get(one.name, one.default)
            if values[0] != values[1]:
                changed[one.name] = values
    return changed


def flag_of(one):
    """The option of a field."""
    return one.metadata.get("flag", "--" + one.name.replace("_", "-"))


def make_parser(doc, show_all, components):
    """An argparse parser of the fields; components: with those that train.py alone has."""
    parser = cli.Parser(doc)
    parser.add_argument("--help-all", action="help", help="show all options")
    for one in fields(Config):
        data = one.metadata
        if data.get("component") and not components:
            continue
        help = data["help"] if data.get("common") or show_all else SUPPRESS
        keywords = {"dest": one.name, "default": one.default, "help": help}
        if one.type is bool:
            parser.add_argument(flag_of(one), action="store_true", **keywords)
            continue
        for key in ("type", "choices", "metavar", "nargs", "const"):
            if key in data:
                keywords[key] = data[key]
        required = one.name == "tasks"
        parser.add_argument(flag_of(one), required=required, **keywords)
        if "old" in data:
            keywords |= {"dest": "old_" + data["old"].strip("-"), "default": None, "help": SUPPRESS}
            parser.add_argument(data["old"], **keywords)
    return parser


def options_page():
    """The page of options in docs, as a Markdown table."""
    lines = ["| option | default | changes | meaning |", "|---|---|---|---|"]
    for one in fields(Config):
        default = "" if one.default in (None, "", (), False) else f"`{one.default}`"
        help = one.metadata["help"].replace("|", "\\|")
        lines.append(f"| `{flag_of(one)}` | {default} | {one.metadata['role']} | {help} |")
    return "\n".join(lines) + "\n"


# -------------------------------------------------------------------------- earlier versions


def from_legacy(record):
    """A config.json of any version in the present form: Config's fields by name, and `run`.

    run   {device, precision, processes, threads, parameters, split_hash, ...}: found when the run
          began. A value that an earlier version did not record is None, or what it then was.
    """
    if "options" not in record:
        return record
    defaults = Config().to_json()
    for key, value in record["options"].items():
        key = LEGACY_NAMES.get(key, key)
        if key in defaults and value is not None:
            defaults[key] = value
    for key in (
        "experiment",
        "tasks",
        "weighting",
        "sharing",
        "encoder",
        "encoder_lr",
        "encoder_bn",
    ):
        defaults[key] = record.get(key, defaults[key])
    defaults["weighting"] = record.get("weighting")  # the first version did not record it
    defaults["encoder_weights"] = record.get("encoder_weights_from") or "none"
    if defaults["processes"] == "auto":
        defaults["processes"] = record.get("processes", 1)
    usual = {"processes": 1, "convolution": "direct", "settings": {}, "images_on": "cpu"}
    run = {new: record.get(old, usual.get(new)) for old, new in LEGACY_FACTS.items()}
    return {**defaults, "run": {**run, "label_digest": None}}
