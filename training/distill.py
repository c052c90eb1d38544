"""Fine-tuning and distillation: --init starts from a checkpoint, --teacher is imitated."""

import torch

from cli import InputError
from models import digest
from training import checkpoint, leakage
from training.devices import to_device
from training.precision import autocast

SHARE = 0.5  # of a task's loss that goes to the teacher's soft targets


def start_from(path, model, data, own):
    """Copy a checkpoint's weights into a model, in every part that both have.

    own: fingerprints of the new training images. Returns (the checkpoint's, SHA-256 of its
    weights). Refuses a network that was trained on images which choose or test the new one.
    """
    parts, info, sha256 = checkpoint.load_parts(path, model)
    leakage.refuse_leakage("--init", path, info, data, own)
    print(f"fine-tune: {', '.join(parts)} from {path}")
    return info, sha256


def sha256(path):
    """SHA-256 of a checkpoint's weights, as a run records it; None without a path."""
    return digest(checkpoint.load_model(path)[0].state_dict()) if path else None


class Teacher:
    """A trained network whose outputs are soft targets for some tasks of another.

    Half of such a task's loss is against them. An image without a label learns from that half
    alone. Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
    without their temperature.
    """

    def __init__(self, path, model, data, own):
        """own: fingerprints of the new training images; as `start_from`."""
        self.network, self.info = checkpoint.load_model(path)
        leakage.refuse_leakage("--teacher", path, self.info, data, own)
        self.network.requires_grad_(False)
        self.sha256 = digest(self.network.state_dict())
        self.names = []
        for name, task in model.task.items():
            has_soft_loss = type(task).soft_loss.__qualname__ != "Task.soft_loss"
            if has_soft_loss and name in self.network.task:
                self.names.append(name)
        if not self.names:
            raise InputError(
                f"--teacher {path} is of the tasks {', '.join(self.network.tasks)}, and none of "
                f"{', '.join(model.tasks)} can learn from it; seg could"
            )
        print(f"distillation: {', '.join(self.names)} from {path}")

    def to(self, device):
        to_device(self.network, device)

    @torch.no_grad()
    def soft_targets(self, image, precision):
        """{task: the teacher's outputs} for images (B, 3, H, W)."""
        with autocast(image.device, precision):
            outputs = self.network(image)
        return {name: outputs[name].float() for name in self.names}

    def join(self, losses, outputs, soft_targets, scale):
        """The losses with the soft ones in them.

        scale: what the sum of a soft loss over this process's images is multiplied with for the
        mean over the global batch (utils.WeightedLoss).
        """
        joined = dict(losses)
        for name in self.names:
            task = self.network.task[name]
            soft = task.soft_loss(outputs[name], soft_targets[name]).sum() * scale
            joined[name] = (1 - SHARE) * losses[name] + SHARE * soft
        return joined
