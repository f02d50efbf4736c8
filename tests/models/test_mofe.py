"""The MoFE against its definition: exact copies at the start, routing by class token, weighted sum, −inf elsewhere."""

import pytest
import timm
import torch
from helpers import TINY, make_partition
from timm.models.vision_transformer import Block, ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mofe.errors import MofeError
from mofe.models import MoFE
from mofe.models import mofe as module
from mofe.models.groups import Groups


def shaken(model: MoFE) -> MoFE:
    """With experts, router and heads that differ."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in [*model.experts.parameters(), *model.router.parameters(), *model.heads.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_an_untrained_mofe_gives_the_backbones_embedding(backbone: VisionTransformer, depth: int, top_k: int) -> None:
    model = MoFE(backbone, make_partition([0, 1, 2, 0, 1]), depth, top_k).eval()
    torch.nn.init.normal_(model.router.weight)  # whatever the route
    images = torch.randn(6, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(
            model(images).embedding_BD, backbone.forward_features(images)[:, 0], atol=1e-6, rtol=0
        )


def test_the_given_backbone_is_left_alone(backbone: VisionTransformer) -> None:
    before = {name: w.clone() for name, w in backbone.state_dict().items()}
    shaken(MoFE(backbone, make_partition([0, 1])))
    assert len(backbone.blocks) == 3
    assert all(torch.equal(w, before[name]) for name, w in backbone.state_dict().items())


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_routing_and_weighted_sum_in_float64(backbone: VisionTransformer, depth: int, top_k: int) -> None:
    """Written from the equations, one image and one expert at a time."""
    model = shaken(MoFE(backbone, make_partition([0, 1, 2, 0, 1]), depth, top_k)).double()
    images = torch.randn(7, 3, 16, 16, dtype=torch.float64)
    with torch.inference_mode():
        # route() works in float32 by design; the reference uses the same router weights in float64
        model.route = lambda trunk: model.router(trunk)  # type: ignore[method-assign]
        model.classify = lambda embedding, expert: torch.stack(  # type: ignore[method-assign]
            [model.heads[e](f).max() for f, e in zip(embedding, expert, strict=True)]
        )
        output = model(images)
        for b in range(7):
            tokens = model.tokens(images[b : b + 1])
            p = torch.softmax(model.router.weight @ tokens[0, 0] + model.router.bias, 0)
            chosen = sorted(range(3), key=lambda e: -p[e].item())[:top_k]
            assert output.expert_B[b] == chosen[0]
            mixed = sum(p[e] * model.experts[e](tokens)[0, 0] for e in chosen) / sum(p[e] for e in chosen)
            torch.testing.assert_close(output.embedding_BD[b], model.norm(mixed), atol=1e-12, rtol=1e-9)


def test_logits_stand_at_the_classes_of_the_expert(backbone: VisionTransformer) -> None:
    partition = make_partition([0, 1, 2, 0, 1])
    model = shaken(MoFE(backbone, partition))
    images = torch.randn(9, 3, 16, 16)
    forced_B = torch.tensor([0, 1, 2] * 3)
    with torch.no_grad():
        output = model(images, forced_B)
    for b, expert in enumerate(forced_B.tolist()):
        own = partition.classes_of(expert)
        expected = model.heads[expert](output.embedding_BD[b])
        torch.testing.assert_close(output.logits[b, own], expected[:-1])
        torch.testing.assert_close(output.logits[b, -1], expected[-1])
        foreign = [c for c in range(5) if c not in own]
        assert torch.isneginf(output.logits[b, foreign]).all()


def test_one_expert_has_no_others_and_one_per_class_works(backbone: VisionTransformer) -> None:
    images = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        one = MoFE(backbone, make_partition([0, 0, 0])).eval()
        assert one.heads[0].out_features == 3
        logits = one(images).logits
        assert logits.shape == (4, 3 + 1)
        assert torch.isneginf(logits[:, -1]).all()
        each = MoFE(backbone, make_partition([0, 1, 2])).eval()(images)
        assert torch.isfinite(each.logits[:, :-1]).sum(dim=1).tolist() == [1] * 4


def test_an_empty_batch_has_a_defined_answer(backbone: VisionTransformer) -> None:
    with torch.inference_mode():
        assert MoFE(backbone, make_partition([0, 1])).eval()(torch.empty(0, 3, 16, 16)).embedding_BD.shape == (0, 24)


@pytest.mark.parametrize(("depth", "top_k"), [(0, 1), (3, 1), (1, 0), (1, 3)])
def test_bad_shapes_are_refused(backbone: VisionTransformer, depth: int, top_k: int) -> None:
    with pytest.raises(MofeError, match="must lie between"):
        MoFE(backbone, make_partition([0, 1]), depth, top_k)


def test_a_router_by_class_goes_to_the_expert_of_the_likeliest_class(backbone: VisionTransformer) -> None:
    clusters = [2, 0, 1, 0, 2]
    model = shaken(MoFE(backbone, make_partition(clusters), router="class"))
    images = torch.randn(12, 3, 16, 16)
    with torch.inference_mode():
        output = model(images)
        by_class_BC = model.router(output.trunk_BD)
    assert model.router.out_features == 5
    assert output.expert_B.tolist() == [clusters[c] for c in by_class_BC.argmax(dim=1).tolist()]
    for expert in range(3):
        own = [c for c, e in enumerate(clusters) if e == expert]
        torch.testing.assert_close(output.router_logits_BE[:, expert], by_class_BC[:, own].amax(dim=1))


def test_a_router_by_class_is_not_mixed_up_where_every_class_has_its_expert(backbone: VisionTransformer) -> None:
    model = shaken(MoFE(backbone, make_partition([1, 2, 0]), router="class"))
    with torch.inference_mode():
        output = model(torch.randn(8, 3, 16, 16))
        likeliest_B = model.router(output.trunk_BD).argmax(dim=1)
    assert output.expert_B.tolist() == [[1, 2, 0][c] for c in likeliest_B.tolist()]


SMALL = {"img_size": 28, "depth": 3, "embed_dim": 24, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("vit_small_patch14_dinov2", SMALL),  # LayerScale
        ("vit_small_patch14_dinov2", {**SMALL, "qk_norm": True}),  # its last block is run whole
        ("vit_small_patch14_reg4_dinov2", SMALL),  # register tokens, position embedding without class token
        ("vit_base_patch14_dinov2", {**SMALL, "dynamic_img_size": True}),
        ("vit_base_patch16_clip_224", {**SMALL, "img_size": 32}),  # norm before the blocks
        ("deit3_small_patch16_224", {**SMALL, "img_size": 32}),
        ("vit_tiny_r_s16_p8_224", {**SMALL, "img_size": 32, "patch_size": 2}),  # convolutional stem
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_vit_with_a_class_token_is_itself_before_training(name: str, args: dict[str, object]) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **args).eval()
    for parameter in backbone.parameters():  # LayerScale begins at 1e-5, which would hide the blocks
        torch.nn.init.normal_(parameter, std=0.2)
    model = MoFE(backbone, make_partition([0, 1, 1])).eval()
    sizes = [28, 42] if args.get("dynamic_img_size") else [args["img_size"]]
    for size in sizes:
        images = torch.randn(3, 3, size, size)
        with torch.inference_mode():
            torch.testing.assert_close(
                model(images).embedding_BD, backbone.forward_features(images)[:, 0], atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    ("kind", "args"), [(Block, {"qk_norm": True}), (Block, {"attn_drop": 0.5}), (ParallelScalingBlock, {})]
)
def test_a_last_block_of_another_kind_is_run_whole(
    backbone: VisionTransformer, kind: type[nn.Module], args: dict[str, object], depth: int
) -> None:
    model = MoFE(backbone, make_partition([0, 1, 2]), depth)
    for expert in model.experts:
        expert[-1] = kind(24, 3, **args)
    model = shaken(model).double()
    tokens = torch.randn(5, 7, 24, dtype=torch.float64)
    image_P, expert_P = torch.tensor([0, 4, 1, 3, 2, 4]), torch.tensor([2, 0, 2, 1, 0, 1])

    def answer(of: Tensor) -> list[Tensor]:
        return [of, *torch.autograd.grad(of.square().sum(), [*model.experts.parameters()])]

    whole = torch.stack([model.experts[e](tokens[i : i + 1])[0, 0] for i, e in zip(image_P, expert_P, strict=True)])
    found = model.run_experts(tokens, image_P, expert_P)
    for ours, theirs in zip(answer(found), answer(whole), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)
    if "attn_drop" in args:  # drawn in training
        model.train()
        once, again = (model.run_experts(tokens, image_P, expert_P) for _ in "ab")
        assert not torch.equal(once, again)


@pytest.mark.parametrize("fused", [True, False])
def test_fused_attention_or_not_is_the_same(backbone: VisionTransformer, fused: bool) -> None:
    for block in backbone.blocks:
        block.attn.fused_attn = fused
    images = torch.randn(3, 3, 16, 16)
    model = MoFE(backbone, make_partition([0, 1])).eval()
    with torch.inference_mode():
        assert all(block.attn.fused_attn == fused for expert in model.experts for block in expert)
        torch.testing.assert_close(model(images).embedding_BD, backbone.forward_features(images)[:, 0])


@pytest.mark.parametrize("depth", [1, 2])
def test_one_expert_is_a_backbone_again(backbone: VisionTransformer, depth: int) -> None:
    model = shaken(MoFE(backbone, make_partition([0, 0]), depth))
    images = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model.as_backbone().forward_features(images)[:, 0], model(images).embedding_BD)
    with pytest.raises(MofeError, match="2 experts"):
        MoFE(backbone, make_partition([0, 1])).as_backbone()


def test_router_and_heads_begin_small_and_without_bias(backbone: VisionTransformer) -> None:
    torch.manual_seed(0)
    model = MoFE(backbone, make_partition([0, 1] * 200), router="class")
    for linear in (model.router, *model.heads):
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert abs(linear.weight.mean().item()) < 1e-3
        assert not linear.bias.any()
    assert [head.out_features for head in model.heads] == [201, 201]
    assert MoFE(backbone, make_partition([0, 1, 1])).router.out_features == 2


def test_what_the_partition_says_is_not_among_the_weights(backbone: VisionTransformer) -> None:
    """Or a file of weights would overrule the partition."""
    for router in ("cluster", "class"):
        model = MoFE(backbone, make_partition([0, 1, 1]), router=router)  # type: ignore[arg-type]
        assert model.state_dict().keys() == dict(model.named_parameters()).keys()


def test_router_and_heads_are_computed_in_float32_whatever_the_rest(backbone: VisionTransformer) -> None:
    model = shaken(MoFE(backbone, make_partition([0, 1, 2, 0])))
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(torch.randn(5, 3, 16, 16))
        router = model.router(output.trunk_BD.float())
        heads = [model.heads[e](f.float()) for e, f in zip(output.expert_B, output.embedding_BD, strict=True)]
    assert output.router_logits_BE.dtype == output.logits.dtype == torch.float32
    torch.testing.assert_close(output.router_logits_BE, router, rtol=0, atol=1e-6)
    for logits, head in zip(output.logits, heads, strict=True):
        torch.testing.assert_close(logits[logits.isfinite()], head, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_the_heads_of_the_backbone_are_dropped(name: str) -> None:
    backbone = timm.create_model(name, num_classes=5, **TINY)
    assert any("head" in weight for weight in backbone.state_dict())
    assert not any("head" in weight for weight in MoFE(backbone, make_partition([0, 1])).trunk.state_dict())


def test_the_router_has_an_output_for_each_expert_or_for_each_class(backbone: VisionTransformer) -> None:
    clusters = [2, 0, 1, 0, 2]
    assert MoFE(backbone, make_partition(clusters)).router_output_of_class_C.tolist() == clusters
    by_class = MoFE(backbone, make_partition(clusters), router="class")
    assert by_class.router_output_of_class_C.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_last_block_costs_what_the_class_token_costs(backbone: VisionTransformer, depth: int) -> None:
    """Fewer operations than attention's key and value weights on every token, on top of the blocks before the last."""
    model, tokens = MoFE(backbone, make_partition([0, 1]), depth), torch.randn(4, 50, 24)
    image_P, expert_P = torch.arange(4), torch.tensor([0, 1, 1, 0])
    with FlopCounterMode(display=False) as short, torch.inference_mode():
        model.run_experts(tokens, image_P, expert_P)
    with FlopCounterMode(display=False) as before, torch.inference_mode():
        for block in model.experts[0][:-1]:
            block(tokens)
    assert short.get_total_flops() - before.get_total_flops() < 4 * 2 * 50 * 2 * 24**2


