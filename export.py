"""Take a network away: a copy in half precision to keep or to share, or an ONNX file for programs
without PyTorch.

    python export.py runs/mtl/seed0/best.pt mtl_model.pt python export.py runs/mtl/seed0/best.pt
    pets.onnx                    any batch, height and width (docs/export.md) python export.py
    --tasks seg runs/mtl/seed0/best.pt segment.onnx     some of its tasks alone python export.py
    a/best.pt b/best.pt mtl_model.pt                    of the mean of their weights

An ONNX file needs `pip install -r requirements-onnx.txt`; it is written once onnxruntime has given
the outputs of PyTorch. A mean is worth something only of networks that went on from the same one
(--init): others lie in different valleys of the loss ("Model soups", Wortsman et al. 2022). Its
metrics are unknown until evaluate.py measures them.
"""

from pathlib import Path

import cli
from cli import InputError

ENDINGS = ".pt", ".onnx"


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="a run's best.pt, or several, and the file to write",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=[],
        metavar="TASK",
        help="keep these alone; default: all of the network's",
    )
    args = parser.parse_args(argv)
    # Files may follow the tasks, and end as no task does.
    args.files += [Path(word) for word in args.tasks if word.endswith(ENDINGS)]
    args.tasks = [word for word in args.tasks if not word.endswith(ENDINGS)]
    if len(args.files) < 2:
        parser.error("name a network and the file to write")
    *args.sources, args.target = args.files
    return args


def main(args):
    refuse_target(args.target)

    import torch  # here, as it takes a while to import, and --help does without

    from inference import onnx
    from training import checkpoint

    if args.target.suffix == ".onnx":
        onnx.require()
    weights, info = checkpoint.mean(args.sources)
    model = checkpoint.make_model(weights, info)
    if args.tasks:
        model, info = checkpoint.subset(model, info, args.tasks)
    if args.target.suffix == ".onnx":
        onnx.write(model, info, args.target)
    else:
        content = {"model": checkpoint.cast(model.state_dict(), torch.float16), **info}
        checkpoint.save({key: content[key] for key in checkpoint.MODEL_KEYS}, args.target)
    dice = info["metrics"].get("dice")
    print(
        f"{args.target}: {args.target.stat().st_size / 1e6:.1f} MB, {info['experiment']} seed {info['seed']}: "
        f"{', '.join(info['tasks'])}"
        + (f"; validation Dice {dice:.4f}" if isinstance(dice, float) else "")
    )


def refuse_target(target):
    if target.is_dir():
        raise InputError(
            f"{target} is a folder; name the file to write last, such as {target / 'mtl_model.pt'}"
        )
    if target.suffix not in ENDINGS:
        raise InputError(
            f"{target} ends with neither .pt nor .onnx; name the file to write last, such as {target.with_suffix('.pt')}"
        )
    if target.with_name("config.json").exists():
        raise InputError(
            f"{target} lies in a run folder, whose files are the run's own; name the file to write last"
        )


if __name__ == "__main__":
    cli.run(main, parse_args())
