"""--tensorboard: a run's log and pictures of validation images for TensorBoard, in its folder.

    pip install -r requirements-tensorboard.txt
    tensorboard --logdir runs

Steps are epochs. An epoch is written before its checkpoint: should the run be stopped between the
two, the epoch is repeated, and TensorBoard is told to forget what it had of it. A run that began
without --tensorboard gets its earlier epochs, too.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import cli
from cli import InputError
from training.callbacks import Callback

# The group of a column of log.csv, by its beginning; the others are under "run".
GROUPS = {
    "train_loss_": "losses",
    "loss": "losses",
    "val_loss_": "validation losses",
    "val_": "validation",
    "weight_": "weights",
    "conflict_": "conflicts, cosine",
    "lengths_": "conflicts, lengths",
    "stitch_": "stitch",
}


class TensorBoard(Callback):
    """Writes each epoch's row of the log and a picture.

    draw(trainer, path) draws the picture. Raises cli.InputError where a package is missing.
    """

    def __init__(self, draw):
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise InputError(
                f"--tensorboard needs a package that is not installed ({error}); install it with "
                "'pip install -r requirements-tensorboard.txt', or leave --tensorboard out"
            ) from None
        self.draw, self.writer = draw, None

    def on_epoch(self, trainer, row):
        if self.writer is None:
            self._open(trainer, row["epoch"])
        self._write(row)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "picture.png"
                self.draw(trainer, path)
                image = np.asarray(Image.open(path).convert("RGB"))
            self.writer.add_image("validation images", image, row["epoch"], dataformats="HWC")
        except Exception as error:  # whatever it is, the records are there
            cli.warn(f"no picture of epoch {row['epoch']} for TensorBoard ({error!r})")
        self.writer.flush()

    def on_end(self, trainer):
        if self.writer is not None:
            self.writer.close()

    def _open(self, trainer, epoch):
        """Begin with an epoch; in a new folder write the earlier ones, too."""
        from torch.utils.tensorboard import SummaryWriter

        folder = trainer.folder.path / "tensorboard"
        goes_on = folder.exists()
        self.writer = SummaryWriter(str(folder), purge_step=epoch if goes_on else None)
        for row in trainer.history:
            if not goes_on and row["epoch"] < epoch:
                self._write(row)

    def _write(self, row):
        for key, value in row.items():
            if key != "epoch" and value is not None:
                self.writer.add_scalar(f"{group_of(key)}/{key}", value, row["epoch"])


def group_of(column):
    """The group of a column of the log."""
    for beginning, group in GROUPS.items():
        if column.startswith(beginning):
            return group
    return "run"
