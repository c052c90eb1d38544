"""What a page shows of one photograph, and what one takes away from it, as files; app.py is the
page around it."""

import html
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data import photographs
from data.pixels import of_pillow, to_pillow
from training import looking, pictures
from training.pictures import BOX_COLOUR, Picture

SIDE = 1200  # pixels of the longer side of what is shown; what one takes away has the photograph's own size


def show(model, size, path, folder):
    """What a network of images of `size` pixels sees in a photograph, as files in a new folder
    below `folder`.

    Returns a dict. pictures: paths of the photograph, of the panel that tasks share and of a task's
    own; said: HTML; where the network has masks, cutout, the path of a PNG in RGBA, and mask, of
    one of 0 and 255. Raises cli.InputError for a photograph that cannot be read.
    """
    name = photographs.show_name(Path(path).name)
    photograph = looking.read(path, name, f"{name} is no longer here; choose it again")
    image, small = photograph.image, photograph.image.copy()
    small.thumbnail((SIDE, SIDE))
    outputs = looking.outputs_of(model, of_pillow(image), size)
    predicted = looking.answers(model.task, outputs, small.height, small.width)
    picture = Picture(name, of_pillow(small), model.task, predicted, frame=photograph.size[::-1])
    folder = Path(tempfile.mkdtemp(dir=folder))  # of a name that nobody can guess
    files = [
        save(image_of(panel), folder / f"{k}.jpg", quality=90)
        for k, panel in enumerate(pictures.panels(picture))
    ]
    seen = {"pictures": files, "said": words(picture, image.size)}
    if "seg" in outputs:
        mask = model.task["seg"].answer(outputs["seg"], image.height, image.width)
        for kind, made in zip(("cutout", "mask"), cut_out(image, mask)):
            seen[kind] = save(made, folder / f"{Path(path).stem}_{kind}.png", compress_level=1)
    return seen


def image_of(panel):
    """A panel with its boxes as a PIL image."""
    image = to_pillow(panel.image)
    for x1, y1, x2, y2 in (box.tolist() for box in panel.boxes):
        corners = x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)  # Pillow counts the last ones in
        ImageDraw.Draw(image).rectangle(
            corners, outline=BOX_COLOUR, width=max(2, max(image.size) // 200)
        )
    return image


def cut_out(image, mask):
    """The pet of an image as RGBA, and its mask as an image; mask: (H, W) bool."""
    alpha = Image.fromarray(mask.numpy().astype(np.uint8) * 255)
    pet = Image.composite(
        image, Image.new("RGB", image.size), alpha
    )  # who shares the pet does not share what is around it
    pet.putalpha(alpha)
    return pet, alpha


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


def words(picture, read):
    """What a network says of a picture, as HTML: first what it does not draw, such as a class, then
    the rest; read: (width, height) of what was read of the photograph."""
    height, width = picture.frame
    drawn = {name: task for name, task in picture.tasks.items() if pictures.draws(task)}
    reduced = "" if read == (width, height) else f", read as {read[0]} x {read[1]}"
    lines = {
        "answer": pictures.words(picture, picture.tasks, picture.predicted),
        "rest": pictures.told(picture, drawn, picture.predicted),
        "small": f"{picture.name}, {width} x {height} pixels{reduced}",
    }
    return "".join(
        f'<p class="{kind}">{html.escape(line)}</p>' for kind, line in lines.items() if line
    )


def refusal(error):
    """The HTML of an error."""
    return f'<p class="error" role="alert">{html.escape(str(error))}</p>'
