"""The network against a slow reference, by its signs and limits, and through its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from leakcache.errors import ConfigError, RunError, WeightsError
from leaknet.config import HeadConfig, LatentConfig
from leaknet.model.backbone import build_backbone, describe_patches
from leaknet.model.branch import BranchOutput, PrototypeHead, TemporalAttention
from leaknet.model.latent_branch import LatentBranch
from leaknet.model.protoleaknet import ProtoLeakNet
from tests.leaknet.tiny import (
    CLASSES,
    SHAPE,
    random_latents,
    tiny_config,
    tiny_latents,
    tiny_model,
    tiny_split,
)


def noise(count: int, steps: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, steps, *SHAPE, generator=torch.Generator().manual_seed(seed))


def outputs(branch: LatentBranch, z0: torch.Tensor, eps: torch.Tensor | None) -> BranchOutput:
    return branch.attribute(branch.features(z0, eps))


def run(branch: LatentBranch, count: int = 4) -> BranchOutput:
    return outputs(branch, random_latents(count), noise(count))


def logits(model: ProtoLeakNet) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny_split(4, "test")).logits


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_logits(model: LatentBranch, pooled: np.ndarray) -> np.ndarray:
    """One image at a time, in plain loops, from the formulas."""
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    tau = math.exp(state["head.log_temperature"])
    prototypes = state["head.prototypes"]
    logits = np.zeros((len(pooled), prototypes.shape[0]))
    for row, h in enumerate(pooled.astype(float)):
        affine = state["gate.linear.weight"] @ h + state["gate.linear.bias"]
        w = [sigmoid(value) for value in affine]
        for c, of_class in enumerate(prototypes):
            total = 0.0
            for p in of_class:
                d = sum(w[i] * (h[i] - p[i]) ** 2 for i in range(len(h)))
                total += math.exp(-d / tau)
            logits[row, c] = tau * math.log(total)
    return logits


@torch.no_grad()
def test_logits_are_those_of_the_slow_reference() -> None:
    model = tiny_latents().eval()
    model.head.log_temperature.fill_(math.log(2.0))
    output = run(model, 5)
    reference = slow_logits(model, output.embedding.numpy())
    np.testing.assert_allclose(output.logits.numpy(), reference, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_attention_is_that_of_the_equations() -> None:
    pool = TemporalAttention(6, attend=True, dropout=0.0)
    h = torch.randn(2, 3, 6)
    pooled, attention = pool(h)
    for row in range(2):
        weights = [
            math.exp(float(pool.query @ (pool.key.weight @ step + pool.key.bias)))
            for step in h[row]
        ]
        expected = torch.tensor(weights) / sum(weights)
        assert torch.allclose(attention[row], expected, atol=1e-5)
        assert torch.allclose(pooled[row], (expected[:, None] * h[row]).sum(0), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 5.0))
def test_the_class_of_the_nearest_prototype_wins(seed: int, temperature: float) -> None:
    torch.manual_seed(seed)
    head = PrototypeHead(dimension=6, classes=5, prototypes=3)
    with torch.no_grad():
        head.prototypes.mul_(50)
        head.log_temperature.fill_(math.log(temperature))
    target = int(torch.randint(5, ()))
    nearest = head.prototypes[target, int(torch.randint(3, ()))].detach()
    logits, distances = head(nearest[None], torch.ones(1, 6))
    assert int(logits.argmax()) == target
    assert int(distances.amin(dim=2).argmin()) == target
    assert distances.min() == 0


@torch.no_grad()
def test_temperature_stays_within_its_bounds_and_can_leave_them_again() -> None:
    head = PrototypeHead(4, 2, 2)
    for value, bound in ((-9.0, 0.5), (9.0, 5.0)):
        head.log_temperature.fill_(value)
        assert head.temperature == pytest.approx(bound)
        head.project()
        with torch.enable_grad():
            head(torch.randn(3, 4), torch.ones(3, 4))[0].sum().backward()
        assert head.log_temperature.grad is not None
        assert float(head.log_temperature.grad) != 0
        head.log_temperature.grad = None


def test_every_parameter_is_trained_and_the_features_are_saved() -> None:
    model = tiny_latents().train()
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.01)  # timm starts the last norm of each block at 0
    torch.nn.functional.cross_entropy(run(model).logits, torch.tensor([0, 1, 2, 0])).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # softmax ignores what is added to all steps alike, so the key's bias has no gradient.
    assert set(idle) <= {"attention.key.bias"}
    saved = set(model.state_dict())
    assert {
        "attention.query",
        "attention.key.weight",
        "features.latent.offset",
        "features.dct.signal",
    } <= saved


def test_without_attention_the_steps_are_averaged() -> None:
    model = tiny_latents("latents.attention=false")
    h = torch.randn(2, 3, 8)
    pooled, attention = model.attention(h)
    assert torch.allclose(pooled, h.mean(dim=1), atol=1e-6)
    assert torch.allclose(attention, torch.full((2, 3), 1 / 3))
    assert not [name for name in model.state_dict() if name.startswith("attention")]


def test_without_gate_all_features_count_alike() -> None:
    output = run(tiny_latents("head.gate=false").eval())
    assert (output.gate == 1).all()


def test_without_prototypes_the_head_is_linear() -> None:
    model = tiny_latents("head.prototypes=0").eval()
    output = run(model)
    expected = model.head.linear(output.embedding * output.gate)
    assert torch.allclose(output.logits, expected)
    assert output.distances.shape == (4, 3, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 0.99))
def test_time_dropout_leaves_a_step_and_only_acts_in_training(seed: int, chance: float) -> None:
    torch.manual_seed(seed)
    pool = TemporalAttention(4, attend=True, dropout=chance)
    h = torch.randn(32, 4, 4)
    _, attention = pool.train()(h)
    assert torch.allclose(attention.sum(dim=1), torch.ones(32))
    assert (attention == 0).any()
    assert (pool.eval()(h)[1] > 0).all()


@torch.no_grad()
def test_an_image_is_scored_alike_alone_and_in_a_batch() -> None:
    model = tiny_latents().eval()
    z0, eps = random_latents(6), noise(6)
    together = outputs(model, z0, eps)
    for row in range(6):
        alone = outputs(model, z0[row : row + 1], eps[row : row + 1])
        assert (alone.logits - together.logits[row]).abs().max() < 1e-4
        assert (alone.embedding - together.embedding[row]).abs().max() < 1e-4


@torch.no_grad()
def test_under_autocast_features_and_head_stay_in_single_precision() -> None:
    model = tiny_latents().eval()
    seen: list[torch.dtype] = []
    model.features.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    model.projection.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    z0, eps = random_latents(4), noise(4)
    with torch.autocast("cpu", torch.bfloat16):
        output = outputs(model, z0, eps)
    assert seen == [torch.float32, torch.bfloat16]
    assert output.logits.dtype == output.embedding.dtype == torch.float32
    exact = outputs(model, z0, eps)
    assert (output.logits - exact.logits).abs().max() < 0.1 * exact.logits.abs().max()


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 4), ("small", 16)])
def test_the_small_stem_keeps_the_resolution(stem: str, side: int) -> None:
    model = tiny_latents(f"latents.stem={stem}", "latents.backbone=resnet18").eval()
    sides: list[int] = []
    model.backbone.layer1.register_forward_hook(lambda *args: sides.append(args[1][0].shape[-1]))
    run(model, 1)
    assert sides == [side]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_residual_branches_take_part_from_the_first_step(name: str) -> None:
    backbone, _ = build_backbone(LatentConfig(backbone=name), channels=8, size=(32, 32))
    branches = [
        module.weight
        for path, module in backbone.named_modules()
        if path.endswith((".bn2", ".bn3"))
    ]
    assert branches
    assert all(weight.eq(1).all() for weight in branches)


def test_resnet18_of_the_paper_has_the_known_size() -> None:
    model = tiny_latents("latents.backbone=resnet18", "head.dimension=128")
    backbone = sum(p.numel() for p in model.backbone.parameters())
    # torchvision's ResNet-18 without its classifier, and five more input channels.
    assert backbone == 11_689_512 - 513_000 + 5 * 64 * 49


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("latents.backbone=resnet1888", "resnet1888"),
        ("latents.backbone=test_vit", "img_size|test_vit|16"),
    ],
)
def test_backbones_that_do_not_fit_are_refused(override: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        tiny_model(override, "latents.stem=small")


def test_absent_pretrained_weights_are_one_line() -> None:
    with pytest.raises(WeightsError, match=r"resnet18.*latents\.pretrained=false") as caught:
        tiny_model("latents.backbone=resnet18", "latents.pretrained=true")
    assert "\n" not in str(caught.value)


def test_a_vision_transformer_is_made_for_the_latents_size(tmp_path: Path) -> None:
    model = tiny_model("latents.backbone=test_vit").eval()
    words = "tokens: 1 (patches of 16×16, maps of 16×16)"
    assert describe_patches(model.latents.backbone, SHAPE[1:]) == words
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(ProtoLeakNet.from_pretrained(tmp_path)), logits(model))
    assert describe_patches(tiny_latents().backbone, SHAPE[1:]) == ""


def test_patches_larger_than_the_map_are_refused() -> None:
    config = tiny_config("latents.backbone=test_vit").latents
    with pytest.raises(ConfigError, match="no patch in maps of 8×8"):
        build_backbone(config, 8, (8, 8))


def test_models_never_published_with_weights_are_one_line() -> None:
    with pytest.raises(WeightsError, match=r"nf_resnet26.*latents\.pretrained=false"):
        tiny_model("latents.backbone=nf_resnet26", "latents.pretrained=true")


def test_a_saved_model_comes_back_equal(tmp_path: Path) -> None:
    model = tiny_model("head.gate=false", "latents.timesteps=0,50,400").eval()
    model.save_pretrained(tmp_path / "run")
    again = ProtoLeakNet.from_pretrained(tmp_path / "run")
    assert (again.config, again.classes, again.shape) == (model.config, CLASSES, SHAPE)
    assert not again.training
    assert torch.equal(logits(again), logits(model))


def test_loading_never_asks_the_hub_for_a_backbone(tmp_path: Path) -> None:
    model = tiny_model()
    config = model.config.with_overrides(["latents.pretrained=true"])
    model.config = config
    model.save_pretrained(tmp_path)
    assert ProtoLeakNet.from_pretrained(tmp_path).config == config


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut weights", "classes", "other"])
def test_damaged_folders_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "no config":
        (tmp_path / "config.toml").unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "classes":
        (tmp_path / "classes.json").write_text(json.dumps(["ada", "bob", "eve"]))
    else:
        state = load_file(weights)
        state["latents.gate.linear.bias"] = torch.zeros(9)
        save_file(state, weights, metadata={"leaknet": "{}"})
    with pytest.raises(RunError) as caught:
        ProtoLeakNet.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a run folder"):
        ProtoLeakNet.from_pretrained(tmp_path / "absent")


def test_the_default_model_is_the_papers() -> None:
    latents = LatentConfig()
    assert (latents.backbone, latents.stem, latents.pretrained) == ("resnet18", "imagenet", False)
    assert HeadConfig() == HeadConfig(dimension=128, prototypes=4, gate=True)
