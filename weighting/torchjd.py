"""TorchJD's methods by their names: `torchjd:UPGrad`, `torchjd:PCGrad`, `torchjd:NashMTL`, `torchjd:CAGrad:c=0.4`, ...

    pip install -r requirements-torchjd.txt

Two kinds. A scalarizer (UW, GeometricMean, STCH, ...) makes one number of the losses, which is minimised. An aggregator
(UPGrad, MGDA, ...) makes one gradient of the tasks' gradients: the parameters that tasks share get that, and each decoder
and head the gradient of its own loss. Settings stand behind a second colon, as in c=0.4,norm_eps=1e-3; those without a
default have to be said, but for the number of tasks and for weights (equal). Constant, Mean, Random and Sum are scalarizers,
and as aggregators torchjd:aggregation.Mean and so on.

A task whose gradient is zero in a batch, as where nothing is labelled, is left out of it: it has no direction, and some
methods divide by its length. Methods that remember their tasks get the row of zeros. What a method remembers is kept in
last.pt; its random numbers depend on the seed, the epoch and the step.

Source: Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024; each method's own in TorchJD's
documentation.
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
REFUSED = {"FAMO": "it needs the losses of each batch again after the step"}
NEED_ALL_ROWS = ("Constant", "Krum", "TrimmedMean")  # and those that TorchJD calls stateful
PLAIN = (torch.Tensor, np.ndarray, list, tuple, str, int, float, type(None))


class Torchjd(Weighting):
    def __init__(self, name, argument, tasks):
        super().__init__(name, None, tasks)
        named, _, settings = (argument or "").partition(":")
        kind, method = _make(named, settings, len(self.tasks))
        self.aggregates, self.made, self.found = kind == "aggregation", type(method).__name__, {}
        self.device = torch.device("cpu")
        if self.aggregates:
            self.hidden = [method]  # its buffers come and go, which load_state_dict would refuse
        else:
            self.scalarizer = method
        from torchjd import Stateful

        self.forgets = (
            self.aggregates and not isinstance(method, Stateful) and self.made not in NEED_ALL_ROWS
        )

    @property
    def method(self):
        return self.hidden[0] if self.aggregates else self.scalarizer

    def prepare(self, model):
        if self.aggregates and not model.shared_parameters():
            raise InputError(
                f"{self.spec} makes one gradient of the tasks' for the parameters that they share, and under "
                f"the sharing {model.sharing.name} they share none; use another --sharing or --weighting"
            )
        model.keeps_trunk = self.aggregates
        self.device = next(model.parameters()).device
        self.set_extra_state(self.get_extra_state())

    def begin_step(self, epoch, step, history):
        if step == 0 and epoch > 0 and self.made == "DWA":
            self.method.step()

    def weights(self):
        """What each task's gradient was multiplied with in the last step; nothing where the method has no such numbers."""
        return dict(self.found)

    def total(self, losses):
        """A scalarizer's number; an aggregator has none, and the mean stands for it in the log."""
        if self.aggregates:
            return super().total(losses)
        values = torch.stack([losses[task] for task in self.tasks])
        if self.made == "GeometricMean" and 0 < (values == 0).sum() < len(values):
            return self.method(values[values != 0]) + 0 * values.sum()
        return self.method(values)

    def backward(self, losses, model):
        if not self.aggregates:
            return super().backward(losses, model)
        from torchjd.autojac import jac_to_grad, mtl_backward

        shared, trunk, model.trunk = model.shared_parameters(), model.trunk, []
        # One task after the other: all at once would go through vmap, which not every layer can.
        mtl_backward(
            [losses[task] for task in self.tasks],
            features=trunk,
            shared_params=shared,
            parallel_chunk_size=1,
        )
        rows = torch.cat([p.jac.flatten(1) for p in shared], dim=1)
        if model.team:  # each process has its images' part of the tasks' gradients, times the number of processes
            rows = model.team.exchange(rows).mean(dim=0)
        teaches = rows.any(dim=1)
        tasks = self.tasks
        if self.forgets and teaches.any():
            rows, tasks = (
                rows[teaches],
                [task for task, it_does in zip(tasks, teaches.tolist()) if it_does],
            )
        for p, row in zip(shared, rows.split([p.numel() for p in shared], dim=1)):
            p.jac = row.reshape(-1, *p.shape)
        weights = jac_to_grad(shared, self.method)
        self.found = (
            {}
            if weights is None
            else dict.fromkeys(self.tasks, 0.0) | dict(zip(tasks, weights.tolist()))
        )
        return super().total(losses).detach()

    # ------------------------------------------------------------------------------------------- what it remembers

    def get_extra_state(self):
        """{"module.attribute": value} of the plain values that the method's modules hold; arrays as tensors."""
        usual = vars(nn.Module()).keys()
        return {
            f"{path}.{key}": torch.from_numpy(value.copy())
            if isinstance(value, np.ndarray)
            else value
            for path, module in self.method.named_modules()
            for key, value in (vars(module) | module._buffers).items()
            if key not in usual and isinstance(value, PLAIN)
        }

    def set_extra_state(self, state):
        modules = dict(self.method.named_modules())
        for key, value in state.items():
            path, _, name = key.rpartition(".")
            is_array = isinstance(getattr(modules[path], name), np.ndarray)
            setattr(modules[path], name, value.numpy() if is_array else self._here(value))
        if (
            self.made == "NashMTL" and self.method.weighting.step
        ):  # what only its first step sets up
            self.method.weighting._init_optim_problem()

    def _here(self, value):
        """A value with its tensors on the device of the network."""
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._here, value))
        return value.to(self.device) if isinstance(value, torch.Tensor) else value


