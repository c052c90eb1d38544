"""The mechanics that all experiments share: options, training, validation, the one test at the end.

A script says which tasks, which model and which weighting; `run` does the rest:

    parser -> run -> begin                                        (checks, records, what an earlier
    start left)
                  -> train -> fit -> train_one_epoch, evaluate    (every epoch)
                           -> finish -> evaluate on the test split    (once, with the chosen
                           checkpoint)

`train` and what is below it happen in all processes of a run (training/team.py), each with its part
of every batch.
"""

import contextlib
import copy
import sys
import time
from pathlib import Path

import torch
from torch.nn.utils import clip_grads_with_norm_

import cli
from cli import InputError
from data import contract
from dataloader_mtl import MTLDataset, batches, make_loader
from models import count_parameters
from tasks import Task
from training import (
    averaging,
    checkpoint,
    conflicts,
    convolution,
    distributed,
    known_images,
    live,
    others,
    pictures,
    replay,
    targets,
)
from training.calibration import calibrate
from training.devices import choose_device, images_on, keep_memory, set_threads, to_device
from training.evaluation import describe_data, evaluate, line, progress
from training.options import make_parser  # noqa: F401  (where one looks for it)
from training.precision import choose_precision
from training.recipe import MAX_GRADIENT_NORM, learning_rate, make_optimizer, training_sides
from training.run_folder import RunFolder, environment
from training.step import (
    named_parameters,
    refuse_divergence,
    refuse_unreached,
    refuse_untrained,
    seed_step,
    step,
    teaching_batch,
    to,
)
from training.team import ALONE

# Options that the records hold by themselves, as what was made of them.
RECORDED = {
    "tasks",
    "weighting",
    "sharing",
    "encoder",
    "encoder_weights",
    "encoder_lr",
    "encoder_bn",
    "name",
}


def learn(tasks, args):
    """Let tasks, {name: Task}, look at the training split, but for those that have; returns them.
    Those whose head depends on it must before the network is built."""
    curious = [
        task for task in tasks.values() if type(task).learn is not Task.learn and not task.settings
    ]
    if curious:
        dataset = MTLDataset(args.data, "train", limit=args.limit, tasks=())
        for task in curious:
            task.learn(dataset)
    return tasks


def run(experiment, model, criterion, args):
    """Train a model with a criterion, choose its checkpoint on the validation split, test it once.

    Everything is written to <runs>/<experiment>/seed<k>/ (training/run_folder.py), which is this
    process's alone meanwhile. Raises cli.InputError for wrong input, and for parameters that would
    not be trained, before anything is written.
    """
    network = distributed.from_torchrun(args)
    if network and network.rank:
        network.follow()
        return
    folder = open_folder(experiment, args)
    with contextlib.closing(network or ALONE), folder.held():
        if folder.is_finished():
            check_finished(folder, experiment, model, criterion, args)
            print(f"{folder.path} is finished already")
        else:
            train_and_test(folder, experiment, model, criterion, args, network)


def check_finished(folder, experiment, model, criterion, args):
    """What `run` does in a folder that is finished: refuse other settings, and draw what is missing
    of the pictures."""
    with folder.earlier_config() as earlier:
        # The data of a finished run may be gone, but not others be named in their place.
        is_gone = not args.data.exists() and str(args.data) == earlier["options"].get("data")
    if is_gone:
        for name, task in model.task.items():
            task.settings = task.settings or earlier.get("settings", {}).get(name, {})
    else:
        learn(model.task, args)
    folder.check_finished(
        settings(experiment, model, criterion, args)
        | others.digests(args, model)
        | (
            {}
            if is_gone
            else {key: contract.describe(args.data)[key] for key in ("split_hash", "border")}
        )
    )
    if not is_gone and folder.last_path.exists() and folder.best_path.exists():
        if not (folder.path / "curves.png").exists():
            folder.draw(
                "curves.png",
                lambda path: pictures.draw_curves(folder.load_last()["history"], model.task, path),
            )
        if not (folder.path / "mask.png").exists():
            folder.draw(
                "mask.png",
                lambda path: pictures.draw_masks(
                    checkpoint.load_model(folder.best_path)[0],
                    MTLDataset(args.data, "test", limit=args.limit, tasks=model.task.values()),
                    path,
                ),
            )
        if args.conflicts and not (folder.path / "conflicts.png").exists():
            folder.draw(
                "conflicts.png",
                lambda path: conflicts.draw(folder.load_last()["history"], model.tasks, path),
            )


