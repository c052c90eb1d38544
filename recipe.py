"""What the published experiments are built of, so that each script imports it in one line."""

from models import MTLNet
from tasks.bbox import Bbox
from tasks.cls import Cls
from tasks.seg import Seg
from training.trainer import Trainer
from utils import EqualWeightedLoss, UncertaintyWeightedLoss, WeightedLoss

__all__ = [
    "Bbox",
    "Cls",
    "EqualWeightedLoss",
    "MTLNet",
    "Seg",
    "Trainer",
    "UncertaintyWeightedLoss",
    "WeightedLoss",
]
