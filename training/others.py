"""Other networks that a run makes use of: --init starts from one, --teacher is imitated."""

from dataclasses import dataclass

import torch

import cli
from cli import InputError
from models import digest
from training import checkpoint, known_images
from training.devices import to_device
from training.step import autocast

SHARE = 0.5  # of a task's loss that is to agree with a teacher


def start_from(path, model, data, own):
    """Copy a checkpoint's weights into a model, in every part that both have, encoder and tasks.

    own: what known_images remembers of the new training images. Returns (the same of the
    checkpoint's, SHA-256 of the weights). Refuses a network that was trained on images which are to
    choose or to test the new one.
    """
    parts, info, sha256 = checkpoint.load_parts(path, model)
    refuse_seen("--init", path, info, data, own)
    print(f"{', '.join(parts)} from {path}")
    return {key: info[key] for key in own}, sha256


def digests(args, model):
    """{"init", "teacher"}: SHA-256 of the weights of the networks that the options name, or None,
    as config.json has them."""
    return {
        "init": args.init and checkpoint.load_parts(args.init, model)[2],
        "teacher": args.teacher and digest(checkpoint.load_model(args.teacher)[0].state_dict()),
    }


def refuse_seen(option, path, info, data, own):
    """Refuse a network that has learned from what is to choose or to test another, or does not say
    from what; `own` as above."""
    if info["trained_on"] is None:
        raise InputError(
            f"{path} does not say which images it was trained on, so nothing could be measured fairly after it; "
            f"name another {option}"
        )
    if info["size"] != data["train"].size:
        cli.warn(
            f"{option} {path} was trained on images of {info['size']} px, and those of {data['train'].data} are of "
            f"{data['train'].size} px" + known_images.doubt(data["train"], info)
        )
    for split in ("val", "test"):
        # What looks like one of the new training images does so whatever the network starts from.
        seen = int(
            (
                known_images.known_images(data[split], info)
                & ~known_images.known_images(data[split], own)
            ).sum()
        )
        if seen:
            raise InputError(
                f"{option} {path} was trained on {seen} of the {len(data[split])} images of "
                f"{data[split].data / split}, so the run's numbers would say nothing about other images; split "
                f"the data as they were for it, or leave {option} out"
            )


# --------------------------------------------------------------------------------------------------
# --------- a teacher


@dataclass
class Teacher:
    """A trained network, which looks at the same images as the one that learns; names: of the tasks
    in which it is imitated; digest: SHA-256 of its weights.

    Half of such a task's loss is to agree with it. Where an image has no label, that half is all
    there is to learn from. Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural
    Network", 2015, without their temperature.
    """

    model: object
    names: tuple
    digest: str

    def join(self, losses, outputs, batch):
        """The losses of a batch to which `asked` has added what this network says of it."""
        return losses | {
            name: (1 - SHARE) * losses[name]
            + SHARE * self.model.task[name].imitate(outputs[name], batch[key_of(name)])
            for name in self.names
        }


def teacher(path, model, data, own, device):
    """(The Teacher that a checkpoint is for a model, what known_images remembers of the images that
    it was trained on).

    Refuses one that was trained on images which are to choose or to test the model, or knows no
    task of its that can be imitated.
    """
    network, info = checkpoint.load_model(path)
    refuse_seen("--teacher", path, info, data, own)
    names = tuple(
        name for name, task in model.task.items() if name in network.task and task.can_imitate
    )
    if not names:
        raise InputError(
            f"--teacher {path} is of the tasks {', '.join(network.tasks)}, and in none of {', '.join(model.tasks)} "
            "can it be imitated; the segmentation could be"
        )
    print(f"{', '.join(names)} learned from {path} too")
    return (
        Teacher(
            to_device(network, device).requires_grad_(False), names, digest(network.state_dict())
        ),
        {key: info[key] for key in own},
    )


@torch.no_grad()
def asked(teacher, batch, precision):
    """A batch with what a teacher, or None, says of its images beside: its outputs, on the CPU, in
    fp32."""
    if teacher is None:
        return batch
    device = next(teacher.model.parameters()).device
    with autocast(device, precision):
        outputs = teacher.model(batch["image"].to(device))
    return batch | {key_of(name): outputs[name].float().cpu() for name in teacher.names}


def key_of(name):
    """What the teacher's output of a task is called in a batch; no task can be called so."""
    return f"teacher: {name}"
