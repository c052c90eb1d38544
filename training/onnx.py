"""A network as an ONNX file, which other programs, languages and browsers run without PyTorch.

Its input `image` is (B, 3, H, W) uint8, RGB: any B, and any H and W from 32, which may differ from
call to call; normalisation lies inside. Its outputs are called as the tasks and are what MTLNet
gives, logits where a task has logits. What a checkpoint says of the network goes along as metadata,
text or JSON: tasks, classes and settings of each, size (the side of the images that it was trained
on; others work, mostly worse), experiment, seed, metrics, border, project, version, and what else
it holds.
"""

import contextlib
import copy
import importlib.util
import inspect
import io
import json
import logging
import warnings

import torch

from cli import InputError
from data import contract
from training import checkpoint
from training.folding import fold
from training.run_folder import environment

PROJECT = "pets"
OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE = (
    2,
    93,
    122,
)  # B, H and W that the graph is found with: no two alike, no side a multiple of anything, no map of one cell
CHECKED = (1, 32, 32), (3, 65, 47), (1, 256, 191)  # (B, H, W)
NEAR = 1e-4  # of outputs up to 1; of larger ones, relative


class Positional(torch.nn.Module):
    """A network whose outputs are a tuple, in the order of its tasks."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return tuple(self.network(image).values())


def require():
    """Raises cli.InputError where a package is missing that writing, or checking what was written,
    needs."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"an ONNX file needs {', '.join(missing)}, not installed here; run pip install -r requirements-onnx.txt, "
            "or name a target that ends with .pt"
        )


def write(model, info, path):
    """Write a network in evaluation mode, and what its checkpoint says, to a file, once onnxruntime
    has given the same outputs.

    Raises cli.InputError where packages are missing, for a network that ONNX cannot say, and where
    outputs differ.
    """
    require()
    graph = to_onnx(fold(copy.deepcopy(model)))
    for key, value in metadata(model, info).items():
        graph.metadata_props.add(key=key, value=value)
    data = graph.SerializeToString()
    check(data, model)
    checkpoint.replace(data, path)


def to_onnx(model):
    """The network as an onnx.ModelProto of any batch, height and width."""
    any_size = torch.export.Dim.DYNAMIC
    image = noise(*EXAMPLE)
    try:
        with silence():
            program = torch.onnx.export(
                Positional(model).eval(),
                (image,),
                input_names=["image"],
                output_names=list(model.tasks),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes={"image": {0: any_size, 2: any_size, 3: any_size}},
            )
        graph = program.model_proto
    except Exception as error:  # whatever a head of one's own makes of sides that are no numbers
        raise InputError(
            f"this network cannot be written as ONNX ({contract.shorten(error.__cause__ or error)}); a head must not ask how large an "
            "image is, only compute with it"
        ) from None
    with torch.no_grad():
        outputs = dict(zip(model.tasks, Positional(model)(image)))
    name_sides(graph, {"image": image} | outputs)
    for output in graph.graph.output:
        output.doc_string = inspect.getdoc(inspect.getmodule(model.task[output.name])) or ""
    return graph


def name_sides(graph, examples):
    """Call free sides by what they are: batch, height and width as the image's, others by output
    and place."""
    known = dict(zip(EXAMPLE, ("batch", "height", "width")))
    for value in (*graph.graph.input, *graph.graph.output):
        for place, (side, n) in enumerate(
            zip(value.type.tensor_type.shape.dim, examples[value.name].shape)
        ):
            if side.dim_param:
                side.dim_param = known.get(n, f"{value.name}_{place}")
    del graph.graph.value_info[:]  # what lies between still has the exporter's names for them


def metadata(model, info):
    """{key: text or JSON} of a checkpoint's values, without the images that it remembers."""
    values = {key: value for key, value in info.items() if not isinstance(value, torch.Tensor)}
    values |= {
        "project": PROJECT,
        "version": environment()["commit"] or "unknown",
        "classes": {name: list(task.classes) for name, task in model.task.items() if task.classes},
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
        if value is not None
    }


def check(data, model):
    """Raises cli.InputError where onnxruntime does not give a network's outputs, within NEAR, at
    batches and sides of all kinds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised too
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for shape in CHECKED:
        image = noise(*shape)
        with torch.no_grad():
            expected = model(image)
        try:
            found = session.run(list(model.tasks), {"image": image.numpy()})
        except Exception as error:  # as onnxruntime has kinds of its own
            raise InputError(
                f"ONNX cannot run this network at {shape[1]} x {shape[2]} px ({contract.shorten(error)}); a head must "
                "not keep the sides of one image"
            ) from None
        for (name, right), value in zip(expected.items(), map(torch.from_numpy, found)):
            off = (value - right).abs().max().item() if value.shape == right.shape else float("inf")
            if not off <= NEAR * max(1, right.abs().max().item()):
                raise InputError(
                    f"ONNX gives another {name} than PyTorch at {shape[1]} x {shape[2]} px ({off:.2g} apart); nothing "
                    "was written, and the task's head is where to look"
                )


def noise(*shape):
    """Images of (B, H, W) pixels that are the same every time."""
    n, height, width = shape
    return torch.randint(
        0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@contextlib.contextmanager
def silence():
    """Without what the exporter prints, warns of and logs as it works: it is for those who work on
    it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
