"""Backbones: what timm says of them, weights from files and URIs, and models that cannot carry a MoFE."""

import hashlib
from pathlib import Path

import fsspec
import numpy as np
import open_clip
import pytest
import timm
import torch
from helpers import TINY
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save, save_file
from sklearn.datasets import load_sample_images
from timm.data import resolve_model_data_config
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, PILToTensor, Resize

from mofe.data.loader import evaluation_transform, normalised
from mofe.errors import MofeError
from mofe.models import create_backbone, describe_backbone
from mofe.models.weights import local_weights

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return timm.create_model(NAME, num_classes=5, **TINY).state_dict()


def assert_has(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(w, state[name]) for name, w in model.state_dict().items())


def test_weights_from_a_local_file_with_a_head_of_its_own(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert_has(create_backbone(describe_backbone(NAME, TINY, str(tmp_path / "w.safetensors"))), state)


def test_relative_weights_are_found_from_another_folder(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    spec = describe_backbone(NAME, TINY, "w.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_has(create_backbone(spec), state)


def test_relative_weights_are_found_in_a_project_that_was_moved(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    save_file(state, project / "w.safetensors")
    monkeypatch.chdir(project)
    spec = describe_backbone(NAME, TINY, "w.safetensors")
    assert (spec.weights, spec.weights_place) == ("w.safetensors", str(project / "w.safetensors"))
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    assert_has(create_backbone(spec), state)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MofeError, match=f"there is no weights file at {project}/w.safetensors"):
        create_backbone(spec)


def test_weights_that_were_replaced_are_not_taken_for_the_same(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    spec = describe_backbone(NAME, TINY, str(tmp_path / "w.safetensors"))
    save_file({name: w + 1 for name, w in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(MofeError, match=r"w\.safetensors are not those that features were extracted with"):
        create_backbone(spec)


def test_weights_from_a_plain_torch_file(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "w.pth")
    assert_has(create_backbone(describe_backbone(NAME, TINY, str(tmp_path / "w.pth"))), state)


def test_weights_from_an_object_store(state: dict[str, torch.Tensor]) -> None:
    with fsspec.open("memory://bucket/w.safetensors", "wb") as file:
        file.write(save(state))
    assert_has(create_backbone(describe_backbone(NAME, TINY, "memory://bucket/w.safetensors")), state)


def test_random_weights_are_always_the_same_and_leave_the_generator_alone() -> None:
    spec = describe_backbone(NAME, TINY, "random")
    torch.manual_seed(3)
    first = create_backbone(spec)
    after = torch.rand(())
    torch.manual_seed(3)
    assert torch.rand(()) == after
    assert_has(create_backbone(spec), first.state_dict())


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"blocks": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(MofeError, match="do not fit"):
        create_backbone(describe_backbone(NAME, TINY, str(tmp_path / "evil.pth")))
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_depth_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    for depth, reason in ((2, r"12 unexpected: blocks\.2\."), (4, r"12 missing: blocks\.3\.")):
        with pytest.raises(MofeError, match=rf"w\.safetensors do not fit {NAME}: .*{reason}"):
            create_backbone(describe_backbone(NAME, {**TINY, "depth": depth}, str(tmp_path / "w.safetensors")))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MofeError, match="no weights file at"):
        create_backbone(describe_backbone(NAME, TINY, str(tmp_path / "none.safetensors")))


def test_preprocessing_is_the_backbones_own() -> None:
    clip = describe_backbone("vit_base_patch16_clip_224.openai", {}).preprocessing
    assert clip.image_size == 224
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    dino = describe_backbone("vit_small_patch14_dinov2.lvd142m", {"img_size": 224}).preprocessing
    assert (dino.image_size, dino.interpolation) == (224, "bicubic")
    overlay = {"mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    own = describe_backbone(NAME, {**TINY, "pretrained_cfg_overlay": overlay}).preprocessing
    assert (own.mean, own.crop_fraction, own.image_size) == ((0.1, 0.2, 0.3), 0.5, 16)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("resnet18", {}, "is a ResNet"),
        ("vit_base_patch16_siglip_224", {}, "no class token"),
        (NAME, {**TINY, "global_pool": "avg"}, r"no class token to route by \(pooling 'avg'\)"),
        ("nonsense_9", {}, "timm does not have the model 'nonsense_9'"),
        (NAME, {"wheels": 4}, r"backbone_args \{'wheels': 4\} do not suit"),
        (NAME, {"img_size": -32}, r"backbone_args \{'img_size': -32\} do not suit .*Expected a positive image size"),
        (NAME, {**TINY, "num_heads": 5}, "do not suit .*dim should be divisible by num_heads"),
        (NAME, {"patch_size": 0}, "do not suit .*ZeroDivisionError"),
        (NAME, {**TINY, "embed_dim": -24}, "do not suit .*RuntimeError: .*negative dimension"),
    ],
)
def test_what_cannot_carry_a_mofe_is_refused(name: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        describe_backbone(name, args)


@pytest.mark.parametrize("name", ["facebook/dinov2-base", "google/vit-base-patch16-224"])
def test_a_repository_of_the_hub_is_recognised(name: str) -> None:
    words = rf"timm does not have the model '{name}'; it has, for example, \w+.*is named hf-hub:{name}$"
    with pytest.raises(MofeError, match=words):
        describe_backbone(name, {})


def test_a_backbone_of_one_block_is_refused_as_that() -> None:
    with pytest.raises(MofeError, match=r"the backbone has 1 block: .* take a backbone with two or more"):
        describe_backbone(NAME, {**TINY, "depth": 1})


@pytest.mark.parametrize("channels", [1, 4])
def test_a_backbone_that_does_not_take_rgb_is_refused(channels: int) -> None:
    words = rf"does not take RGB images of 3 × 16 × 16: it takes {channels} channels; leave in_chans out"
    with pytest.raises(MofeError, match=words):
        describe_backbone(NAME, {**TINY, "in_chans": channels})


@pytest.mark.parametrize("depth", [0, 3])
def test_depth_is_checked(depth: int) -> None:
    with pytest.raises(MofeError, match="mofe_depth"):
        describe_backbone(NAME, TINY, depth=depth)


def test_a_model_of_the_hub_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real path through timm, with the one function that talks to the hub replaced."""

    def from_hub(address: str, **more: object) -> tuple[dict[str, object], str, dict[str, object]]:
        assert address == "someone/tiny-vit"
        return {"input_size": (3, 16, 16), "mean": (0.1, 0.1, 0.1)}, NAME, dict(TINY)

    monkeypatch.setattr("timm.models._factory.load_model_config_from_hf", from_hub)
    spec = describe_backbone("hf-hub:someone/tiny-vit", {}, "random")
    assert spec.preprocessing.mean == (0.1, 0.1, 0.1)
    assert len(create_backbone(spec).blocks) == 3


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._factory.load_model_config_from_hf", no_network)
    with pytest.raises(MofeError, match=r"hf-hub:someone/vit could not be fetched .*no route to host.*give a file"):
        describe_backbone("hf-hub:someone/vit", {})


def test_the_description_says_what_was_asked_for_and_what_timm_says(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    save_file(state, tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    found = describe_backbone(NAME, TINY, weights, "the digest", depth=2)
    config = resolve_model_data_config(timm.create_model(NAME, **TINY))
    assert found.model_dump() == {
        "name": NAME,
        "args": TINY,
        "weights": weights,
        "weights_place": weights,
        "weights_digest": "the digest",
        "weights_sha256": hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest(),
        "depth": 2,
        "preprocessing": {
            "image_size": 16,
            "mean": config["mean"],
            "std": config["std"],
            "interpolation": config["interpolation"],
            "crop_fraction": config["crop_pct"],
        },
    }
    for weights in ("", "random"):
        found = describe_backbone(NAME, TINY, weights)
        assert (found.weights, found.weights_digest, found.weights_sha256, found.depth) == (weights, "", "", 1)


def test_only_square_images_are_supported() -> None:
    with pytest.raises(MofeError, match="takes images of 16 × 32; only square ones are supported"):
        describe_backbone(NAME, {**TINY, "img_size": (16, 32)})


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
@pytest.mark.parametrize("load_weights", [True, False])
def test_stochastic_depth_rises_linearly_from_zero_at_the_first_block(drop_path: float, load_weights: bool) -> None:
    spec = describe_backbone(NAME, TINY, "random")
    rates = [
        getattr(block.drop_path1, "drop_prob", 0.0)
        for block in create_backbone(spec, load_weights=load_weights, drop_path=drop_path).blocks
    ]
    assert rates == pytest.approx([0.0, drop_path / 2, drop_path])
    assert not any(getattr(block.drop_path1, "drop_prob", 0.0) for block in create_backbone(spec).blocks)


def test_weights_that_will_be_overwritten_are_not_looked_for(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    spec = describe_backbone(NAME, TINY, str(tmp_path / "w.safetensors"))
    (tmp_path / "w.safetensors").unlink()
    random = create_backbone(describe_backbone(NAME, TINY, "random"))
    assert_has(create_backbone(spec, load_weights=False), random.state_dict())


def test_without_weights_of_ones_own_they_are_timms_pretrained_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, dict[str, object]]] = []
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **args: object) -> torch.nn.Module:
        made.append((name, {"pretrained": pretrained, **args}))
        return create(name, **args)

    monkeypatch.setattr(timm, "create_model", create_model)
    spec = describe_backbone(NAME, TINY)
    create_backbone(spec, drop_path=0.25)
    create_backbone(spec, load_weights=False)
    asked = {"num_classes": 0, **TINY}
    assert made == [
        (NAME, {"pretrained": False, **asked}),
        (NAME, {"pretrained": True, **asked, "drop_path_rate": 0.25}),
        (NAME, {"pretrained": False, **asked, "drop_path_rate": 0.0}),
    ]


def test_weights_without_a_digest_to_compare_with_are_taken(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    spec = describe_backbone(NAME, TINY, str(tmp_path / "w.safetensors")).model_copy(update={"weights_sha256": ""})
    assert_has(create_backbone(spec), state)


def test_pretrained_weights_that_cannot_be_fetched_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(*_: object, pretrained: bool = False, **__: object) -> None:
        assert pretrained
        raise OSError("no route to host")

    spec = describe_backbone(NAME, TINY)
    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(MofeError, match=rf"pre-trained weights of {NAME} could not be fetched \(OSError: no route"):
        create_backbone(spec)


@pytest.mark.parametrize("name", ["resnet_nonsense.x", "resnet.nonsense"])
def test_models_of_a_like_name_are_offered(name: str) -> None:
    names = ", ".join(timm.list_models("*resnet*")[:3])
    with pytest.raises(MofeError, match=rf"timm does not have the model '{name}'; it has, for example, {names}$"):
        describe_backbone(name, {})


def test_no_models_are_offered_where_none_has_a_like_name() -> None:
    with pytest.raises(MofeError, match=r"timm does not have the model 'nonsense_9'$"):
        describe_backbone("nonsense_9", {})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_file_of_weights_is_read_where_it_is_or_from_a_copy_that_goes_away(
    tmp_path: Path, suffix: str, remote: bool
) -> None:
    content = save({"w": torch.ones(1)}) if suffix == ".safetensors" else b"weights"
    uri = f"memory://weights/w{suffix}" if remote else str(tmp_path / f"w{suffix}")
    with fsspec.open(uri, "wb") as file:
        file.write(content)
    with local_weights(uri) as local:
        assert local.read_bytes() == content
        assert local.name == f"w{suffix}"
        assert (local == tmp_path / f"w{suffix}") is not remote
    assert local.exists() is not remote


@pytest.mark.parametrize("name", ["w.ckpt", "w.npz", "safetensors", "w.pth.gz"])
def test_files_of_other_kinds_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with (
        pytest.raises(MofeError, match=r"expected a \.safetensors file, or a \.pth, \.pt or \.bin of plain tensors"),
        local_weights(str(tmp_path / name)),
    ):
        pass


RNG = np.random.default_rng(3)
SMOOTH = [
    Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    for size in ((300, 300), (640, 480), (375, 500), (97, 130), (900, 300))
]
IMAGES = [*SMOOTH, *map(Image.fromarray, load_sample_images().images)]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.size))
def test_clip_sees_what_open_clip_shows_it(image: Image.Image) -> None:
    """All bytes but one in 10 000 within 1 of 255: torch rounds a resize's weights to 16 bits, Pillow to 22."""
    config = open_clip.get_pretrained_cfg("ViT-B-16", "openai")
    given = {name: config[name] for name in ("mean", "std", "interpolation", "resize_mode")}
    theirs = image_transform_v2(PreprocessCfg(size=224, **given), is_train=False)
    preprocessing = describe_backbone("vit_base_patch16_clip_quickgelu_224.openai", {}).preprocessing
    ours_CHW = normalised(evaluation_transform(preprocessing)(image)[None], preprocessing)[0]
    apart_CHW = (ours_CHW - theirs(image)).abs() * 255 * torch.tensor(preprocessing.std)[:, None, None]
    assert ours_CHW.shape == (3, 224, 224)
    assert apart_CHW.max() < 2.01
    assert (apart_CHW > 1.01).float().mean() < 1e-4
    assert (apart_CHW > 0.01).float().mean() < 0.01


@pytest.mark.parametrize("name", ["vit_base_patch14_dinov2.lvd142m", "vit_small_patch14_reg4_dinov2.lvd142m"])
@pytest.mark.parametrize("image", IMAGES, ids=lambda image: str(image.size))
def test_dinov2_sees_what_its_evaluation_shows_it(image: Image.Image, name: str) -> None:
    """``make_classification_eval_transform`` of DINOv2: resize to 256, bicubic, then the 224 in the middle."""
    theirs = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224), PILToTensor()])
    preprocessing = describe_backbone(name, {"img_size": 224}).preprocessing
    assert (preprocessing.mean, preprocessing.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    apart_CHW = (evaluation_transform(preprocessing)(image).int() - theirs(image).int()).abs()
    assert apart_CHW.shape == (3, 224, 224)
    assert apart_CHW.max() <= 2
    assert (apart_CHW > 1).float().mean() < 1e-4
    assert (apart_CHW > 0).float().mean() < 0.01


@pytest.mark.parametrize(
    ("name", "args", "fraction"),
    [
        ("vit_base_patch32_clip_224.openai", {}, 1.0),
        ("vit_base_patch32_clip_224.openai", {"pretrained_cfg_overlay": {"crop_pct": 0.9}}, 0.9),
        ("vit_base_patch32_clip_224.openai", {"pretrained_cfg_overlay": {"mean": (0.5, 0.5, 0.5)}}, 1.0),
        ("vit_base_patch16_clip_224.openai_ft_in12k_in1k", {}, 0.95),
        ("vit_base_patch14_dinov2.lvd142m", {"pretrained_cfg_overlay": {"crop_pct": 1.0}}, 1.0),
        ("vit_base_patch16_224.dino", {}, 0.9),
    ],
)
def test_only_published_weights_have_their_authors_crop(name: str, args: dict[str, object], fraction: float) -> None:
    assert describe_backbone(name, args).preprocessing.crop_fraction == fraction
