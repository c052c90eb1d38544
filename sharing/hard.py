"""Hard parameter sharing: one encoder, whose feature maps all tasks get (models.HardSharing)."""

from sharing import Sharing


class Hard(Sharing):
    """As the base class."""
