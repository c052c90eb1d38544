"""What comes before training: refuse what cannot be trained, write config.json, take up a run."""

import time

import torch

from cli import InputError
from data import contract
from dataloader_mtl import MTLDataset, Sampling
from models import count_parameters
from training import checks, dist, distill, kernels, leakage, optim
from training.conflicts import Conflicts
from training.devices import images_on, to_device
from training.evaluate import describe_data
from training.figures import Figures, draw_validation
from training.precision import autocast, choose_precision
from training.run_folder import environment
from training.tensorboard import TensorBoard

TRIAL_IMAGES = 4


def prepare(trainer):
    """Refuse what cannot be trained, write config.json, or take up an earlier start."""
    config, model, criterion = trainer.config, trainer.model, trainer.criterion
    fit_tasks(model.task.values(), config)
    trainer.data = open_data(config, model.task.values())
    train = trainer.data["train"]
    fewest = min(config.batch_size, len(train))
    trainer.processes, trainer.threads = dist.choose_processes(
        config.processes, config.threads, trainer.device, model, fewest
    )
    if trainer.threads:
        torch.set_num_threads(trainer.threads)
    labelled = checks.refuse_unteachable(train)
    checks.refuse_blind_choice(trainer.data["val"])
    trainer.callbacks = make_callbacks(config, trainer)
    trainer.known, init = leakage.fingerprints(train), None
    own = trainer.known
    if config.init:
        info, init = distill.start_from(config.init, model, trainer.data, own)
        trainer.known = leakage.join(trainer.known, info)
    if config.teacher:
        trainer.teacher = distill.Teacher(config.teacher, model, trainer.data, own)
        trainer.teacher.to(trainer.device)
        trainer.known = leakage.join(trainer.known, trainer.teacher.info)
    to_device(model, trainer.device)
    criterion.to(trainer.device)
    criterion.prepare(model)
    refuse_dead_parameters(trainer)
    record = trainer.folder.begin(describe(trainer, labelled, init))
    trainer.facts = record["run"]
    trainer.config = config = config.replace(precision=trainer.facts["precision"])
    trainer.optimizer = optim.make_optimizer(model, criterion, config)
    checks.refuse_untrained(criterion, trainer.optimizer)
    trainer.ema = optim.make_ema(model, config.ema)
    print_header(trainer)
    for split in ("val", "test"):
        checks.warn_of_unmeasured(trainer.data[split])
    trainer.resume()


def refuse_dead_parameters(trainer):
    """A trial step on images that hold a label of every task must reach all parameters."""
    model, criterion = checks.trial_copy(trainer.model, trainer.criterion)
    batch = checks.teaching_batch(trainer.data["train"], TRIAL_IMAGES, trainer.device)
    losses = criterion(model(batch["image"]), batch)
    criterion.backward(losses, model)
    if (penalty := model.penalty()) is not None:
        penalty.backward()
    checks.refuse_unreached(checks.named_parameters(model, criterion))


def describe(trainer, labelled, init):
    """The run's record: every option as given, and what was found, under `run`."""
    config, train = trainer.config, trainer.data["train"]
    precision = config.precision
    if not trainer.folder.has_begun():
        precision = choose_precision(precision, trainer.device, make_time_step(trainer))
    threads = torch.get_num_threads()
    needs = {need for task in trainer.model.task.values() for need in task.needs}
    convolution = kernels.choose(
        config.convolution, trainer.device, precision, threads * trainer.processes
    )
    facts = {
        "device": trainer.device.type,
        "precision": precision,
        "processes": trainer.processes,
        "threads": threads,
        "convolution": convolution,
        "images_on": images_on(train, trainer.device, config, trainer.processes),
        "parameters": count_parameters(trainer.model),
        "init_sha256": init,
        "teacher_sha256": trainer.teacher.sha256 if trainer.teacher else None,
        "encoder_weights_sha256": getattr(trainer.model.backbone, "weights_sha256", None),
        "settings": settings_of(trainer.model),
        "images": {split: len(dataset) for split, dataset in trainer.data.items()},
        "labelled": labelled,
        **describe_data(train),
        "label_digest": checks.label_digest(trainer.data, needs),
        **environment(trainer.device),
    }
    return {**config.to_json(), "run": facts}


