"""A network as an ONNX file, which other programs, languages and browsers run without PyTorch.

Input  image  (1, H, W, 3) uint8, RGB, upright, of any size
Output alpha  (H, W) float in [0, 1], where the network has masks: how opaque a cut-out is
       class  (K,) probabilities, and box (4,) xmin ymin xmax ymax in pixels, where it has them
       and each task's own output at the network's size, by the task's name

Resizing with antialias and normalisation lie inside. The metadata hold what the checkpoint says,
as text or JSON. `load_model` gives such a file as a network that predict.py takes.
"""

import contextlib
import copy
import importlib.util
import io
import json
import logging
import warnings

import numpy as np
import torch
from torch.nn import functional as F

import registry
from cli import InputError
from data import contract
from files import atomic_write
from inference import alpha
from training.kernels import fold
from training.run_folder import commit

PROJECT = "pets"
OPSET = 18
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE = (93, 122)  # height and width that the graph is found with
CHECKED = (32, 33), (300, 191), (256, 256)
NEAR = 2e-3  # of an output's largest value
# Resized pixels are rounded, and may fall on either side: alpha at steep edges follows by levels.
NEAR_ALPHA = 4 / 255
LARGE = 256  # values of a weight from which on it is stored in half precision


class Photograph(torch.nn.Module):
    """A network for one photograph as it is: (1, H, W, 3) uint8 -> a tuple of outputs."""

    def __init__(self, network, size, border):
        super().__init__()
        self.network, self.size, self.border = network, size, border

    def forward(self, image):
        return tuple(self.outputs(image).values())

    def outputs(self, image):
        """{name: output}."""
        colour = image.permute(0, 3, 1, 2)
        outputs = self.network(self.resized(colour, self.size))
        tasks = self.network.task
        one = {name: output[0] for name, output in outputs.items()}
        result = {}
        trimap = alpha.trimap(tasks, one, self.border)
        if trimap is not None:
            result["alpha"] = self.alpha(colour, trimap)
        size = torch.stack([length(colour[0, 0, 0]), length(colour[0, 0, :, 0])])
        for name, task in tasks.items():
            result |= task.exports(one[name], size)
        return result | outputs

    def alpha(self, colour, trimap):
        images = {side: self.resized(colour, side) for side in alpha.PASSES}
        _, fit = alpha.solve_guides(images, trimap)
        fit = F.interpolate(fit[None], size=colour.shape[-2:], mode="bilinear")[0]
        return alpha.alpha_of(fit, colour[0].float() / 255)

    @staticmethod
    def resized(colour, side):
        """(1, 3, H, W) uint8 -> (1, 3, side, side), bilinear and antialiased, whole numbers.

        Two matrix products with triangular weights, as runtimes differ in how they antialias.
        """
        colour = colour.float()
        rows = weights(colour[0, 0, :, 0], side)
        columns = weights(colour[0, 0, 0, :], side)
        return (rows @ colour @ columns.mT).round()


def length(line):
    """The number of a line's values as a tensor, which an exported graph computes."""
    return torch.ones_like(line, dtype=torch.float32).sum()


def weights(line, side):
    """(side, n) weights of a line of n values in one of `side` values."""
    place = torch.ones_like(line).cumsum(0) - 0.5
    scale = length(line) / side
    centre = (torch.arange(side, device=line.device) + 0.5) * scale
    found = (1 - (place - centre[:, None]).abs() / scale.clamp(min=1)).clamp(min=0)
    return found / found.sum(1, keepdim=True)


def require():
    """Raises cli.InputError where a package is missing that writing an ONNX file needs."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"an ONNX file needs {', '.join(missing)}; run pip install -r requirements-onnx.txt, "
            "or name a target that ends with .pt"
        )


def write(model, info, path, half=False):
    """Write a network in evaluation mode to a file, once onnxruntime has given the same outputs.

    half: weights in half precision. Raises cli.InputError where packages are missing, for a network
    that ONNX cannot hold, and where outputs differ.
    """
    require()
    network = Photograph(fold(copy.deepcopy(model)), info["size"], info["border"]).eval()
    graph = to_onnx(network)
    for key, value in metadata(model, info).items():
        graph.metadata_props.add(key=key, value=value)
    check(graph.SerializeToString(), network)
    if half:
        halve(graph)
    atomic_write(path, graph.SerializeToString())


def to_onnx(network):
    """The network as an onnx.ModelProto for photographs of any height and width."""
    image = noise(*EXAMPLE)
    any_size = torch.export.Dim.DYNAMIC
    try:
        with silence(), torch.no_grad():
            names = list(network.outputs(image))
            program = torch.onnx.export(
                network,
                (image,),
                input_names=["image"],
                output_names=names,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes={"image": {1: any_size, 2: any_size}},
            )
    except Exception as error:  # a custom head may do anything with sides that are no numbers
        reason = contract.shorten(error.__cause__ or error)
        raise InputError(
            f"this network cannot be written as ONNX ({reason}); a head must not ask how large an "
            "image is, only compute with it"
        ) from None
    graph = program.model_proto
    for value in (*graph.graph.input, *graph.graph.output):
        if value.name in ("image", "alpha"):
            sides = [side for side in value.type.tensor_type.shape.dim if side.dim_param]
            for side, name in zip(sides, ("height", "width"), strict=True):
                side.dim_param = name
    del graph.graph.value_info[:]  # which still have the exporter's names
    return graph


def halve(graph):
    """Store large weights in half precision; a cast gives them back, so any runtime computes in
    float32."""
    import onnx

    for weight in list(graph.graph.initializer):
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < LARGE:
            continue
        name = weight.name
        half = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half")
        graph.graph.initializer.remove(weight)
        graph.graph.initializer.append(half)
        cast = onnx.helper.make_node("Cast", [half.name], [name], to=onnx.TensorProto.FLOAT)
        graph.graph.node.insert(0, cast)


def metadata(model, info):
    """{key: text or JSON} of a checkpoint's values, without the images that it remembers."""
    values = {key: value for key, value in info.items() if not isinstance(value, torch.Tensor)}
    classes = {name: list(task.classes) for name, task in model.task.items() if task.classes}
    values |= {
        "project": PROJECT,
        "version": commit() or "unknown",
        "classes": classes,
    }
    result = {}
    for key, value in values.items():
        if value is not None:
            result[key] = value if isinstance(value, str) else json.dumps(value)
    return result


