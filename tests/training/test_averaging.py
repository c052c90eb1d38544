"""A moving average of the weights: by hand, what a run measures and keeps of it, resumption, several processes."""

import json

import pytest
import torch
from tiny import arguments, assert_same_weights, log, result, weights
from torch import nn

import train_mtl
from cli import InputError
from training import averaging, checkpoint, engine


def test_by_hand():
    model = nn.BatchNorm1d(1)
    average = averaging.start(model, 0.2)
    expected = 0.0
    for n, value in enumerate((4.0, 8.0, -2.0, 6.0)):
        with torch.no_grad():
            model.weight.fill_(value)
        model.running_mean.fill_(10 * value)
        model.num_batches_tracked += 1
        average.update_parameters(model)
        keeps = min((0, 2 / 11, 3 / 12, 4 / 13)[n], 0.2)  # the first step is taken as it is
        expected = keeps * expected + (1 - keeps) * value
        assert average.module.weight.item() == pytest.approx(expected, abs=1e-5)
        assert average.module.running_mean.item() == pytest.approx(10 * expected, abs=1e-4)
        assert average.module.num_batches_tracked == n + 1
    assert averaging.start(model, None) is None


@pytest.fixture(scope="module")
def averaged(data, no_pictures, tmp_path_factory):
    """(runs, the weights after each step) of a run with an average."""
    runs, steps = tmp_path_factory.mktemp("averaged"), []

    class Watched(averaging.AveragedModel):
        def update_parameters(self, model):
            steps.append({name: value.clone() for name, value in model.state_dict().items()})
            super().update_parameters(model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(averaging, "AveragedModel", Watched)
        train_mtl.main(arguments(data, runs, "--average", "0.3"))
    return runs, steps


def test_a_run_keeps_and_measures_the_average_and_trains_as_without(data, averaged, tmp_path):
    runs, steps = averaged
    train_mtl.main(arguments(data, tmp_path))
    assert_same_weights(weights(runs / "mtl/seed0"), weights(tmp_path / "mtl/seed0"))
    expected = steps[:1]
    for n, step in enumerate(steps[1:], 1):
        keeps = min(0.3, (1 + n) / (10 + n))
        expected.append(
            {
                name: keeps * expected[-1][name] + (1 - keeps) * value
                if value.is_floating_point()
                else value
                for name, value in step.items()
            }
        )
    last = torch.load(runs / "mtl/seed0/last.pt", weights_only=True)
    chosen = expected[last["best_epoch"] * len(steps) // 2 - 1]
    for name, value in expected[-1].items():
        torch.testing.assert_close(last["average"][f"module.{name}"], value)
        torch.testing.assert_close(weights(runs / "mtl/seed0", "best.pt")[name], chosen[name])
    trained, alone = log(runs / "mtl/seed0"), log(tmp_path / "mtl/seed0")
    assert [row["loss"] for row in trained] == [row["loss"] for row in alone]
    assert all(a["val_loss_seg"] != b["val_loss_seg"] for a, b in zip(trained, alone))
    assert json.loads((runs / "mtl/seed0/config.json").read_text())["options"]["average"] == 0.3


def test_a_run_that_was_killed_goes_on_with_its_average(data, averaged, tmp_path, monkeypatch):
    calls = []

    def step(*args, **kwargs):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    plain = engine.step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "step", step)
        train_mtl.main(arguments(data, tmp_path, "--average", "0.3"))
    train_mtl.main(arguments(data, tmp_path, "--average", "0.3", "--resume"))
    found, expected = tmp_path / "mtl/seed0", averaged[0] / "mtl/seed0"
    assert result(found) == result(expected) and log(found) == log(expected)
    for name in ("last.pt", "best.pt"):
        assert_same_weights(weights(found, name), weights(expected, name))
    assert_same_weights(
        *(
            torch.load(folder / "last.pt", weights_only=True)["average"]
            for folder in (found, expected)
        )
    )
    with pytest.raises(SystemExit):
        arguments(data, tmp_path, "--average", "1")


def test_two_processes_have_the_average_of_one_but_for_rounding(data, averaged, tmp_path):
    train_mtl.main(arguments(data, tmp_path, "--average", "0.3", "--processes", "2"))
    found, expected = (
        torch.load(runs / "mtl/seed0/last.pt", weights_only=True)["average"]
        for runs in (tmp_path, averaged[0])
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0.05, atol=0.02, msg=lambda text: f"{name}: {text}"
        )


def test_a_last_pt_is_the_network_of_the_last_epoch(data, averaged, tmp_path):
    folder = averaged[0] / "mtl/seed0"
    content = torch.load(folder / "last.pt", weights_only=True)
    model, info = checkpoint.load_model(folder / "last.pt")
    assert_same_weights(
        model.state_dict(),
        {
            name.removeprefix("module."): value
            for name, value in content["average"].items()
            if name.startswith("module.")
        },
    )
    assert info["metrics"] == info["calibration"] == {} and info["tasks"] == ["seg", "cls", "bbox"]
    assert torch.equal(info["trained_on"], content["trained_on"])
    train_mtl.main(arguments(data, tmp_path))
    assert_same_weights(
        checkpoint.load_model(tmp_path / "mtl/seed0/last.pt")[0].state_dict(),
        weights(tmp_path / "mtl/seed0"),
    )
    weights_of_both, _ = checkpoint.mean([folder / "last.pt", folder / "best.pt"])
    chosen = weights(folder, "best.pt")
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(weights_of_both[name], (value + chosen[name]) / 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"average": 3, "model": 3},
        {"average": {"module.seg": 1}},
        {"average": {}},
        {"best": {}},
        {"model": {"a": torch.zeros(2)}},
    ],
)
def test_a_last_pt_of_other_content_is_refused(averaged, tmp_path, wrong):
    content = torch.load(averaged[0] / "mtl/seed0/last.pt", weights_only=True)
    if "average" not in wrong:
        del content["average"]
    checkpoint.save(content | wrong, tmp_path / "last.pt")
    with pytest.raises(InputError, match="no checkpoint of this project|does not fit the network"):
        checkpoint.load_model(tmp_path / "last.pt")