def settings(experiment, model, criterion, args):
    """What a run's records say of how it was asked for."""
    return {
        "experiment": experiment,
        "options": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(args).items()
            if key not in RECORDED
        },
        "tasks": list(model.tasks),
        "weighting": criterion.spec,
        "sharing": model.sharing.name,
        "encoder": model.backbone.name,
        "encoder_weights": model.encoder_weights.get("sha256"),
        "encoder_weights_from": model.encoder_weights.get("from"),
        "encoder_lr": getattr(args, "encoder_lr", None),
        "encoder_bn": "keep" if model.keeps_statistics else "train",
        "settings": {name: task.settings for name, task in model.task.items() if task.settings},
    }


def train_and_test(folder, experiment, model, criterion, args, network=None):
    """What `run` does in a folder that is not finished."""
    device = choose_device(args.device)
    learn(model.task, args)
    data = open_data(args, model.task.values())
    processes, threads = distributed.choose_processes(
        args, folder.earlier_processes(), device, len(data["train"]), model, network
    )
    try:
        with contextlib.closing(network or distributed.start(processes, threads)) as team:
            set_threads(threads)
            team.call(train, *begin(folder, experiment, model, criterion, data, device, args, team))
    except (KeyboardInterrupt, cli.Terminated):
        if folder.config_path.exists():
            print(
                f"{folder.path} stopped; the same command with --resume goes on from the last finished epoch",
                file=sys.stderr,
            )
        raise


