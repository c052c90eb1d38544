"""The options of a run, as one frozen dataclass.

All that depends on what the options are is made from `Config`: the command line, config.json, the
run's name, the command that repeats it, what `--resume` refuses, which runs are comparable, and
the page of options in the docs. legacy.py reads the records of
earlier versions.

A field's role says what it does to a run:

    result   changes the result; runs that differ in one are different experiments
    speed    changes how fast the result comes, and at most its last digits
    place    names files and folders
"""

import operator
import re
import sys
from argparse import SUPPRESS, ArgumentTypeError
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import cli
from data.hard_augment_names import canonical as canonical_augmentations

RESULT, SPEED, PLACE = "result", "speed", "place"
METAVARS = {int: "N", float: "X", Path: "PATH"}

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
    """One field of Config. Its type is the annotation's; more:

    least, most  bounds of a whole number; by default from 1.
    type, choices, metavar, nargs, const  as argparse has them.
    flag         the option, where it is not the field's name; old: its earlier spelling.
    common       whether --help lists it; all are in --help-all.
    component    whether train.py alone has it.
    named        its part of a default name, as in "masks{}".
    """
    return field(default=default, metadata={"role": role, "help": help, **more})


def component(default, help, **more):
    """A field of what is trained; train.py alone has it as an option."""
    return option(default, RESULT, help, component=True, **more)


@dataclass(frozen=True)
class Config:
    """The options of one training run; see the module's docstring."""

    # Components, which train.py alone has as options; elsewhere the script says them.
    experiment: str = option(
        None,
        PLACE,
        "experiment's name (default: made from the options)",
        type=experiment_name,
        flag="--name",
        component=True,
        common=True,
    )
    tasks: tuple = component(
        (), "tasks, e.g. seg bbox; the first chooses the checkpoint", common=True
    )
    weighting: str = component(
        "equal", "loss weighting: equal, uncertainty, 0.8-0.2, dwa, ...", common=True, named="{}"
    )
    sharing: str = component(
        "hard", "sharing: hard, soft, cross_stitch, mtan", common=True, named="{}"
    )
    encoder: str = component(
        "unet", "backbone: unet, efficientnet_lite0, timm:NAME, ...", common=True, named="{}"
    )
    encoder_weights: str = component(
        "none", "pretrained backbone: none, hub, package or a file", common=True, named="{}"
    )
    encoder_lr: float = component(
        None, "peak learning rate of the backbone (default: --lr)", named="encoder-lr{}"
    )
    encoder_bn: str = component(
        "train", "keep: frozen BN statistics", choices=("train", "keep"), named="bn-{}"
    )
    # What the result depends on.
    epochs: int = option(60, RESULT, "number of epochs", most=10**6, common=True)
    batch_size: int = option(16, RESULT, "images a step", most=4096, common=True)
    lr: float = option(2e-3, RESULT, "peak learning rate", common=True)
    seed: int = option(0, RESULT, "seed of weights, order, augmentation", least=0, common=True)
    width: int = option(48, RESULT, "channels of the U-Net's second stage", most=256, common=True)
    num_masks: int = option(
        None,
        RESULT,
        "use only N training masks, all other labels",
        old="--masks",
        common=True,
        named="masks{}",
    )
    half_masked: bool = option(
        False, RESULT, "half of each batch keeps its masks, as with --num-masks", named="half"
    )
    optimizer: str = option(
        "adamw",
        RESULT,
        "optimizer; muon for short runs (try --lr 0.006)",
        choices=("adamw", "muon"),
        named="{}",
    )
    ema: float = option(
        None,
        RESULT,
        "EMA decay, e.g. 0.998; the EMA weights are validated and saved",
        type=cli.share,
        old="--average",
    )
    augment: str = option(
        "full",
        RESULT,
        "augmentation: flips, or also crops and colours (full)",
        choices=("none", "flip", "full"),
    )
    hard_augment: str = option(
        None,
        RESULT,
        "hard augmentations, e.g. small+empty, all, all:0.5 (half as often)",
        type=hard_augment,
        old="--scenes",
        named="hard-{}",
    )
    resize_schedule: str = option(
        None,
        RESULT,
        "progressive resizing, e.g. 128:0.6,192:0.8,256:1: px until share of epochs",
        type=resize_schedule,
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
        None, RESULT, "fine-tune: checkpoint whose weights to start from", common=True
    )
    teacher: Path = option(
        None, RESULT, "distillation: teacher checkpoint; half of the seg loss", named="teacher-{}"
    )
    limit: int = option(None, RESULT, "use the first N images of each split", common=True)
    # How fast it comes.
    device: str = option(
        "auto", SPEED, "device", choices=("auto", "cpu", "cuda", "mps"), common=True
    )
    convolution: str = option(
        "auto",
        SPEED,
        "3x3 convolution on a CPU (auto: the faster one)",
        choices=("auto", "direct", "winograd"),
    )
    processes: int = option(1, SPEED, "data parallel: processes on a CPU", most=1024)
    threads: int = option(None, SPEED, "threads a process (default: cores / processes)", most=1024)
    workers: int = option(0, SPEED, "loader processes", least=0, most=64)
    conflicts: int = option(
        None,
        SPEED,
        "log the cosine of the tasks' gradients on every K-th batch (default: 16)",
        nargs="?",
        const=16,
    )
    tensorboard: bool = option(False, SPEED, "also write the log for TensorBoard")
    # Where it lies.
    data: Path = option(Path("datasets/data_new"), PLACE, "re-chunked data folder", common=True)
    runs: Path = option(Path("runs"), PLACE, "parent of the run folders", common=True)
    resume: bool = option(False, PLACE, "go on with a run, or begin it", common=True)

    def __post_init__(self):
        for one in fields(self):  # numbers of numpy, as custom scripts have them
            value = getattr(self, one.name)
            if one.type is int and value is not None:
                object.__setattr__(self, one.name, operator.index(value))

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
        for one in fields(cls):
            given = values.pop(f"old_{one.name}", None)
            if given is not None:
                cli.warn(
                    f"{one.metadata['old']} is now called {flag_of(one)}; the old spelling goes "
                    "with the next version"
                )
                values[one.name] = given
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
            elif one.type is tuple:
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
            if one.type is Path and value is not None:
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


