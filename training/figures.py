"""The figures of a run: curves.png, mask.png."""

from training.callbacks import Callback


def draw_curves(trainer, path):
    """Losses and validation metrics over the epochs."""
    from inference import view  # matplotlib, which nothing else of training needs

    view.draw_curves(trainer.history, trainer.model.task, path)


def draw_masks(trainer, path):
    """Some test images with ground truth and predictions."""
    from inference import view

    view.draw_masks(trainer.model, trainer.data["test"], path)


def draw_validation(trainer, path):
    """Some validation images, as the kept network sees them."""
    from inference import view

    view.draw_masks(trainer.kept, trainer.data["val"], path)


class Figures(Callback):
    """Draws a run's figures when it ends."""

    figures = ("curves.png", "mask.png")

    def on_end(self, trainer):
        trainer.folder.draw("curves.png", draw_curves, trainer)
        trainer.folder.draw("mask.png", draw_masks, trainer)