def begin(folder, experiment, model, criterion, data, device, args, team):
    """What comes before training: refuse what cannot be trained, write config.json, or take up what
    an earlier start left. Returns the arguments of `train` after the team."""
    taught = targets.taught(data["train"])
    targets.refuse_blind_choice(data["val"])
    if args.conflicts:
        conflicts.refuse(model)
    if args.tensorboard:
        live.require()
    known, init, teacher = known_images.remember(data["train"]), None, None
    if args.init:
        earlier, init = others.start_from(args.init, model, data, known)
        known = known_images.both(known, earlier)
    if args.teacher:
        teacher, seen = others.teacher(args.teacher, model, data, known, device)
        known = known_images.both(known, seen)
    optimizer = make_optimizer(
        model, criterion, args.lr, getattr(args, "encoder_lr", None), args.optimizer
    )
    refuse_untrained(criterion, optimizer)
    to_device(model, device), criterion.to(device)
    criterion.prepare(model)
    average = averaging.start(model, args.average)
    refuse_unreached(
        model, criterion, teaching_batch(data["train"], min(args.batch_size, 4), device)
    )
    precision = choose_precision(
        args.precision,
        folder,
        model,
        criterion,
        data["train"],
        -(-args.batch_size // team.size),
        device,
        team.size,
    )
    for group in optimizer.param_groups if args.optimizer == "muon" else ():
        group["precision"] = precision
    criterion.teacher = (
        teacher  # not before: the steps that were tried have nothing of what it says
    )
    config = folder.begin(
        {
            **settings(experiment, model, criterion, args),
            "device": device.type,
            "processes": team.size,
            "precision": precision,
            "convolution": convolution.choose(
                args.convolution, device, precision, team.size * torch.get_num_threads()
            ),
            "parameters": count_parameters(model),
            "init": init,
            "teacher": teacher and teacher.digest,
            "images": {split: len(dataset) for split, dataset in data.items()},
            "images_on": images_on(data["train"], device, args, team),
            "taught": taught,
            **describe_data(data["train"]),
            **environment(device),
        }
    )
    print(
        f"{experiment}, seed {args.seed}: {', '.join(model.tasks)}; {len(data['train'])} images, {args.epochs} epochs, "
        f"{config['parameters'] / 1e6:.2f} M parameters, {device.type}, {config['precision']}; border counts as "
        f"{config['border']}; images are {where_images_are(data['train'], args.workers, config['images_on'])}"
    )
    for split in ("val", "test"):
        targets.warn_of_unmeasured(data[split])
    parts = {"model": model, "criterion": criterion, "optimizer": optimizer} | (
        {"average": average} if average else {}
    )
    state = resume(folder, parts, known, args)
    return model, average, criterion, optimizer, data, known, state, folder, config, args


def resume(folder, parts, known, args):
    """The state that training begins with: a new one, or that of the last finished epoch, moved
    into the parts."""
    state = {
        "epoch": 0,
        "history": [],
        "best_value": None,
        "best_epoch": 0,
        "train_seconds": 0.0,
        "train_images": 0,
        **known,
    }
    saved = folder.load_last()
    if saved:
        if not torch.equal(saved["trained_on"], known["trained_on"]):
            raise InputError(
                f"the training images in {args.data} are not those that {folder.path} was begun with; bring "
                "them back or choose another --runs"
            )
        restore(folder.last_path, parts, saved)
        state = known | saved  # one of an earlier version does not have the looks
        folder.write_log(
            state["history"]
        )  # the run may have been stopped after last.pt and before this
        print(f"resumed after epoch {state['epoch']}")
    return state


def train(team, model, average, criterion, optimizer, data, known, state, folder, config, args):
    """What all processes of a run do together, from its state to its test."""
    keep_memory()
    if config["images_on"] != "cpu":
        data["train"].hold(next(model.parameters()).device)
    for dataset in data.values():
        distributed.share_images(team, dataset)
    distributed.join(team, model)
    convolution.install(model, config["convolution"])
    fit(team, model, average, criterion, optimizer, data, known, state, folder, config, args)
    finish(team, model, data, folder, config, state, args)


def open_folder(experiment, args):
    """The folder of a run."""
    return RunFolder(args.runs / experiment / f"seed{args.seed}", args.resume)


def open_data(args, tasks):
    """The three splits as datasets of some tasks, the training one at growing sides."""
    size = contract.describe(args.data)["size"]
    sides = training_sides(args.epochs, size, args.sides)
    train = MTLDataset(
        args.data,
        "train",
        args.seed,
        args.augment,
        sides,
        args.limit,
        tasks,
        args.masks,
        args.scenes,
    )
    if min(sides) == 32 and min(args.batch_size, len(train)) == 1:
        raise InputError(
            "one image of 32 px a batch leaves batch normalisation a single value to normalise; use a larger "
            "--batch-size or larger images"
        )
    return {
        "train": train,
        "val": MTLDataset(args.data, "val", limit=args.limit, tasks=tasks),
        "test": MTLDataset(args.data, "test", limit=args.limit, tasks=tasks),
    }


def where_images_are(dataset, workers, images_on):
    """Where a dataset's images come from after the first epoch, in words."""
    gigabytes = dataset.store.bytes() / 1e9
    if images_on != "cpu":
        return f"held on the GPU and augmented there ({gigabytes:.1f} GB)"
    if workers:
        return f"read by {workers} processes"
    if dataset.fits_in_memory():
        return f"held in memory ({gigabytes:.1f} GB)"
    return f"read from the files every time, as {gigabytes:.1f} GB are over a quarter of the memory"


def fit(team, model, average, criterion, optimizer, data, known, state, folder, config, args):
    """Train for all epochs that are left, which `state` and the run folder tell of; what is
    measured and chosen is the average, where there is one."""
    kept = average.module if average else model
    part = team.rank, team.size
    workers = 0 if data["train"].held else args.workers
    train_loader = make_loader(
        data["train"], args.batch_size, shuffle=True, workers=workers, part=part
    )
    val_loader = make_loader(data["val"], args.batch_size, part=part)
    update = distributed.Update(team, named_parameters(model, criterion), optimizer)
    recorded = replay.recorder(model, criterion, args, config["precision"], team)
    view = (
        live.open_view(folder, state["history"], data["val"])
        if args.tensorboard and team.rank == 0
        else None
    )
    for epoch in range(state["epoch"], args.epochs):
        trained, seconds, images = train_one_epoch(
            model,
            criterion,
            update,
            train_loader,
            epoch,
            args,
            config["precision"],
            state["history"],
            average,
            recorded,
        )
        metrics, _ = evaluate(kept, val_loader, criterion, team)
        update.collect()
        row = {"epoch": epoch + 1, "side": data["train"].sides[epoch], **trained}
        row |= {f"val_{key}": value for key, value in metrics.items()}
        state["history"].append(row)
        if team.rank:
            continue
        if view:
            view.show(row, kept)
        state["epoch"] = epoch + 1
        state["train_seconds"] += seconds
        state["train_images"] += images
        # Should the run be stopped between the two files, the epoch is repeated and gives both
        # again. last.pt holds all of best.pt: damage to that costs nothing while last.pt or
        # previous.pt is whole.
        value = chooses(kept, metrics)
        if state["best_value"] is None or value > state["best_value"]:
            state["best_value"], state["best_epoch"] = value, epoch + 1
            state["best"] = network(kept, metrics, known, config, args)
            checkpoint.save(state["best"], folder.best_path)
        own = {"model": model, "criterion": criterion} | ({"average": average} if average else {})
        folder.save_last(
            {
                **{name: copy.deepcopy(part.state_dict()) for name, part in own.items()},
                "optimizer": optimizer.state_dict(),
                **state,
            }
        )  # copies, as parameters may be parts of shared memory
        folder.write_log(state["history"])
        print(
            f"epoch {epoch + 1}/{args.epochs}: loss {row['loss']:.4f}, {line(metrics, 'val ')}, {row['side']} px, "
            f"{seconds:.0f} s, {row['images_per_second']:.1f} images/s",
            flush=True,
        )
    if view:
        view.close()


def chooses(model, metrics):
    """What the checkpoint is chosen by, more is better: the first metric of the first task."""
    key, metric = next(iter(next(iter(model.task.values())).metrics.items()))
    return metrics[key] if metric.higher else -metrics[key]


def restore(path, parts, content):
    """Move the states that a checkpoint holds of some parts out of its content and into them."""
    try:
        for name, part in parts.items():
            part.load_state_dict(content.pop(name))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} does not fit this run ({contract.shorten(error)}); it is of another configuration or "
            "damaged, so delete the run folder and start again"
        ) from None


