"""TorchJD's methods by their class names: torchjd:UPGrad, torchjd:PCGrad, torchjd:CAGrad:c=0.4, ...

    pip install -r requirements-torchjd.txt

Two kinds. A scalarizer (UW, GeometricMean, STCH, ...) makes one number of the losses, which is
minimised. An aggregator (UPGrad, MGDA, ...) makes one gradient of the tasks' gradients: the
parameters that tasks share get that, and each decoder and head the gradient of its own loss.
Settings are keyword arguments of the class behind a second colon, as in c=0.4,norm_eps=1e-3; the
number of tasks and equal weights are filled in. Constant, Mean, Random and Sum are scalarizers, and
as aggregators torchjd:aggregation.Mean and so on.

A task whose gradient is zero in a batch, as where nothing is labelled, is left out of it: it has no
direction, and some methods divide by its length. Methods that remember their tasks get the row of
zeros. What a method remembers is kept in last.pt; its random numbers depend on the seed, the epoch
and the step.

Source: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024; each method's
own in TorchJD's documentation.
"""

import ast
import copy
import importlib
import inspect
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import nn

from cli import InputError, one_line
from weighting import Weighting

VERSION = "0.18."
INSTALL = "install it with 'pip install -r requirements-torchjd.txt'"
KINDS = {"scalarization": "Scalarizer", "aggregation": "Aggregator"}
REFUSED = ("FAMO",)  # it needs the losses again after the step: weighting/famo.py
NEED_ALL_ROWS = ("Constant", "Krum", "TrimmedMean")  # and those that TorchJD calls stateful
PLAIN = (torch.Tensor, np.ndarray, list, tuple, str, int, float, type(None))


class Torchjd(Weighting):
    def __init__(self, name, argument, tasks):
        super().__init__(name, None, tasks)
        method_name, _, settings = (argument or "").partition(":")
        kind, method = make(method_name, settings, len(self.tasks))
        self.aggregates, self.method_name = kind == "aggregation", type(method).__name__
        self.found, self.device = {}, torch.device("cpu")
        if self.aggregates:
            self.hidden = [method]  # its buffers come and go, which load_state_dict would refuse
        else:
            self.scalarizer = method

    @property
    def method(self):
        return self.hidden[0] if self.aggregates else self.scalarizer

    def prepare(self, model):
        if self.aggregates and not model.shared_parameters():
            raise InputError(
                f"{self.spec} makes one gradient of the tasks' for the parameters that they share, "
                f"and with --sharing {model.sharing.name} they share none; use another weighting"
            )
        model.record_features = self.aggregates
        self.device = next(model.parameters()).device
        self.set_extra_state(self.get_extra_state())

    def begin_step(self, epoch, step, history):
        if step == 0 and epoch > 0 and self.method_name == "DWA":
            self.method.step()

    def weights(self):
        """What each task's loss, or its gradient, was multiplied with in the last step; nothing
        where the method has no such numbers."""
        return dict(self.found)

    def backward(self, losses, model):
        return self.aggregate(losses, model) if self.aggregates else self.scalarize(losses)

    def scalarize(self, losses):
        """Go back through the number that the method makes of the losses of the global batch."""
        values = self.global_losses(losses).to(self.device).requires_grad_()
        used = values
        if self.method_name == "GeometricMean" and values.any():
            used = values[values != 0]  # of what is labelled
        total = self.method(used)
        total.backward()  # to the method's own parameters, and values
        self.found = dict(zip(self.tasks, values.grad.tolist(), strict=True))
        sum(self.found[task] * losses[task] for task in self.tasks).backward()
        return total.detach()

    def aggregate(self, losses, model):
        from torchjd.autojac import jac_to_grad, mtl_backward

        shared, features = model.shared_parameters(), model.split_features
        model.split_features = []
        # One task after the other: all at once would go through vmap, which not every layer can.
        mtl_backward(
            [losses[task] for task in self.tasks],
            features=features,
            shared_params=shared,
            parallel_chunk_size=1,
        )
        rows = self.across(torch.cat([p.jac.flatten(1) for p in shared], dim=1))
        tasks, teaches = self.tasks, rows.any(dim=1)
        if self.forgets() and teaches.any():
            rows = rows[teaches]
            tasks = [self.tasks[k] for k in teaches.nonzero()[:, 0].tolist()]
        for p, row in zip(shared, rows.split([p.numel() for p in shared], dim=1), strict=True):
            p.jac = row.reshape(-1, *p.shape)
        weights = jac_to_grad(shared, self.method)
        self.found = {}
        if weights is not None:
            self.found = dict.fromkeys(self.tasks, 0.0)
            self.found |= dict(zip(tasks, weights.tolist(), strict=True))
        return self.total(losses).detach()  # there is no such number; the mean, for the log

    def forgets(self):
        """Whether the method bears another number of tasks in each step."""
        from torchjd import Stateful

        return not isinstance(self.method, Stateful) and self.method_name not in NEED_ALL_ROWS

    # ------------------------------------------------------------------------ what it remembers

    def get_extra_state(self):
        """{"module.attribute": value} of the plain values that the method's modules hold; arrays as
        tensors."""
        state, usual = {}, vars(nn.Module()).keys()
        for path, module in self.method.named_modules():
            for name, value in (vars(module) | module._buffers).items():
                if name in usual or not isinstance(value, PLAIN):
                    continue
                if isinstance(value, np.ndarray):
                    value = torch.from_numpy(value.copy())
                state[f"{path}.{name}"] = value
        return state

    def set_extra_state(self, state):
        modules = dict(self.method.named_modules())
        for key, value in state.items():
            path, _, name = key.rpartition(".")
            is_array = isinstance(getattr(modules[path], name), np.ndarray)
            setattr(modules[path], name, value.numpy() if is_array else self._here(value))
        if self.method_name == "NashMTL" and self.method.weighting.step:
            self.method.weighting._init_optim_problem()  # which only its first step does

    def _here(self, value):
        """A value with its tensors on the device of the network."""
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._here, value))
        return value.to(self.device) if isinstance(value, torch.Tensor) else value


