"""Head box: output (B, 4) normalised xyxy, x1 <= x2, y1 <= y2; target the same, or NaN."""

import torch

from models import BoxHead
from tasks import Metric, Task
from utils import blank


class Bbox(Task):
    needs = ("bboxes",)
    labels = "a head box"
    metrics = {"box_iou": Metric("box IoU", note="mean over images with a box")}
    columns = ("xmin", "ymin", "xmax", "ymax")
    needs_foreground = True

    def labelled(self, target):
        return ~target.isnan().any(dim=1)

    def head(self, channels):
        return BoxHead(channels[-1])

    def loss(self, output, target):
        """L1 (mean over the four coordinates) + 1 - GIoU.

        Source: Rezatofighi et al., "Generalized Intersection over Union", 2019; the sum with L1 as
        in DETR (Carion et al. 2020).
        """
        from torchvision import ops  # takes as long to import as PyTorch; only training needs it

        labelled = self.labelled(target)
        target = torch.where(labelled[:, None], target, output.detach())
        distance = (output - target).abs().mean(1)
        return blank(distance + ops.generalized_box_iou_loss(output, target), labelled)

    def measure(self, output, target):
        from torchvision import ops

        # The diagonal pairs each box with its own target; a target of NaN gives NaN.
        return {"box_iou": ops.box_iou(output.double(), target.double()).diagonal()}

    def hflip(self, output):
        x1, y1, x2, y2 = output.unbind()
        return torch.stack([1 - x2, y1, 1 - x1, y2])

    def unwindow(self, output, window):
        left, top, width, height = window
        scale = torch.tensor([width, height, width, height])
        return output * scale + torch.tensor([left, top, left, top])

    def draw(self, panel, value, is_target):
        panel.boxes.append(_pixels(value, *panel.image.shape[-2:]))

    def describe(self, value, height, width):
        return "head at {:.0f} {:.0f} {:.0f} {:.0f}".format(*_pixels(value, height, width).tolist())

    def exports(self, output, size):
        return {"box": output * size.repeat(2)}

    def cells(self, value, height, width):
        return [round(side, 1) for side in _pixels(value, height, width).tolist()]


def _pixels(box, height, width):
    return box * torch.tensor([width, height, width, height])