def _make(named, settings, n):
    """(its kind, the method) of a name as in UPGrad or aggregation.Mean, for n tasks."""
    try:
        is_fit = version("torchjd").startswith(VERSION)
        known = {kind: _classes(kind) for kind in KINDS}
    except (PackageNotFoundError, ImportError) as error:
        raise InputError(f"torchjd is not installed ({error}); {INSTALL}") from None
    if not is_fit:
        raise InputError(
            f"torchjd {version('torchjd')} is installed, and {VERSION}* is needed; {INSTALL}"
        )
    kind, _, name = named.rpartition(".")
    found = [
        (each, classes[name])
        for each, classes in known.items()
        if kind in ("", each) and name in classes
    ]
    if not found:
        names = sorted({name for classes in known.values() for name in classes} - REFUSED.keys())
        raise InputError(f"torchjd has no method {named[:60]!r}; it has {', '.join(names)}")
    if name in REFUSED:
        raise InputError(f"torchjd:{name} cannot be used: {REFUSED[name]}; use another --weighting")
    kind, make = found[0]
    given, wanted = _parse(settings, name), inspect.signature(make).parameters
    given = {
        key: value
        for key, value in {"n_tasks": n, "shape": n, "weights": torch.full((n,), 1 / n)}.items()
        if key in wanted
    } | given
    if lacking := [
        key for key, one in wanted.items() if one.default is one.empty and key not in given
    ]:
        raise InputError(
            f"torchjd:{name} has to be told {', '.join(lacking)}, as in torchjd:{name}:{lacking[0]}=0.5"
        )
    if unknown := given.keys() - wanted.keys():
        raise InputError(
            f"torchjd:{name} has no setting {', '.join(sorted(unknown))}; it has {', '.join(wanted) or 'none'}"
        )
    try:
        method = make(**given)
        with torch.random.fork_rng(devices=[]):
            copy.deepcopy(method)(torch.eye(n) if kind == "aggregation" else torch.ones(n))
    except ImportError as error:
        raise InputError(f"torchjd:{name} lacks what it solves with ({error}); {INSTALL}") from None
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        with_these = f" with {settings}" if settings else ""
        raise InputError(
            f"torchjd:{name} cannot be made for {n} tasks{with_these}: {one_line(error)}"
        ) from None
    return kind, method


def _classes(kind):
    """{name: class} of the methods of a kind that need no other method to be made of."""
    module = importlib.import_module(f"torchjd.{kind}")
    base = getattr(module, KINDS[kind])
    return {
        name: one
        for name, one in vars(module).items()
        if name in module.__all__
        and inspect.isclass(one)
        and issubclass(one, base)
        and not inspect.isabstract(one)
        and not {"weighting", "gramian_weighting"} & inspect.signature(one).parameters.keys()
    }


def _parse(settings, name):
    """Settings as in c=0.4,weights=[0.8,0.2] as a dict; lists are tensors."""
    try:
        call = ast.parse(f"f({settings})", mode="eval").body
        if call.args or [word.arg for word in call.keywords if not word.arg]:
            raise ValueError
        values = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
        raise InputError(
            f"the settings of torchjd:{name} are written as in c=0.4,norm_eps=1e-3, and were "
            f"{settings[:60]!r}"
        ) from None
    return {
        key: torch.tensor(value) if isinstance(value, list) else value
        for key, value in values.items()
    }
