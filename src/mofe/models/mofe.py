"""The mixture of feature experts: a vision transformer whose last M blocks exist E times.

    images ─ trunk (first L − M blocks) ─ z⁰ ─ router: softmax(W z⁰) → expert
                                          └─── expert e: its copy of the last M blocks ─ shared norm ─ F⁰ ─ head e

A class belongs to one expert (the partition), so an expert refines the features of the classes that share its cluster,
and its head knows those classes and one more: "others".

Notable: routing is by image, all tokens of an image go to its experts; images are sorted by expert so that every
expert runs once on a contiguous batch; an untrained MoFE gives the untouched backbone's embedding, whatever the route.

Axes: B images, T tokens, D features, E experts, S chosen experts an image (top-k), P image–expert pairs, C classes,
K = C + 1 ("others" last).
"""

import copy
from typing import NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mofe.artifacts.partition import Partition, RouterKind
from mofe.errors import MofeError
from mofe.models.class_token import class_token_after


class MoFEOutput(NamedTuple):
    """What the model says of B images."""

    router_logits_BE: Tensor
    expert_B: Tensor
    """The expert of the highest router probability, or the one that the caller asked for."""
    embedding_BD: Tensor
    """Final class embedding F⁰ (after the norm), not L2-normalised."""
    logits: Tensor
    """B × K: the expert's logits at its own classes, "others" in the last column, −inf at other experts' classes."""
    trunk_BD: Tensor
    """Class embedding z⁰ that enters the MoFE layer."""


