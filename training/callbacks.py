"""What the training loop calls, so that it need not know what else is logged or drawn."""


class Callback:
    """The moments of a run; each method of a subclass has a default that does nothing.

    figures   names of the files that `on_end` draws into the run folder.
    """

    figures = ()

    def on_losses(self, trainer, step, losses):
        """In each step before backward; losses: dict of unweighted scalars, their graph intact."""

    def columns(self):
        """{column: value or None} for the log's row of the epoch that ends."""
        return {}

    def on_epoch(self, trainer, row):
        """After an epoch's validation, before its checkpoint; row: of the log. First process."""

    def on_end(self, trainer):
        """After the test. First process."""
