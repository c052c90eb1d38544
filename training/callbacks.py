"""What a callback of the trainer may do: the base class of training/conflicts.py and others."""


class Callback:
    """Every method has a default that does nothing. rank 0 alone gets `on_epoch` and `on_end`."""

    def on_losses(self, trainer, step, losses):
        """Before the losses of a step, {task: scalar}, go backward. step counts from 0 per
        epoch."""

    def columns(self):
        """{column: number} for the row of the epoch that has just ended, in every process."""
        return {}

    def on_epoch(self, trainer, row):
        """After an epoch; row: its row of log.csv as a dict."""

    def on_end(self, trainer):
        """After the test."""