class MoFE(nn.Module):
    """Mixture of feature experts on a vision transformer (Eq. 4-7 of the paper).

    Args:
        backbone: a timm vision transformer with class token; it is copied, not changed.
        partition: class → expert.
        depth: M, how many of the last blocks become experts.
        top_k: how many experts an image is sent to; their outputs are weighted by renormalised router probabilities.
        router: ``cluster`` has one output an expert (the paper's); ``class`` has one a class, and sends an image to
            the expert of the likeliest class (the authors' code's).

    With one expert there are no "others": the model is the backbone with a plain linear head.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        partition: Partition,
        depth: int = 1,
        top_k: int = 1,
        router: RouterKind = "cluster",
    ):
        super().__init__()
        if not 1 <= depth < len(backbone.blocks):
            raise MofeError(f"depth {depth} must lie between 1 and {len(backbone.blocks) - 1}")
        if not 1 <= top_k <= partition.num_experts:
            raise MofeError(f"top_k = {top_k} must lie between 1 and num_experts = {partition.num_experts}")
        self.depth = depth
        self.top_k = top_k
        self.num_experts = partition.num_experts
        self.num_classes = len(partition.classes)
        self.dim: int = backbone.embed_dim
        self.has_others = partition.num_experts > 1

        self.trunk = copy.deepcopy(backbone)
        last = self.trunk.blocks[-depth:]
        self.trunk.blocks = self.trunk.blocks[:-depth]
        self.norm: nn.Module = self.trunk.norm
        self.trunk.norm = nn.Identity()
        self.trunk.head = nn.Identity()
        self.experts = nn.ModuleList(copy.deepcopy(last) for _ in range(self.num_experts))
        self.routes_by_class = router == "class"
        self.router = nn.Linear(self.dim, self.num_classes if router == "class" else self.num_experts)
        clusters = [partition.classes_of(e) for e in range(self.num_experts)]
        cluster_sizes = [len(cluster) for cluster in clusters]
        self.head_widths = [size + self.has_others for size in cluster_sizes]
        self.heads = nn.ModuleList(nn.Linear(self.dim, width) for width in self.head_widths)
        for linear in (self.router, *self.heads):
            nn.init.trunc_normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

        self.expert_of_class_C: Tensor
        self.register_buffer("expert_of_class_C", torch.tensor(partition.expert_of_class), persistent=False)
        # which output of the router stands for class c
        output_of_class = range(self.num_classes) if router == "class" else partition.expert_of_class
        self.router_output_of_class_C: Tensor
        self.register_buffer("router_output_of_class_C", torch.tensor(tuple(output_of_class)), persistent=False)
        self.others_slot_E: Tensor
        self.register_buffer("others_slot_E", torch.tensor(cluster_sizes), persistent=False)
        # where class c stands in its expert's head
        slot_of_class = {c: slot for cluster in clusters for slot, c in enumerate(cluster)}
        self.slot_of_class_C: Tensor
        slots = torch.tensor([slot_of_class[c] for c in range(self.num_classes)])
        self.register_buffer("slot_of_class_C", slots, persistent=False)

    def tokens(self, images: Tensor) -> Tensor:
        """The tokens (B, T, D) that enter the MoFE layer, class token first; images (B, 3, H, W), normalised."""
        return self.trunk.forward_features(images)

    def router_outputs(self, trunk_BD: Tensor) -> Tensor:
        """The router's own outputs, an expert each or a class each, of the class embeddings; in float32."""
        with torch.autocast(trunk_BD.device.type, enabled=False):
            return self.router(trunk_BD.float())

    def route(self, trunk_BD: Tensor) -> Tensor:
        """Router logits (B, E) of the class embeddings, in float32 (Eq. 4); an expert's is its likeliest class's."""
        outputs = self.router_outputs(trunk_BD)
        if not self.routes_by_class:
            return outputs
        lowest_BE = outputs.new_full((len(outputs), self.num_experts), -torch.inf)
        return lowest_BE.scatter_reduce(1, self.expert_of_class_C.expand(len(outputs), -1), outputs, "amax")

    def gates(self, router_logits_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers (B, S) of the top-k experts, the likeliest first; the weights sum to 1 (Eq. 5)."""
        weights_BS, experts_BS = router_logits_BE.softmax(dim=1).topk(self.top_k, dim=1)
        return weights_BS / weights_BS.sum(dim=1, keepdim=True), experts_BS

    def run_experts(self, tokens_BTD: Tensor, image_P: Tensor, expert_P: Tensor) -> Tensor:
        """Send image ``image_P[p]`` through expert ``expert_P[p]``; class embeddings (P, D) before the norm (Eq. 6).

        Pairs are sorted by expert, so each expert runs once on a contiguous batch. The host waits for the device once
        (for the sizes of the groups), not once an expert, and not at all where the pairs are on the CPU.
        """
        device = tokens_BTD.device
        order_P, sizes = by_expert(expert_P, self.num_experts)
        groups = tokens_BTD[image_P[order_P].to(device, non_blocking=True)].split(sizes)
        pairs = zip(self.experts, groups, strict=True)
        outputs = [class_token_after(expert.children(), group) for expert, group in pairs if len(group)]
        sorted_PD = torch.cat(outputs) if outputs else tokens_BTD.new_zeros((0, self.dim))
        return sorted_PD[torch.argsort(order_P).to(device, non_blocking=True)]

    def classify(self, embedding_BD: Tensor, expert_B: Tensor) -> Tensor:
        """Logits (B, K) of each image under its expert's head, in float32; −inf outside the expert's cluster."""
        logits_BK = embedding_BD.new_full((len(embedding_BD), self.num_classes + 1), -torch.inf, dtype=torch.float32)
        with torch.autocast(embedding_BD.device.type, enabled=False):
            widest = max(self.head_widths)
            stacked_EBQ = torch.stack([_padded(head(embedding_BD.float()), widest) for head in self.heads])
        own_BQ = stacked_EBQ[expert_B, torch.arange(len(expert_B), device=expert_B.device)]
        mine_BC = self.expert_of_class_C[None, :] == expert_B[:, None]
        by_class_BC = own_BQ.gather(1, self.slot_of_class_C.expand(len(own_BQ), -1))
        logits_BK[:, :-1] = torch.where(mine_BC, by_class_BC, -torch.inf)
        if self.has_others:
            logits_BK[:, -1] = own_BQ.gather(1, self.others_slot_E[expert_B][:, None])[:, 0]
        return logits_BK

    def as_backbone(self) -> VisionTransformer:
        """A copy of the only expert's whole network as a plain vision transformer, to make another MoFE from.

        Raises:
            MofeError: there are several experts.
        """
        if self.num_experts != 1:
            raise MofeError(f"{self.num_experts} experts do not make one backbone")
        backbone = copy.deepcopy(self.trunk)
        backbone.blocks.extend(copy.deepcopy(self.experts[0]))
        backbone.norm = copy.deepcopy(self.norm)
        return backbone

    def forward(self, images: Tensor, expert_B: Tensor | None = None) -> MoFEOutput:
        """Embed and classify images; F⁰ is the norm of the experts' weighted sum (Eq. 7).

        Args:
            images: (B, 3, H, W), normalised as the backbone wants it.
            expert_B: send each image to this expert instead of where the router would (for building a bank of
                training embeddings "as seen through expert e").
        """
        tokens_BTD = self.tokens(images)
        trunk_BD = tokens_BTD[:, 0]
        router_logits_BE = self.route(trunk_BD)
        if expert_B is None:
            weights_BS, experts_BS = self.gates(router_logits_BE)
        else:
            experts_BS = expert_B[:, None]
            weights_BS = torch.ones_like(experts_BS, dtype=torch.float32)
        batch, chosen = experts_BS.shape
        image_P = torch.arange(batch, device=images.device).repeat_interleave(chosen)
        output_PD = self.run_experts(tokens_BTD, image_P, experts_BS.reshape(-1))
        mixed_BD = (weights_BS[..., None].to(output_PD.dtype) * output_PD.view(batch, chosen, self.dim)).sum(dim=1)
        embedding_BD = self.norm(mixed_BD)
        top_B = experts_BS[:, 0]
        return MoFEOutput(router_logits_BE, top_B, embedding_BD, self.classify(embedding_BD, top_B), trunk_BD)


def by_expert(expert_P: Tensor, num_experts: int) -> tuple[Tensor, list[int]]:
    """The order (P,) that sorts pairs by their expert, and how many pairs each expert has.

    Where the pairs are on a device and there are several experts, the host waits for it, once.
    """
    order_P = torch.argsort(expert_P, stable=True)
    if num_experts == 1:
        return order_P, [len(expert_P)]
    return order_P, (expert_P == torch.arange(num_experts, device=expert_P.device)[:, None]).sum(dim=1).tolist()


def _padded(logits_BQ: Tensor, width: int) -> Tensor:
    return nn.functional.pad(logits_BQ, (0, width - logits_BQ.shape[1]), value=-torch.inf)