def network(model, metrics, known, config, args):
    """The content of a best.pt: a copy, which training does not change."""
    weights = {
        name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()
    }
    return {
        "model": weights,
        "tasks": list(model.tasks),
        "width": model.width,
        "sharing": model.sharing.name,
        "encoder": model.backbone.name,
        "beside": list(model.beside),
        "metrics": metrics,
        "experiment": config["experiment"],
        "seed": args.seed,
        "settings": config["settings"],
        **known,
        **{key: config[key] for key in ("size", "split_hash", "border")},
    }


def train_one_epoch(
    model,
    criterion,
    update,
    loader,
    epoch,
    args,
    precision,
    history=(),
    average=None,
    recorded=None,
):
    """One pass over the training split. update: distributed.Update of the parameters; history: the
    log's rows before it; average: an AveragedModel (averaging.py) that takes up every step;
    recorded: the network's passes (replay.py), or None.

    Returns (a dict for the log, seconds, number of images). The dict holds lr at the end; loss (the
    weighted total), train_loss_<task> (unweighted), gradient_norm (before it is clipped) and
    weight_<task>, where the weighting has such, all means over the epoch's batches; with
    --conflicts what conflicts.py says; what the sharing has learned; seconds, images_per_second and
    the share of the time that was spent waiting for data.
    """
    model.train(), criterion.train()
    device = next(model.parameters()).device
    total_steps, parameters, optimizer = (
        args.epochs * len(loader),
        update.parameters,
        update.optimizer,
    )
    sums, images, waited, compared, begin = (
        {},
        0,
        0.0,
        conflicts.Conflicts(model, args.conflicts),
        time.perf_counter(),
    )
    if recorded:
        recorded.prepare(loader.dataset.sides[epoch])
    with (
        contextlib.closing(batches(loader, epoch)) as source,
        progress(len(loader), f"epoch {epoch + 1}") as bar,
    ):
        for k in range(len(loader)):
            asked = time.perf_counter()
            batch = distributed.whole_batch(
                update.team, others.asked(criterion.teacher, next(source), precision)
            )
            waited += time.perf_counter() - asked
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(
                    epoch * len(loader) + k, total_steps, group.get("highest", args.lr)
                )
            seed_step(args.seed, epoch, k, device)
            criterion.begin_step(epoch, k, history)
            optimizer.zero_grad()
            total, losses = step(
                model, criterion, to(batch, device), precision, compared.look(k), recorded
            )
            weights = criterion.weights()
            values = {
                "loss": total.item(),
                **{f"train_loss_{task}": loss.item() for task, loss in losses.items()},
            }
            norm = update.average()
            refuse_divergence(values, norm, parameters, batch, loader.dataset, epoch)
            clip_grads_with_norm_(parameters.values(), MAX_GRADIENT_NORM, norm)
            optimizer.step()
            update.end()
            if average:
                average.update_parameters(model)
            values["gradient_norm"] = norm.item()
            values |= {f"weight_{task}": weight for task, weight in weights.items()}
            sums = {key: sums.get(key, 0.0) + value for key, value in values.items()}
            images += len(batch["row"])
            bar.update()
            bar.set_postfix(
                {
                    key.removeprefix("train_loss_"): f"{values[key]:.3f}"
                    for key in values
                    if "loss" in key
                }
            )
    seconds = time.perf_counter() - begin
    return (
        {
            "lr": optimizer.param_groups[0]["lr"],
            **{key: value / len(loader) for key, value in sums.items()},
            **compared.columns(),
            **model.sharing.values(model.encoder),
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 2),
            "waiting": round(waited / seconds, 4),
        },
        seconds,
        images,
    )