@pytest.mark.parametrize(("depth", "suits", "sized"), [(1, True, False), (1, False, True), (2, True, True)])
def test_the_host_learns_the_sizes_of_the_groups_where_it_runs_whole_blocks_or_no_kernel_suits(
    backbone: VisionTransformer, depth: int, suits: bool, sized: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    of = Groups.of

    def group(expert_P: Tensor, experts: int, device: torch.device, *, sized: bool = True) -> Groups:
        asked.append(sized)
        return of(expert_P, experts, device)

    monkeypatch.setattr(module, "one_kernel_suits", lambda _: suits)
    monkeypatch.setattr(Groups, "of", group)
    MoFE(backbone, make_partition([0, 1]), depth)(torch.randn(3, 3, 16, 16))
    assert asked == [sized]


def test_whoever_keeps_the_trunks_embedding_does_not_keep_all_tokens(backbone: VisionTransformer) -> None:
    with torch.inference_mode():
        trunk_BD = MoFE(backbone, make_partition([0, 1])).eval()(torch.randn(3, 3, 16, 16)).trunk_BD
    assert trunk_BD.untyped_storage().nbytes() == 3 * 24 * 4


def test_no_pair_is_no_embedding(backbone: VisionTransformer) -> None:
    model = MoFE(backbone, make_partition([0, 1]))
    nothing = torch.empty(0, dtype=torch.int64)
    assert model.run_experts(torch.randn(2, 5, 24), nothing, nothing).shape == (0, 24)


def test_the_backbone_made_of_one_expert_is_a_copy(backbone: VisionTransformer) -> None:
    model = MoFE(backbone, make_partition([0, 0])).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        before = model(images).embedding_BD
        for parameter in model.as_backbone().parameters():
            parameter.zero_()
        torch.testing.assert_close(model(images).embedding_BD, before, rtol=0, atol=0)


def test_every_block_of_the_trunk_is_compiled_once_for_each_size(
    backbone: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MoFE(backbone, make_partition([0, 1]))
    compiled: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiled.append((module, options)))
    model.compile_trunk()
    assert compiled == [(block, {"dynamic": False}) for block in model.trunk.blocks]


def test_limits_of_depth_and_top_k_are_said(backbone: VisionTransformer) -> None:
    with pytest.raises(MofeError, match=r"depth = 3 must lie between 1 and 2$"):
        MoFE(backbone, make_partition([0, 1]), 3)
    with pytest.raises(MofeError, match=r"top_k = 3 must lie between 1 and num_experts = 2$"):
        MoFE(backbone, make_partition([0, 1]), 1, 3)
    model = MoFE(backbone, make_partition([0, 1]), 2, 2)
    assert (model.depth, model.top_k, model.num_experts, model.num_classes, model.dim) == (2, 2, 2, 2, 24)
    default = MoFE(backbone, make_partition([0, 1]))
    assert (default.depth, default.top_k, default.routes_by_class) == (1, 1, False)
