"""The trained network through torch.hub, ready to call:

    network = torch.hub.load("path/of/the/clone", "pets", source="local")
    network = torch.hub.load("owner/repository", "pets")

Our modules have everyday names (models, utils, data). They are imported apart: modules of these
names of whoever loads the network stay theirs, and those that are imported later too. So keep the
network with torch.save(network.state_dict(), ...), not by pickle.
"""

import contextlib
import pathlib
import sys

dependencies = ["torch", "torchvision", "numpy", "h5py", "PIL"]


def pets(checkpoint=None):
    """The network in evaluation mode on the CPU, a torch.nn.Module.

    checkpoint: path of a network, such as a run's best.pt; default: mtl_model.pt (docs/network.md).

    network(image) returns {task: output} of images (B, 3, H, W), RGB, uint8 or float from 0 to 255
    (not 0 to 1), H and W from 32. Of mtl_model.pt:

        seg     (B, 1, H, W) logits, above 0 where there is a pet
        cls     (B, 2) logits of cat and dog
        bbox    (B, 4) the head's box, xmin ymin xmax ymax in [0, 1]
        border  (B, 3, H, W) logits of pet, background and the border between

    network.size is the side of images in training, 256: stretch photographs to (B, 3, size, size)
    and outputs back. network.tasks names the tasks. network.half() computes in half precision.
    """
    with _apart() as here:
        from training.checkpoint import DEFAULT, load_model

        network, info = load_model(checkpoint or here / DEFAULT)
    network.size = info["size"]
    return network


@contextlib.contextmanager
def _apart():
    """Modules are imported from this folder in the block, and neither in place of others of their
    names nor for good."""
    here = pathlib.Path(__file__).resolve().parent
    names = {path.stem for path in here.glob("*.py")} | {
        path.parent.name for path in here.glob("*/__init__.py")
    }

    def present():
        return {
            name: module
            for name, module in sys.modules.items()
            if name.partition(".")[0] in names - {"hubconf"}
        }

    theirs = present()
    for name in theirs:
        del sys.modules[name]
    sys.path.insert(0, str(here))
    try:
        yield here
    finally:
        sys.path.remove(str(here))
        for name in present():
            del sys.modules[name]
        sys.modules.update(theirs)