def finish(team, model, data, folder, config, state, args):
    """Calibrate the chosen checkpoint, test it once, and write and then draw what is left of the
    run folder."""
    dataset = data["test"]
    if team.rank == 0:
        restore(folder.last_path, {"model": model}, dict(state["best"]))
        state["best"]["calibration"] = calibrate(model, make_loader(data["val"], args.batch_size))
        checkpoint.set_temperatures(model.task, state["best"])
        checkpoint.save(
            state["best"], folder.best_path
        )  # and again, should it have been damaged: what is tested is what is kept
    distributed.align(team, model)
    metrics, measured = evaluate(
        model, make_loader(dataset, args.batch_size, part=(team.rank, team.size)), team=team
    )
    if team.rank:
        return
    folder.write_test(
        {
            "experiment": config["experiment"],
            "seed": args.seed,
            **metrics,
            "n_images": len(dataset),
            "epochs": args.epochs,
            "best_epoch": state["best_epoch"],
            "parameters": config["parameters"],
            "train_seconds": round(state["train_seconds"], 2),
            "images_per_second": round(state["train_images"] / state["train_seconds"], 2),
            **{key: config[key] for key in ("split_hash", "border", "size", "device", "precision")},
        },
        dataset.names,
        measured,
        model.task,
    )
    print(
        f"{config['experiment']}, seed {args.seed}: test {line(metrics)} (epoch {state['best_epoch']}, {len(dataset)} "
        f"images); {folder.path}"
    )
    folder.draw("curves.png", pictures.draw_curves, state["history"], model.task)
    folder.draw("mask.png", pictures.draw_masks, model, dataset)
    if args.conflicts:
        folder.draw("conflicts.png", conflicts.draw, state["history"], model.tasks)