def type_of(one):
    """What argparse makes of an option's text."""
    data = one.metadata
    if "type" in data:
        return data["type"]
    if one.type is int:
        return cli.integer(data.get("least", 1), data.get("most", 2**31 - 1))
    return {float: cli.positive_float, Path: Path}.get(one.type, str)


def make_parser(doc, show_all, components):
    """An argparse parser of the fields; components: with those that train.py alone has."""
    parser = cli.Parser(doc)
    parser.add_argument("--help-all", action="help", help="show all options")
    for one in fields(Config):
        data = one.metadata
        if data.get("component") and not components:
            continue
        keywords = {"dest": one.name, "default": one.default}
        keywords["help"] = data["help"] if data.get("common") or show_all else SUPPRESS
        if one.type is bool:
            parser.add_argument(flag_of(one), action="store_true", **keywords)
            continue
        keywords["type"] = type_of(one)
        if one.type is tuple:
            keywords |= {"nargs": "+", "required": True}
        for key in ("choices", "nargs", "const"):
            if key in data:
                keywords[key] = data[key]
        if "choices" not in data:
            keywords["metavar"] = METAVARS.get(one.type, "NAME")
        parser.add_argument(flag_of(one), **keywords)
        if "old" in data:
            keywords |= {"dest": f"old_{one.name}", "default": None, "help": SUPPRESS}
            parser.add_argument(data["old"], **keywords)
    return parser


def options_page():
    """The page of options in docs, as a Markdown table."""
    lines = ["| option | default | changes | meaning |", "|---|---|---|---|"]
    for one in fields(Config):
        is_empty = one.default is False or one.default in (None, ())
        default = "" if is_empty else f"`{one.default}`"
        help = one.metadata["help"].replace("|", "\\|")
        lines.append(f"| `{flag_of(one)}` | {default} | {one.metadata['role']} | {help} |")
    return "\n".join(lines) + "\n"