def make(name, settings, n):
    """(kind, method) of a class name as in UPGrad or aggregation.Mean, for n tasks."""
    classes = find_classes()
    found = [
        (kind, one) for kind, one in classes if name in (one.__name__, f"{kind}.{one.__name__}")
    ]
    if not found:
        names = ", ".join(sorted({one.__name__ for _, one in classes}))
        raise InputError(f"torchjd has no method {name[:60]!r} that can be used; it has {names}")
    kind, method_class = found[0]
    wanted = inspect.signature(method_class).parameters
    usual = {"n_tasks": n, "shape": n, "weights": torch.full((n,), 1 / n)}
    given = {key: value for key, value in usual.items() if key in wanted} | parse(settings, name)
    try:
        method = method_class(**given)
        with torch.random.fork_rng(devices=[]):
            copy.deepcopy(method)(torch.eye(n) if kind == "aggregation" else torch.ones(n))
    except (ImportError, ValueError, TypeError, RuntimeError, IndexError) as error:
        asked = f"{name}:{settings}" if settings else name
        raise InputError(
            f"torchjd:{asked[:99]} cannot be made for {n} tasks ({one_line(error)}); its settings "
            f"are {', '.join(wanted) or 'none'}, written as in c=0.4,norm_eps=1e-3"
        ) from None
    return kind, method


def find_classes():
    """[(kind, class)] of the methods that need no other method to be made of."""
    try:
        installed = version("torchjd")
        modules = {kind: importlib.import_module(f"torchjd.{kind}") for kind in KINDS}
    except (PackageNotFoundError, ImportError) as error:
        raise InputError(f"torchjd is not installed ({error}); {INSTALL}") from None
    if not installed.startswith(VERSION):
        raise InputError(f"torchjd {installed} is installed, and {VERSION}* is needed; {INSTALL}")
    found = []
    for kind, module in modules.items():
        base = getattr(module, KINDS[kind])
        for name in module.__all__:
            one = getattr(module, name)
            if name in REFUSED or not inspect.isclass(one) or not issubclass(one, base):
                continue
            is_made_of = {"weighting", "gramian_weighting"} & inspect.signature(
                one
            ).parameters.keys()
            if not inspect.isabstract(one) and not is_made_of:
                found.append((kind, one))
    return found


def parse(settings, name):
    """Settings as in c=0.4,weights=[0.8,0.2] as a dict; lists are tensors."""
    try:
        call = ast.parse(f"f({settings})", mode="eval").body
        values = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
        if call.args or None in values:
            raise ValueError
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"the settings of torchjd:{name} are written as in c=0.4,norm_eps=1e-3, and were "
            f"{settings[:60]!r}"
        ) from None
    for key, value in values.items():
        values[key] = torch.tensor(value) if isinstance(value, list) else value
    return values