def make_time_step(trainer):
    """A function of a precision that takes a step on copies and returns its seconds."""
    config = trainer.config
    epoch = len(trainer.data["train"].sampling.sizes) - 1  # at full size
    n = min(-(-config.batch_size // trainer.processes), 16)
    trial = []

    def time_step(precision):
        if not trial:  # only where precision is measured
            model, criterion = checks.trial_copy(trainer.model, trainer.criterion)
            batch = checks.trial_batch(trainer.data["train"], epoch, n, trainer.device)
            trial.extend((model, criterion, batch))
            kernels.install(model, "direct")
        model, criterion, batch = trial
        synchronize(trainer.device)
        begin = time.perf_counter()
        with autocast(trainer.device, precision):
            outputs = model(batch["image"])
        criterion.backward(criterion(outputs, batch), model)
        synchronize(trainer.device)
        return time.perf_counter() - begin

    return time_step


def print_header(trainer):
    config, facts = trainer.config, trainer.facts
    print(
        f"{config.experiment}, seed {config.seed}: {', '.join(config.tasks)}; "
        f"{config.weighting} weighting, {config.sharing} sharing, {config.encoder}"
    )
    print(
        f"{facts['images']['train']} training images of {facts['size']} px (border counts as "
        f"{facts['border']}), {config.epochs} epochs, {facts['parameters'] / 1e6:.2f} M parameters"
    )
    where = "held on the GPU"
    if facts["images_on"] == "cpu":
        fits = trainer.data["train"].fits_in_memory(trainer.processes)
        where = "held in memory" if fits else "read from the files"
        if config.workers:
            where = f"read by {config.workers} workers"
    print(
        f"{facts['device']}, {facts['precision']}, processes: {trainer.processes}, threads: "
        f"{facts['threads']}; images {where}",
        flush=True,
    )


def fit_tasks(tasks, config):
    """Fit tasks to the training split (class names, mean and std), but for those that are fitted.

    Must run before a model is built whose heads depend on it. Refuses two that measure the same.
    """
    tasks = list(tasks)
    unfitted = [task for task in tasks if not task.settings]
    if unfitted:
        dataset = MTLDataset(config.data, "train", None, Sampling(limit=config.limit))
        for task in unfitted:
            task.fit(dataset)
    owner = {}
    for task in tasks:
        for metric in task.metrics:
            other = owner.setdefault(metric, task)
            if other is not task:
                raise InputError(
                    f"the tasks {other.name} and {task.name} both measure {metric}; rename one, or "
                    "leave it out"
                )


def open_data(config, tasks):
    """{split: MTLDataset} of some tasks; the training split with augmentation and resizing."""
    tasks = list(tasks)
    size = contract.describe(config.data)["size"]
    sizes = optim.image_sizes(config.epochs, size, config.resize_schedule)
    sampling = Sampling(
        seed=config.seed,
        augment=config.augment,
        sizes=tuple(sizes),
        limit=config.limit,
        num_masks=config.num_masks,
        half_masked=config.half_masked,
        hard_augment=config.hard_augment,
    )
    train = MTLDataset(config.data, "train", tasks, sampling)
    if min(sizes) == 32 and min(config.batch_size, len(train)) == 1:
        raise InputError(
            "one image of 32 px a batch leaves batch normalisation a single value; use a larger "
            "--batch-size or larger images"
        )
    plain = Sampling(limit=config.limit)
    data = {split: MTLDataset(config.data, split, tasks, plain) for split in ("val", "test")}
    return {"train": train, **data}


def make_callbacks(config, trainer):
    """The callbacks that the options ask for; figures always."""
    callbacks = []
    if config.conflicts:
        callbacks.append(Conflicts(trainer.model, config.conflicts))
    if config.tensorboard:
        callbacks.append(TensorBoard(draw_validation))
    return [*callbacks, Figures()]


def settings_of(model):
    """{task: what it was fitted to} of the tasks that have such."""
    return {name: task.settings for name, task in model.task.items() if task.settings}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()
