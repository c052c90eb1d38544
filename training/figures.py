"""The figures of a run: curves.png, mask.png."""

from training.callbacks import Callback


def draw_validation(trainer, path):
    """Some validation images with targets and predictions."""
    from inference import view

    view.draw_masks(trainer.kept, trainer.data["val"], path)


class Figures(Callback):
    """Draws what is missing of a run's figures when it ends."""

    def on_end(self, trainer):
        from inference import view  # matplotlib, which nothing else of training needs

        folder = trainer.folder
        if not (folder.path / "curves.png").exists():
            history, tasks = trainer.state["history"], trainer.model.task
            folder.draw("curves.png", view.draw_curves, history, tasks)
        if not (folder.path / "mask.png").exists():
            folder.draw("mask.png", view.draw_masks, trainer.model, trainer.data["test"])
