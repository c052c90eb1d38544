"""Starting: --help of every script and one photograph to its mask.png, against `import torch` in the same run.

    python benchmarks/bench_start.py [--rounds 5]

Each is a process of its own, on one thread; the files that it reads have been read before. The network's own time is a forward pass
in a process that has done one already. Photographs are one of the data set's size, 500 x 375 px, and a telephone's of 12 million
pixels, whose figure is 3,200 px wide. The first is to take less than twice `import torch` and the network's time together, --help
less than half a second where `import torch` takes a second or more. A minute.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import torch
from PIL import Image

import cli
from training import checkpoint

NETWORK = common.ROOT / checkpoint.DEFAULT
WIDTHS = 500, 4000


def parse_args(argv=None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--rounds", type=cli.integer(1, 1000), default=5)
    return parser.parse_args(argv)


def main(args):
    scripts = sorted(
        path.name
        for path in common.ROOT.glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    )
    with tempfile.TemporaryDirectory() as place:
        small, large = (draw(Path(place) / f"{width}.jpg", width) for width in WIDTHS)
        ways = {
            "import torch": process("-c", "import torch"),
            "import torchvision": process("-c", "import torchvision"),
            "photograph": look(small),
            "12 megapixels": look(large),
            **{f"{script} --help": process(script, "--help") for script in scripts},
        }
        seconds = common.interleave(ways, args.rounds)
    network = forward(args.rounds)
    torch_alone = seconds["import torch"]
    table = [
        [name, value, value / torch_alone]
        for name, value in [*seconds.items(), ("the network, one image", network)]
    ]
    helps = {
        name.split(".")[0]: value for name, value in seconds.items() if name.endswith("--help")
    }
    common.report(
        ["what", "seconds", "over import torch"],
        table,
        {
            "import_torch": torch_alone,
            "photograph": seconds["photograph"],
            "network": network,
            "ratio_photograph": (seconds["photograph"] - network) / torch_alone,
            "ratio_large": (seconds["12 megapixels"] - network) / torch_alone,
            "help": helps,
            "ratio_help": {name: value / torch_alone for name, value in helps.items()},
            "rounds": args.rounds,
        },
    )


def draw(path, width):
    """A photograph in the proportion of cameras, as JPEG: soft spots of all colours."""
    spots = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(spots).resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(
        path, quality=90
    )
    return path


def look(photograph):
    return process(
        "mtl_vis.py", "--checkpoint", NETWORK, "--out", photograph.with_suffix(".png"), photograph
    )


def process(*arguments):
    """A function that runs Python with some arguments to its end."""

    def run():
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=common.ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            sys.exit(f"{' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")

    return run


@torch.no_grad()
def forward(rounds):
    """Median seconds of a forward pass of one image on one thread."""
    torch.set_num_threads(1)
    model, info = checkpoint.load_model(NETWORK)
    image = torch.zeros(1, 3, info["size"], info["size"], dtype=torch.uint8)
    times = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        model(image)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


if __name__ == "__main__":
    cli.run(main, parse_args())
