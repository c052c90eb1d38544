"""--tensorboard: a run's log, and pictures of its first validation images, in its folder for
TensorBoard to show while it trains.

    pip install -r requirements-tensorboard.txt
    tensorboard --logdir runs

Steps are epochs. What an epoch shows is written before its checkpoint: should the run be stopped
between the two, the epoch is repeated, and TensorBoard is told to forget what it had seen of it.
The steps of a run that had begun without are added.
"""

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import cli
from cli import InputError
from training import pictures

PICTURES = 4
# Where a column of log.csv is shown, by its beginning; what fits none is under "run".
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


def require():
    """Refuse to begin without what it takes."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--tensorboard needs a package that is not installed ({error}); install it with 'pip install -r "
            "requirements-tensorboard.txt', or leave --tensorboard out"
        ) from None


def open_view(folder, history, dataset):
    """The View of a run whose log holds some rows; dataset: its validation split."""
    view = View(folder, len(history), dataset)
    if not view.goes_on:
        for row in history:
            view.scalars(row)
    return view


class View:
    """What TensorBoard shows of a run, from the epoch after `done` on."""

    def __init__(self, folder, done, dataset):
        from torch.utils.tensorboard import SummaryWriter

        place, self.dataset = folder.path / "tensorboard", dataset
        self.goes_on = place.exists()
        self.writer = SummaryWriter(str(place), purge_step=done + 1 if self.goes_on else None)

    def show(self, row, model):
        """An epoch's row of the log, and what the network sees in the first images."""
        self.scalars(row)
        try:
            with tempfile.TemporaryDirectory() as place:
                path, was_training = Path(place) / "pictures.png", model.training
                pictures.draw_pictures(
                    pictures.pictures_of_dataset(model.eval(), self.dataset, PICTURES), path
                )
                model.train(was_training)
                image = np.asarray(Image.open(path).convert("RGB"))
                self.writer.add_image("validation images", image, row["epoch"], dataformats="HWC")
        except Exception as error:  # as in RunFolder.draw: whatever it is, the records are there
            cli.warn(
                f"the pictures of epoch {row['epoch']} could not be drawn for TensorBoard ({error!r}); nothing else is "
                "missing"
            )
        self.writer.flush()

    def close(self):
        self.writer.close()

    def scalars(self, row):
        for key, value in row.items():
            if key != "epoch" and value is not None:
                group = next(
                    (group for beginning, group in GROUPS.items() if key.startswith(beginning)),
                    "run",
                )
                self.writer.add_scalar(f"{group}/{key}", value, row["epoch"])
