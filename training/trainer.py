"""The trainer: one object owns model, criterion, optimizer, EMA, data and run folder.

    Trainer(config, model, criterion).run()

    run -> setup.prepare    checks, config.json, what an earlier start left
        -> train_and_test   in every process: fit, the loop over epochs, then test, once

A script says which tasks, which model and which loss weighting; all else is here.
"""

import contextlib
import math
import sys
import time
import zlib

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

import cli
from cli import InputError
from data import contract
from dataloader_mtl import batches, make_loader
from training import checkpoint, checks, cuda_graphs, dist, distill, kernels, optim, setup
from training.calibrate import calibrate
from training.devices import choose_device, keep_memory, to
from training.evaluate import METRICS, evaluate, line, progress
from training.precision import autocast
from training.run_folder import RunFolder


class Trainer:
    """Trains a model with a criterion, chooses its checkpoint on validation, tests it once.

    Everything is written to <runs>/<experiment>/seed<k>/ (training/run_folder.py). Raises
    cli.InputError for wrong input, and for dead parameters, before anything is written.
    """

    def __init__(self, config, model, criterion):
        self.model, self.criterion = model, criterion
        self.config = config.replace(
            tasks=model.tasks,
            weighting=criterion.spec,
            sharing=model.sharing.name,
            encoder=model.backbone.name,
        )
        self.world = dist.ALONE
        self.teacher = None
        folder = config.runs / config.experiment / f"seed{config.seed}"
        self.folder = RunFolder(folder, config.resume)

    def run(self):
        self.device = choose_device(self.config.device)
        if dist.follow(self.device):  # under torchrun, in all processes but the first
            return
        with self.folder.lock():
            if self.folder.is_finished():
                self.check_finished()
                return
            try:
                setup.prepare(self)
                dist.launch(train_and_test, self, self.processes, self.threads)
            except (KeyboardInterrupt, cli.Terminated):
                if self.folder.has_begun():
                    print(
                        f"{self.folder.path} stopped; the same command with --resume goes on from "
                        "the last finished epoch",
                        file=sys.stderr,
                    )
                raise

    def resume(self):
        """Begin with a new state, or with that of the last finished epoch."""
        self.state = {
            "epoch": 0,
            "history": [],
            "best": None,
            "best_value": None,
            "best_epoch": 0,
            "train_seconds": 0.0,
            "train_images": 0,
        }
        saved = self.folder.load_last()
        if saved is None:
            return
        if not torch.equal(saved["trained_on"], self.known["trained_on"]):
            raise InputError(
                f"the training images in {self.config.data} are not those that {self.folder.path} "
                "was begun with; bring them back or choose another --runs"
            )
        parts = self.parts()
        highest = [group["highest"] for group in self.optimizer.param_groups]
        try:
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.folder.last_path} does not fit this run ({contract.shorten(error)}); it is "
                "of another configuration or damaged, so delete the run folder and start again"
            ) from None
        for group, value in zip(self.optimizer.param_groups, highest, strict=True):
            group["highest"] = value  # which earlier versions did not save
        self.state = {key: saved[key] for key in self.state}
        # The run may have been stopped after last.pt and before log.csv.
        self.folder.write_log(self.state["history"])
        print(f"resumed after epoch {self.state['epoch']}")

    @property
    def history(self):
        """The rows of log.csv so far, as dicts."""
        return self.state["history"]

    def parts(self):
        """What a resumed run needs the state of, beside `state`."""
        parts = {"model": self.model, "criterion": self.criterion, "optimizer": self.optimizer}
        if self.ema is not None:
            parts["ema"] = self.ema
        return parts

    # -------------------------------------------------------------------------------- the loop

    def fit(self):
        """Train for all epochs that are left."""
        for epoch in range(self.state["epoch"], self.config.epochs):
            row = self.train_epoch(epoch)
            metrics = self.validate()
            row |= {f"val_{key}": value for key, value in metrics.items()}
            self.state["history"].append(row)
            if self.world.rank == 0:
                for (
                    callback
                ) in self.callbacks:  # before the checkpoint: a repeated epoch calls again
                    callback.on_epoch(self, row)
                self.save(epoch, row, metrics)

    def train_epoch(self, epoch):
        """One pass over the training split; returns the epoch's row of log.csv.

        lr (at the end); loss (the weighted total); train_loss_<task> (unweighted, mean over the
        batches that hold a label); gradient_norm (before it is clipped); weight_<task>; what
        callbacks and the sharing add; seconds, images_per_second and the share of time spent
        waiting for data.
        """
        self.model.train()
        self.criterion.train()
        loader = self.train_loader
        steps = len(loader)
        if self.forward is not self.model:
            self.forward.prepare(loader.dataset.sampling.sizes[epoch])
        sums, counts, images, waited = {}, {}, 0, 0.0
        begin = time.perf_counter()
        with (
            contextlib.closing(batches(loader, epoch)) as source,
            progress(steps, f"epoch {epoch + 1}") as bar,
        ):
            for k in range(steps):
                asked = time.perf_counter()
                batch = next(source)
                waited += time.perf_counter() - asked
                for group in self.optimizer.param_groups:
                    group["lr"] = optim.learning_rate(
                        epoch * steps + k, self.config.epochs * steps, group["highest"]
                    )
                seed_step(self.config.seed, (epoch, k), self.device)
                self.criterion.begin_step(epoch, k, self.state["history"])
                values = self.step(to(batch, self.device), k)
                for key, value in values.items():
                    sums[key] = sums.get(key, 0.0) + value
                    counts[key] = counts.get(key, 0) + 1
                images += len(batch["row"])
                bar.update()
        seconds = time.perf_counter() - begin
        sums, images = self.join_processes(sums, images)
        row = {
            "epoch": epoch + 1,
            "side": loader.dataset.sampling.sizes[epoch],
            "lr": self.optimizer.param_groups[0]["lr"],
        }
        row |= {key: value / counts[key] for key, value in sums.items()}
        for task in self.model.tasks:  # no batch of the epoch held a label
            row.setdefault(f"train_loss_{task}", None)
        for callback in self.callbacks:
            row |= callback.columns()
        row |= self.model.sharing.values(self.model.encoder)
        row["seconds"] = round(seconds, 2)
        row["images_per_second"] = round(images / seconds, 2)
        row["waiting"] = round(waited / seconds, 4)
        self.state["train_seconds"] += seconds
        self.state["train_images"] += images
        return row

    def step(self, batch, k):
        """One training step; returns {column: float} of losses, weights and the gradient's norm."""
        criterion, world = self.criterion, self.world
        self.optimizer.zero_grad()
        with autocast(self.device, self.config.precision):
            outputs = self.forward(batch["image"])
        losses = criterion(outputs, batch)
        if self.teacher:
            soft = self.teacher.soft_targets(batch["image"], self.config.precision)
            images = world.sum(torch.tensor(len(batch["image"]))).item()
            losses = self.teacher.join(losses, outputs, soft, world.size / images)
        for callback in self.callbacks:
            callback.on_losses(self, k, losses)
        total = criterion.backward(losses, self.model)
        penalty = self.model.penalty()
        if penalty is not None:
            penalty.backward()
            total = total + penalty.detach()
        dist.average_gradients(self.parameters.values(), world)
        values = {"loss": total.item()}
        for task, loss in losses.items():
            if criterion.counts[task] or self.teacher:
                values[f"train_loss_{task}"] = loss.item()
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = get_total_norm(gradients)
        if not norm.isfinite() or not all(map(math.isfinite, values.values())):
            names = ", ".join(self.data["train"].names[row] for row in batch["row"].tolist())
            where = f"epoch {len(self.state['history']) + 1}, images {names}"
            checks.refuse_divergence(values, self.parameters, where)
        clip_grads_with_norm_(self.parameters.values(), optim.MAX_GRADIENT_NORM, norm)
        values["gradient_norm"] = norm.item()
        for task, weight in criterion.weights().items():
            values[f"weight_{task}"] = weight
        self.optimizer.step()
        criterion.end_step(lambda: self.measure_again(batch))
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return values

    @torch.no_grad()
    def measure_again(self, batch):
        """The unweighted losses of a batch after the update; leaves the network as it is."""
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        with autocast(self.device, self.config.precision):
            outputs = self.model(batch["image"])
        losses = self.criterion(outputs, batch)
        for buffer, value in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        return losses

    def join_processes(self, sums, images):
        """The sums of one process -> their means over all, and the images of all."""
        if self.world.size == 1:
            return sums, images
        values = torch.tensor([*sums.values(), images], dtype=torch.float64)
        *means, images = self.world.mean(values).tolist()
        return dict(zip(sums, means, strict=True)), round(images * self.world.size)

    def validate(self):
        """Metrics of the kept network on the validation split, in every process."""
        metrics, _ = evaluate(self.kept, self.val_loader, self.criterion, self.world)
        return metrics

    @property
    def kept(self):
        """The network that is validated and saved: the EMA, where there is one."""
        return self.ema.module if self.ema is not None else self.model

    def save(self, epoch, row, metrics):
        """Write best.pt, where it is the best yet, last.pt and log.csv; print the epoch's line."""
        state = self.state
        state["epoch"] = epoch + 1
        # Should the run be stopped between the files, the epoch is repeated and gives them again.
        # last.pt holds all of best.pt: damage to that costs nothing.
        key, metric = next(iter(next(iter(self.model.task.values())).metrics.items()))
        value = metrics[key] if metric.higher else -metrics[key]
        if state["best_value"] is None or value > state["best_value"]:
            state["best_value"], state["best_epoch"] = value, epoch + 1
            state["best"] = self.describe_network(metrics)
            checkpoint.save(state["best"], self.folder.best_path)
        parts = {name: part.state_dict() for name, part in self.parts().items()}
        self.folder.save_last({**parts, **state, **self.known})
        self.folder.write_log(state["history"])
        firsts = {}
        for task in self.model.task.values():
            first = next(iter(task.metrics))
            firsts[first] = metrics[first]
        print(
            f"epoch {epoch + 1}/{self.config.epochs}: loss {row['loss']:.4f}, val {line(firsts)}, "
            f"{row['side']} px, {row['seconds']:.0f} s, {row['images_per_second']:.0f} images/s",
            flush=True,
        )

    def describe_network(self, metrics):
        """The content of a best.pt: a copy, which training does not change."""
        weights = {}
        for name, value in self.kept.state_dict().items():
            weights[name] = value.detach().to("cpu", copy=True)
        model = self.model
        return {
            "model": weights,
            "tasks": list(model.tasks),
            "width": model.width,
            "sharing": model.sharing.name,
            "encoder": model.backbone.name,
            "dropped": list(model.dropped),
            "metrics": metrics,
            "experiment": self.config.experiment,
            "seed": self.config.seed,
            "settings": self.facts["settings"],
            "calibration": {},
            **self.known,
            **{key: self.facts[key] for key in ("size", "split_hash", "border")},
        }

    # --------------------------------------------------------------------------------- the test

    def test(self):
        """Calibrate the chosen checkpoint, test it once, write the results, draw the figures."""
        state, config, world = self.state, self.config, self.world
        if world.rank == 0:
            self.model.load_state_dict(state["best"]["model"])
            val_loader = make_loader(self.data["val"], config.batch_size)
            state["best"]["calibration"] = calibrate(self.model, val_loader)
            # Again, should it have been damaged: what is tested is what is kept.
            checkpoint.save(state["best"], self.folder.best_path)
        best = world.broadcast(state["best"])
        self.model.load_state_dict(best["model"])
        checkpoint.set_temperatures(self.model.task.values(), best["calibration"])
        part = (world.rank, world.size)
        loader = make_loader(self.data["test"], config.batch_size, part=part)
        metrics, measured = evaluate(self.model, loader, world=world)
        if world.rank:
            return
        results = {"experiment": config.experiment, "seed": config.seed, **metrics}
        results |= {
            "n_images": len(self.data["test"]),
            "epochs": config.epochs,
            "best_epoch": state["best_epoch"],
            "parameters": self.facts["parameters"],
            "train_seconds": round(state["train_seconds"], 2),
            "images_per_second": round(state["train_images"] / state["train_seconds"], 2),
        }
        for key in ("split_hash", "border", "size", "device", "precision"):
            results[key] = self.facts[key]
        self.folder.write_test(results, self.data["test"].names, measured)
        shown = {key: metrics[key] for key in METRICS if key in metrics}
        print(f"test {line(shown)} (epoch {state['best_epoch']}, {results['n_images']} images)")
        print(self.folder.path)
        for callback in self.callbacks:
            callback.on_end(self)

    def check_finished(self):
        """Refuse other settings than a finished run's; draw figures that are missing."""
        config, model = self.config, self.model
        earlier = self.folder.read_config()
        # The data of a finished run may be gone, but not others be named in their place.
        is_gone = not config.data.exists() and str(config.data) == earlier["data"]
        facts = {
            "init_sha256": distill.sha256(config.init),
            "teacher_sha256": distill.sha256(config.teacher),
            "encoder_weights_sha256": getattr(model.backbone, "weights_sha256", None),
        }
        if not is_gone:
            setup.fit_tasks(model.task.values(), config)
            summary = contract.describe(config.data)
            facts |= {key: summary[key] for key in ("split_hash", "border")}
            facts["settings"] = setup.settings_of(model)
        self.folder.check_finished({**config.to_json(), "run": facts})
        if not is_gone and self.folder.last_path.exists() and self.folder.best_path.exists():
            self.draw_missing()
        print(f"{self.folder.path} is finished already")

    def draw_missing(self):
        """Draw the figures that a finished run lacks; what prevents it is a warning."""
        callbacks = setup.make_callbacks(self.config, self)
        names = [name for callback in callbacks for name in callback.figures]
        if all((self.folder.path / name).exists() for name in names):
            return
        try:
            self.state = {"history": self.folder.load_last()["history"]}
            self.model, _ = checkpoint.load_model(self.folder.best_path)
        except InputError as error:
            cli.warn(f"the figures of {self.folder.path} could not be drawn: {error}")
            return
        self.data = {"test": setup.open_data(self.config, self.model.task.values())["test"]}
        for callback in callbacks:
            callback.on_end(self)


def train_and_test(world, trainer):
    """What every process of a run does."""
    config, part = trainer.config, (world.rank, world.size)
    trainer.world = trainer.criterion.world = world
    keep_memory()
    if trainer.facts["images_on"] != "cpu":
        trainer.data["train"].hold(trainer.device)
    dist.sync_batchnorm(trainer.model, world)
    kernels.install(trainer.model, trainer.facts["convolution"])
    graphs = cuda_graphs.make_graphs(trainer.model, trainer.criterion, config, world)
    trainer.forward = graphs or trainer.model
    trainer.parameters = checks.named_parameters(trainer.model, trainer.criterion)
    trainer.train_loader = make_loader(
        trainer.data["train"], config.batch_size, shuffle=True, workers=config.workers, part=part
    )
    trainer.val_loader = make_loader(trainer.data["val"], config.batch_size, part=part)
    trainer.fit()
    trainer.test()


def seed_step(seed, step, device):
    """Let random numbers of a step (epoch, k) depend on the seed and the step alone."""
    number = zlib.crc32(f"{seed}/{step[0]}/{step[1]}".encode())
    # torch.manual_seed also seeds devices that are not in use, which takes half a millisecond.
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)