def check(data, network):
    """Raises cli.InputError where onnxruntime does not give a network's outputs."""
    session = open_session(data, "cpu")
    for shape in CHECKED:
        image = noise(*shape)
        with torch.no_grad():
            expected = network.outputs(image)
        try:
            found = session.run(list(expected), {"image": image.numpy()})
        except Exception as error:  # onnxruntime has kinds of its own
            raise InputError(
                f"ONNX cannot run this network at {shape[0]} x {shape[1]} px "
                f"({contract.shorten(error)}); a head must not keep the sides of one image"
            ) from None
        for (name, right), value in zip(expected.items(), found, strict=True):
            off = torch.inf
            if value.shape == tuple(right.shape):
                off = (torch.from_numpy(value) - right).abs().max().item()
            near = NEAR_ALPHA if name == "alpha" else NEAR * max(1, right.abs().max().item())
            if not off <= near:
                raise InputError(
                    f"ONNX gives another {name} than PyTorch at {shape[0]} x {shape[1]} px "
                    f"({off:.2g} apart); the task's head is where to look"
                )


def noise(height, width):
    """A photograph (1, H, W, 3) that is the same every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)


@contextlib.contextmanager
def silence():
    """Without what the exporter prints, warns of and logs: it is for those who work on it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    streams = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with warnings.catch_warnings(), streams[0], streams[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# ------------------------------------------------------------ running a file


class Network(torch.nn.Module):
    """An ONNX file in the place of an MTLNet: (N, 3, S, S) uint8 -> {task: (N, ...)}."""

    def __init__(self, session, tasks):
        super().__init__()
        self.session, self.task, self.tasks = session, tasks, tuple(tasks)

    def forward(self, image):
        found = []
        for one in image.permute(0, 2, 3, 1).contiguous():
            found.append(self.session.run(list(self.tasks), {"image": one[None].numpy()}))
        columns = zip(*found, strict=True)
        outputs = {}
        for name, values in zip(self.tasks, columns, strict=True):
            outputs[name] = torch.from_numpy(np.concatenate(values))
        return outputs


def open_session(file, device):
    """An onnxruntime session on a device that is there."""
    try:
        import onnxruntime
    except ImportError:
        message = "an ONNX file needs onnxruntime; run pip install onnxruntime"
        raise InputError(message) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised too
    options.intra_op_num_threads = torch.get_num_threads()
    wanted = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(device)
    providers = ["CPUExecutionProvider"]
    if wanted in onnxruntime.get_available_providers():
        providers.insert(0, wanted)
    try:
        return onnxruntime.InferenceSession(file, options, providers=providers)
    except Exception as error:  # damaged files, foreign ones, in kinds of onnxruntime's own
        raise InputError(
            f"{str(file)[:200]} is no ONNX file that runs here ({contract.shorten(error)})"
        ) from None


def load_model(path, device="cpu"):
    """(Network, what its checkpoint says) of a file that `write` wrote."""
    if not path.exists():
        raise InputError(f"there is no network {path}; name another")
    session = open_session(str(path), device)
    given = session.get_modelmeta().custom_metadata_map
    if given.get("project") != PROJECT or "alpha" not in [
        one.name for one in session.get_outputs()
    ]:
        raise InputError(
            f"{path} was not written by export.py of this version, or has no masks; name another"
        )
    info = {key: json.loads(given[key]) for key in ("tasks", "settings", "calibration", "size")}
    tasks = {}
    for task in registry.find_tasks(info["tasks"]):
        task.settings = info["settings"].get(task.name, {})
        task.temperature = info["calibration"].get(task.name, {}).get("temperature", 1.0)
        tasks[task.name] = task
    return Network(session, tasks), info | {"border": given["border"]}
