"""What a person gets of a task's output: answers, drawings, words, cells, and what test-time
augmentation needs."""


class View:
    """The view half of a task. A file's class overrides what differs.

    classes           names of the classes that `answer` gives as (name, probability).
    columns           names of the cells that `cells` gives.
    panel             None to be drawn into the common panel, or the title of a panel of its own.
    needs_foreground  whether its answer describes the foreground: without one it has no answer,
                      and of several windows the one that shows the foreground best gives it.
    """

    classes = ()
    columns = ()
    panel = None
    needs_foreground = False

    # ------------------------------------------------------------ test-time augmentation

    def hflip(self, output):
        """The output of one image, from that of its horizontal flip."""
        return output.flip(-1) if output.ndim == 3 else output

    def unwindow(self, output, window):
        """One window's output in the whole picture's terms; maps keep their shape.

        window: (left, top, width, height) relative to the picture.
        """
        return output

    # ------------------------------------------------------------ foreground

    def foreground(self, output):
        """Where the foreground is, (H, W) bool, from one image's output; None if unknown."""

    def trimap(self, output):
        """(H, W) float: 1 foreground, 0 background, 1/2 an edge between; None if unknown."""

    def is_absent(self, value):
        """Whether a value of `answer` says that the picture shows no foreground at all."""
        return False

    def probability(self, output, height, width):
        """The probability of the foreground at each pixel, (H, W) float; None if unknown."""

    # ------------------------------------------------------------ answers

    def answer(self, output, height, width):
        """What a person gets of one image's output, for a picture of height x width pixels."""
        return output

    def truth(self, target, height, width):
        """The same of one image's target; None where it is unlabelled."""
        return self.answer(target, height, width) if self.labelled(target[None])[0] else None

    def draw(self, panel, value, is_target):
        """Draw a value into a panel: change panel.image (3, H, W) uint8, or append to
        panel.boxes."""

    def describe(self, value, height, width):
        """A value in a few words, or ""."""
        return ""

    def cells(self, value, height, width):
        """A value of `answer` as texts or numbers, one for each of `columns`."""
        return ()

    def exports(self, output, size):
        """{name: tensor} of one image's output for an ONNX graph; size: (width, height), a
        tensor."""
        return {}
