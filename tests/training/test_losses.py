"""The losses against float64 references written from the equations, one image at a time."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import make_partition
from timm.models.vision_transformer import VisionTransformer

from mofe.models import MoFE
from mofe.training import expert_loss, route_loss
from mofe.training.losses import embedding_norm, expert_targets, pairs_with_negatives, router_targets
from mofe.training.mixup import Mixed
from mofe.training.step import Pairs, TrainingStep, losses_of

CLUSTERS = [0, 1, 2, 0, 1, 0]


def reference_cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    logits = np.asarray(logits, np.float64)
    log_sum = math.log(sum(math.exp(x - logits.max()) for x in logits)) + logits.max()
    return -sum(t * (x - log_sum) for x, t in zip(logits, target, strict=True))


def test_route_loss_is_soft_cross_entropy_over_clusters() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3))
    a, b, lam = [0, 1, 2, 3, 4], [1, 0, 5, 2, 3], rng.uniform(0.5, 1, 5)
    total = 0.0
    for i in range(5):
        target = np.zeros(3)
        target[CLUSTERS[a[i]]] += lam[i]
        target[CLUSTERS[b[i]]] += 1 - lam[i]
        total += reference_cross_entropy(logits[i], target)
    targets = router_targets(torch.tensor(CLUSTERS), torch.tensor(a), torch.tensor(b), torch.from_numpy(lam), 3)
    assert route_loss(torch.from_numpy(logits), targets.float()).item() == pytest.approx(total / 5, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_expert_loss_with_others_and_soft_targets(backbone: VisionTransformer, smoothing: float) -> None:
    """The whole loss of a batch, from embeddings, against a loop over pairs."""
    partition = make_partition(CLUSTERS)
    model = MoFE(backbone, partition)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.heads[0].weight)
    a = torch.tensor([0, 1, 2, 3, 4, 5, 0, 3])
    b = torch.tensor([1, 0, 0, 5, 2, 4, 2, 1])
    lam = torch.rand(8) / 2 + 0.5
    image_P, expert_P = pairs_with_negatives(torch.tensor(CLUSTERS)[a], torch.Generator().manual_seed(0))
    embedding_PD = torch.randn(len(image_P), 24)
    batch = Mixed(torch.empty(8), a, b, lam)
    with torch.no_grad():
        losses = losses_of(
            model,
            torch.randn(8, 3),
            Pairs(embedding_PD, image_P, expert_P),
            batch,
            regulariser="label-smoothing" if smoothing else "none",
            weight=smoothing,
        )
        total = 0.0
        for p, (i, e) in enumerate(zip(image_P.tolist(), expert_P.tolist(), strict=True)):
            own = partition.classes_of(e)
            target = np.zeros(len(own) + 1)
            for label, weight in ((a[i].item(), lam[i].item()), (b[i].item(), 1 - lam[i].item())):
                target[own.index(label) if label in own else len(own)] += weight
            target = target * (1 - smoothing) + smoothing / len(target)
            total += reference_cross_entropy(model.heads[e].double()(embedding_PD[p].double()).numpy(), target)
            model.heads[e].float()
    assert losses.expert.item() == pytest.approx(total / len(image_P), rel=1e-5)


def test_expert_loss_averages_over_images_not_experts() -> None:
    nothing = -math.inf
    logits_PQ = torch.tensor([[0, 0, nothing, nothing, nothing, nothing]] * 3 + [[nothing, nothing, 0, 0, 0, 0]])
    targets_PQ = torch.eye(6)[[0, 1, 0, 2]]
    assert expert_loss(logits_PQ, targets_PQ).item() == pytest.approx((3 * math.log(2) + math.log(4)) / 4)
    assert expert_loss(logits_PQ[:0], targets_PQ[:0]).item() == 0


def test_targets_of_an_only_expert_have_no_others(backbone: VisionTransformer) -> None:
    model, nothing = MoFE(backbone, make_partition([0, 0, 0])), torch.zeros(2, dtype=torch.int64)
    a_P, b_P = (model.output_for(torch.tensor(labels), nothing) for labels in ([0, 2], [1, 2]))
    targets = expert_targets(a_P, b_P, torch.tensor([0.7, 0.6]), model.expert_of_output_Q == nothing[:, None])
    torch.testing.assert_close(targets, torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]]))


def test_an_expert_learns_nothing_from_outputs_of_others() -> None:
    logits_PQ = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    (gradient_PQ,) = torch.autograd.grad(expert_loss(logits_PQ, torch.tensor([[0.7, 0.3, 0.0]])), logits_PQ)
    expected = torch.tensor([1.0, 2.0]).softmax(dim=0) - torch.tensor([0.7, 0.3])
    torch.testing.assert_close(gradient_PQ, torch.cat([expected, torch.zeros(1)])[None])


def test_what_means_a_class_to_an_expert(backbone: VisionTransformer) -> None:
    model = MoFE(backbone, make_partition([0, 1, 0]))  # outputs: classes 0, 2, others; class 1, others
    classes, experts = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert model.output_for(classes, experts).tolist() == [0, 2, 1, 4, 3, 4]
    assert model.expert_of_output_Q.tolist() == [0, 0, 0, 1, 1]
    alone = MoFE(backbone, make_partition([0, 0, 0]))
    assert alone.output_for(classes[:3], experts[:3]).tolist() == [0, 1, 2]


def test_embedding_norm_is_the_mean_squared_norm() -> None:
    assert embedding_norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).item() == pytest.approx(13.0)


def test_every_expert_gets_its_own_and_as_many_others() -> None:
    cluster_B = torch.tensor([0, 0, 1, 0, 1, 1, 3, 0])  # expert 2 has none
    image_P, expert_P = pairs_with_negatives(cluster_B, torch.Generator().manual_seed(1))
    assert image_P[:8].tolist() == list(range(8))
    assert expert_P[:8].tolist() == cluster_B.tolist()
    for expert in range(4):
        given = image_P[expert_P == expert]
        own = cluster_B[given] == expert
        assert own.sum() == (cluster_B == expert).sum()
        assert (~own).sum() == min(own.sum(), (cluster_B != expert).sum())
        assert len(set(given.tolist())) == len(given)


def test_negatives_are_fewer_only_where_the_batch_has_fewer() -> None:
    image_P, expert_P = pairs_with_negatives(torch.tensor([0, 0, 0, 1]), torch.Generator())
    assert ((expert_P == 0) & (image_P == 3)).sum() == 1
    assert (expert_P == 0).sum() == 4
    alone, experts = pairs_with_negatives(torch.tensor([1, 1]), torch.Generator())
    assert (alone.tolist(), experts.tolist()) == ([0, 1], [1, 1])


def test_negatives_are_drawn_from_everywhere() -> None:
    cluster_B = torch.tensor([0] + [1] * 20)
    generator = torch.Generator().manual_seed(0)
    drawn = set()
    for _ in range(400):
        image_P, expert_P = pairs_with_negatives(cluster_B, generator)
        drawn |= {i for i, e in zip(image_P.tolist(), expert_P.tolist(), strict=True) if e == 0}
    assert drawn == set(range(21))


def test_negatives_count_by_their_weight(backbone: VisionTransformer) -> None:
    """Own images 1, images of other clusters 0.1, over as many images as with weight 1."""
    model = MoFE(backbone, make_partition([0, 1]))
    labels = torch.tensor([0, 0, 1])
    image_P, expert_P = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([0, 0, 1, 0, 1])
    embedding_PD = torch.randn(5, 24)
    batch = Mixed(torch.empty(3), labels, labels, torch.ones(3))
    with torch.no_grad():
        found = losses_of(model, torch.randn(3, 2), Pairs(embedding_PD, image_P, expert_P), batch,
                          regulariser="none", weight=0.0, negative_weight=0.1)  # fmt: skip
        terms = []
        for p, (i, e) in enumerate(zip(image_P.tolist(), expert_P.tolist(), strict=True)):
            own = labels[i].item() == e
            target = np.array([1.0, 0.0] if own else [0.0, 1.0])
            terms.append(
                (1.0 if own else 0.1) * reference_cross_entropy(model.heads[e](embedding_PD[p]).numpy(), target)
            )
    assert found.expert.item() == pytest.approx(sum(terms) / 5, rel=1e-5)


def pairs_of(labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pairs_with_negatives(torch.tensor(CLUSTERS)[labels_B], torch.Generator().manual_seed(0))


@pytest.mark.parametrize("depth", [1, 2])
def test_an_expert_without_an_image_gets_no_gradient(backbone: VisionTransformer, depth: int) -> None:
    model = MoFE(backbone, make_partition(CLUSTERS), depth)
    step = TrainingStep(model, "none", 0.0)
    labels_B = torch.tensor([0, 3, 5, 0])  # all of cluster 0
    batch = Mixed(torch.randn(4, 3, 16, 16), labels_B, labels_B, torch.ones(4))
    losses = step(batch, *pairs_of(labels_B))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(p.grad is not None and p.grad.any() for p in model.experts[0].parameters() if p.ndim > 1)
    for expert in (1, 2):
        for weight in (*model.experts[expert].parameters(), *model.heads[expert].parameters()):
            assert weight.grad is not None  # zeros, on every device
            assert not weight.grad.any()


def test_a_compiled_step_is_the_same_step(backbone: VisionTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the graph, without the minute
    model = MoFE(backbone, make_partition(CLUSTERS))
    assert TrainingStep(model, "none", 0.0).tokens == model.tokens, "it is not compiled unless asked"
    a, b = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([1, 0, 0, 5, 2, 4])
    batch = Mixed(torch.randn(6, 3, 16, 16), a, b, torch.full((6,), 0.7))
    found = []
    for compiled in (False, True):
        step = TrainingStep(model, "none", 0.0, compiled=compiled)
        assert (step.tokens == model.tokens) is not compiled
        losses = step(batch, *pairs_of(a))
        gradients = torch.autograd.grad(losses.total, list(model.parameters()), allow_unused=True)
        found.append([*losses, *(g for g in gradients if g is not None)])
    for plain, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, plain)


def test_losses_of_half_precision_are_computed_in_float32() -> None:
    """Of the values that bfloat16 holds, the losses are those of float32."""
    torch.manual_seed(0)
    logits, embedding_PD = 8 * torch.randn(6, 5), 9 * torch.randn(6, 40)
    targets = torch.rand(6, 5).softmax(dim=1)
    half, half_PD = logits.bfloat16(), embedding_PD.bfloat16()
    for loss, args, others in (
        (route_loss, (half, targets), (half.float(), targets)),
        (expert_loss, (half, targets), (half.float(), targets)),
        (embedding_norm, (half_PD,), (half_PD.float(),)),
    ):
        assert loss(*args).dtype == torch.float32
        torch.testing.assert_close(loss(*args), loss(*others), rtol=0, atol=0)


def test_router_targets_of_a_class_router_stand_at_the_classes() -> None:
    own = router_targets(torch.arange(4), torch.tensor([3, 1]), torch.tensor([0, 1]), torch.tensor([0.7, 0.6]), 4)
    torch.testing.assert_close(own, torch.tensor([[0.3, 0.0, 0.0, 0.7], [0.0, 1.0, 0.0, 0.0]]))
    absent = router_targets(torch.arange(4), torch.tensor([0]), torch.tensor([1]), torch.tensor([0.7]), 4)
    torch.testing.assert_close(absent, torch.tensor([[0.7, 0.3, 0.0, 0.0]]))  # of a batch without the last classes


def test_negatives_are_drawn_by_the_given_generator_alone() -> None:
    cluster_B = torch.arange(40) % 3
    state = torch.get_rng_state()
    first, second, other = (pairs_with_negatives(cluster_B, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("regulariser", ["none", "l2", "label-smoothing"])
@pytest.mark.parametrize("router", ["cluster", "class"])
def test_the_step_adds_the_parts_of_the_loss(backbone: VisionTransformer, regulariser: str, router: str) -> None:
    """From images to the losses, one image and one expert at a time."""
    partition = make_partition(CLUSTERS)
    model = MoFE(backbone, partition, 1, 1, router).eval()  # type: ignore[arg-type]
    torch.manual_seed(0)
    for linear in (model.router, *model.heads):
        torch.nn.init.normal_(linear.weight, std=0.3)
    a, b, lam = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([1, 0, 0, 5, 2, 4]), torch.rand(6) / 2 + 0.5
    images = torch.randn(6, 3, 16, 16)
    image_P, expert_P = pairs_of(a)
    with torch.no_grad():
        losses = TrainingStep(model, regulariser, 0.1, 0.5)(Mixed(images, a, b, lam), image_P, expert_P)
        tokens = model.tokens(images)
        route = expert = norm = 0.0
        outputs = range(6) if router == "class" else CLUSTERS
        for i in range(6):
            target = np.zeros(6 if router == "class" else 3)
            target[outputs[a[i]]] += lam[i].item()
            target[outputs[b[i]]] += 1 - lam[i].item()
            route += reference_cross_entropy(model.router(tokens[i, 0]).numpy(), target) / 6
        for i, e in zip(image_P.tolist(), expert_P.tolist(), strict=True):
            own = partition.classes_of(e)
            target = np.zeros(len(own) + 1)
            for label, weight in ((a[i].item(), lam[i].item()), (b[i].item(), 1 - lam[i].item())):
                target[own.index(label) if label in own else len(own)] += weight
            if regulariser == "label-smoothing":
                target = 0.9 * target + 0.1 / len(target)
            embedding = model.norm(model.experts[e](tokens[i : i + 1])[0, 0])
            weight = 1.0 if a[i].item() in own else 0.5
            expert += weight * reference_cross_entropy(model.heads[e](embedding).numpy(), target) / len(image_P)
            norm += embedding.double().square().sum().item() / len(image_P)
    assert losses.route.item() == pytest.approx(route, rel=1e-5)
    assert losses.expert.item() == pytest.approx(expert, rel=1e-5)
    assert losses.regulariser.item() == pytest.approx(0.1 * norm if regulariser == "l2" else 0.0, rel=1e-5)
    assert losses.total.item() == pytest.approx(sum(part.item() for part in losses))
