"""Take a network away: a copy in half precision, or an ONNX file for programs without PyTorch.

    python export.py runs/mtl/seed0/best.pt mtl_model.pt
    python export.py runs/mtl/seed0/best.pt pets.onnx               photographs of any size
    python export.py --half runs/mtl/seed0/best.pt pets.onnx        its weights in half precision
    python export.py --tasks seg runs/mtl/seed0/best.pt segment.onnx
    python export.py a/best.pt b/best.pt mtl_model.pt               mean of their weights

An ONNX file needs `pip install -r requirements-onnx.txt`; it is written once onnxruntime has given
the outputs of PyTorch. A mean helps for networks that went on from the same one (--init); others
lie in different valleys of the loss ("Model soups", Wortsman et al. 2022). Its metrics are unknown
until evaluate.py measures them.
"""

from pathlib import Path

import cli
from cli import InputError

ENDINGS = ".pt", ".onnx"


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("files", type=Path, nargs="*", metavar="FILE", help="best.pt, or several; then the target")
    add("--tasks", nargs="+", default=[], metavar="TASK", help="tasks to keep; default: all")
    add("--half", action="store_true", help="half precision in an ONNX file; a .pt always has it")
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

    import torch  # here, because --help does without

    from inference import onnx
    from training import checkpoint, leakage

    is_onnx = args.target.suffix == ".onnx"
    if is_onnx:
        onnx.require()
    weights, info = checkpoint.mean(args.sources, leakage.join)
    model = checkpoint.make_model(weights, info)
    if args.tasks:
        model, info = checkpoint.subset(model, info, args.tasks)
    if is_onnx:
        onnx.write(model, info, args.target, args.half)
    else:
        content = {"model": checkpoint.cast(model.state_dict(), torch.float16), **info}
        checkpoint.save({key: content[key] for key in checkpoint.MODEL_KEYS}, args.target)
    dice = info["metrics"].get("dice")
    megabytes = args.target.stat().st_size / 1e6
    notes = [f"{info['experiment']} seed {info['seed']}: {', '.join(info['tasks'])}"]
    if isinstance(dice, float):
        notes.append(f"validation Dice {dice:.4f}")
    print(f"{args.target}: {megabytes:.1f} MB, {'; '.join(notes)}")


def refuse_target(target):
    if target.is_dir():
        reason = "is a folder"
    elif target.suffix not in ENDINGS:
        reason = "ends with neither .pt nor .onnx"
    elif target.with_name("config.json").exists():
        reason = "lies in a run folder, whose files are the run's own"
    else:
        return
    raise InputError(f"{target} {reason}; name the file to write last, such as pets.onnx")


if __name__ == "__main__":
    cli.run(main, parse_args())
