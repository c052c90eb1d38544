"""The figures of a run: curves.png, mask.png."""

from training.callbacks import Callback


def draw_validation(trainer, path):
    """Some validation images with targets and predictions."""
    from inference import view

    view.draw_masks(trainer.kept, trainer.data["val"], path)


class Figures(Callback):
    """Draws what is missing of a run's figures when it ends."""

    figures = ("curves.png", "mask.png")

    def on_end(self, trainer):
        from inference import view  # matplotlib, which nothing else of training needs

        history, model = trainer.state["history"], trainer.model
        trainer.folder.draw("curves.png", view.draw_curves, history, model.task)
        trainer.folder.draw("mask.png", view.draw_masks, model, trainer.data["test"])
