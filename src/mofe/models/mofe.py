"""The mixture of feature experts (MoFE): a vision transformer with E copies of its last M blocks.

    images ─ trunk (first L − M blocks) ─ z⁰ ─ router: softmax(W z⁰) → expert
                                          └─── expert e: its copy of the last M blocks ─ shared norm ─ F⁰ ─ head e

A class belongs to one expert (the partition). So an expert refines the features of the classes in its cluster, and its
head has outputs for those classes and for "others".

Routing is by image: all tokens of an image go to its experts. Images are sorted by expert, so that every expert's
weights are applied to one contiguous batch. An untrained MoFE gives the pre-trained backbone's embedding, whatever the
route.

Axes: B images, T tokens, D features, E experts, S chosen experts per image (top-k), P image–expert pairs, C classes,
K = C + 1 ("others" last).
"""

import copy
from typing import Any, NamedTuple, get_args

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mofe.arguments import instance, one_of, tensor, whole
from mofe.artifacts.partition import Partition, RouterKind
from mofe.device import to_device
from mofe.errors import MofeError
from mofe.models.backbone import check_backbone, check_depth
from mofe.models.class_token import class_token_after, is_known
from mofe.models.groups import Groups, one_kernel_suits


class MoFEOutput(NamedTuple):
    """Output of the model for B images."""

    router_logits_BE: Tensor
    expert_B: Tensor
    """Expert of the highest router probability, or the one that the caller gave."""
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
        partition: expert of each class.
        depth: M, the number of last blocks that become experts.
        top_k: number of experts per image; their outputs are weighted by renormalised router probabilities.
        router: ``cluster`` has one output per expert (as in the paper); ``class`` has one output per class, and sends
            an image to the expert of the most likely class (as in the authors' code).

    Raises :class:`MofeError` where the backbone cannot carry a MoFE, or an argument is of another type or range.

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
        instance("backbone", backbone, VisionTransformer)
        check_backbone(backbone, type(backbone).__name__)
        instance("partition", partition, Partition)
        partition.check_experts()
        depth = check_depth("depth", depth, len(backbone.blocks))
        top_k = whole("top_k", top_k)
        if not 1 <= top_k <= partition.num_experts:
            raise MofeError(f"top_k = {top_k} must lie between 1 and num_experts = {partition.num_experts}")
        one_of("router", router, get_args(RouterKind))
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
        self.trunk.reset_classifier(0)  # DeiT has two heads
        self.experts: Any = nn.ModuleList(nn.Sequential(*copy.deepcopy(last)) for _ in range(self.num_experts))
        self.routes_by_class = router == "class"
        self.router = nn.Linear(self.dim, self.num_classes if router == "class" else self.num_experts)
        clusters = [partition.classes_of(e) for e in range(self.num_experts)]
        widths_E = torch.tensor([len(cluster) + self.has_others for cluster in clusters])
        self.heads = nn.ModuleList(nn.Linear(self.dim, width) for width in widths_E.tolist())
        for linear in (self.router, *self.heads):
            nn.init.trunc_normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

        self.expert_of_class_C: Tensor
        self.register_buffer("expert_of_class_C", torch.tensor(partition.expert_of_class), persistent=False)
        # the router's output for class c
        router_output = tuple(range(self.num_classes)) if router == "class" else partition.expert_of_class
        self.router_output_of_class_C: Tensor
        self.register_buffer("router_output_of_class_C", torch.tensor(router_output), persistent=False)
        # the outputs of all heads in one vector: the expert of each, and the positions of class c and of "others"
        self.expert_of_output_Q: Tensor
        self.register_buffer(
            "expert_of_output_Q", torch.arange(self.num_experts).repeat_interleave(widths_E), persistent=False
        )
        meanings = [c for cluster in clusters for c in (*cluster, *["others"] * self.has_others)]
        output_of = {meaning: output for output, meaning in enumerate(meanings)}
        self.output_of_class_C: Tensor
        self.register_buffer(
            "output_of_class_C", torch.tensor([output_of[c] for c in range(self.num_classes)]), persistent=False
        )
        self.others_output_E: Tensor
        self.register_buffer("others_output_E", widths_E.cumsum(0) - 1, persistent=False)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of the layers from the input up, for timm; a block of an expert is as deep as its original.

        As in timm's own models, the norm belongs to the last block (timm's code for that is 99999). The router and the
        heads match no pattern, and are the top layer.

        Args:
            coarse: part of timm's interface; has no effect.
        """
        return {
            "stem": r"^trunk\.(?!blocks\.)",
            "blocks": r"^trunk\.blocks\.(\d+)",
            "experts": [(r"^experts\.\d+\.(\d+)", None), (r"^norm\.", (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm does not decay in the backbone."""
        return {f"trunk.{name}" for name in self.trunk.no_weight_decay()}

    def compile_trunk(self) -> None:
        """Compile the trunk's blocks, which take nearly all the time; they share one program, made in a few seconds."""
        for block in self.trunk.blocks:
            block.compile(dynamic=False)  # one program for each batch size, whatever sizes came before

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens (B, T, D) that enter the MoFE layer, class token first, of normalised images (B, 3, H, W)."""
        return self.trunk.forward_features(images)

    def router_outputs(self, trunk_BD: Tensor) -> Tensor:
        """The router's outputs for the class embeddings, one per expert or one per class, in float32."""
        with torch.autocast(trunk_BD.device.type, enabled=False):
            return self.router(trunk_BD.float())

    def route(self, trunk_BD: Tensor) -> Tensor:
        """Router logits (B, E) of the class embeddings, in float32: the argument of the softmax of Eq. 6.

        With ``router="class"`` the logit of an expert is that of its most likely class.
        """
        outputs = self.router_outputs(trunk_BD)
        if not self.routes_by_class:
            return outputs
        lowest_BE = outputs.new_full((len(outputs), self.num_experts), -torch.inf)
        return lowest_BE.scatter_reduce(1, self.expert_of_class_C.expand(len(outputs), -1), outputs, "amax")

    def gates(self, router_logits_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices (B, S) of the top-k experts, the most likely first; the weights sum to 1 (Eq. 6).

        The softmax is over all experts. The weights are then divided by their sum, so that one expert has weight 1.
        """
        weights_BS, experts_BS = router_logits_BE.softmax(dim=1).topk(self.top_k, dim=1)
        return weights_BS / weights_BS.sum(dim=1, keepdim=True), experts_BS

    def run_experts(self, tokens_BTD: Tensor, image_P: Tensor, expert_P: Tensor) -> Tensor:
        """Send image ``image_P[p]`` through expert ``expert_P[p]``; class embeddings (P, D) before the norm (Eq. 4).

        Pairs are sorted by expert, so that an expert's weights are applied to one contiguous batch. Operations without
        weights run once for all experts. The host waits for the device at most once, not once an expert: see
        :meth:`mofe.models.groups.Groups.of`. An expert without a pair gets zero gradients.
        """
        if not len(expert_P):
            return tokens_BTD.new_zeros((0, self.dim))
        lasts = [expert[-1] for expert in self.experts]
        whole = self.depth - 1 if is_known(lasts[0]) else self.depth  # number of blocks that compute all tokens
        sized = whole > 0 or not one_kernel_suits([*lasts[0].parameters()])
        groups = Groups.of(expert_P, self.num_experts, tokens_BTD.device, sized=sized)
        image_P = to_device(image_P, tokens_BTD.device)[groups.order_P]
        if not whole:
            sorted_PD = class_token_after(lasts, tokens_BTD, groups, image_P)
        else:
            own = zip(self.experts, tokens_BTD[image_P].split(groups.sizes), strict=True)
            tokens_PTD = torch.cat([expert[:whole](some) for expert, some in own])
            sorted_PD = tokens_PTD[:, 0] if whole == self.depth else class_token_after(lasts, tokens_PTD, groups)
        return sorted_PD[torch.argsort(groups.order_P)]

    def head_outputs(self, embedding_BD: Tensor) -> Tensor:
        """Outputs (B, Q) of all heads, one after the other, in float32."""
        with torch.autocast(embedding_BD.device.type, enabled=False):
            weight_QD, bias_Q = (torch.cat([getattr(h, name) for h in self.heads]) for name in ("weight", "bias"))
            return nn.functional.linear(embedding_BD.float(), weight_QD, bias_Q)

    def output_for(self, class_P: Tensor, expert_P: Tensor) -> Tensor:
        """Position, among all heads' outputs, of the class's own output if the expert has it, else of "others"."""
        is_own_P = self.expert_of_class_C[class_P] == expert_P
        return torch.where(is_own_P, self.output_of_class_C[class_P], self.others_output_E[expert_P])

    def classify(self, embedding_BD: Tensor, expert_B: Tensor) -> Tensor:
        """Logits (B, K) of each image under its expert's head, in float32; −inf outside the expert's cluster."""
        outputs_BQ = self.head_outputs(embedding_BD)
        is_foreign_BC = self.expert_of_class_C != expert_B[:, None]
        logits_BC = outputs_BQ[:, self.output_of_class_C].masked_fill(is_foreign_BC, -torch.inf)
        if self.has_others:
            others_B1 = outputs_BQ.gather(1, self.others_output_E[expert_B][:, None])
        else:
            others_B1 = logits_BC.new_full((len(logits_BC), 1), -torch.inf)
        return torch.cat([logits_BC, others_B1], dim=1)

    def as_backbone(self) -> VisionTransformer:
        """Copy the whole network of the only expert as a plain vision transformer, to make another MoFE from it.

        Raises:
            MofeError: there are several experts.
        """
        if self.num_experts != 1:
            raise MofeError(f"the model has {self.num_experts} experts: only a model with one is a backbone")
        backbone = copy.deepcopy(self.trunk)
        backbone.blocks.extend(copy.deepcopy(self.experts[0]))
        backbone.norm = copy.deepcopy(self.norm)
        return backbone

    def _check_experts(self, expert_B: Tensor, count: int) -> None:
        tensor("experts", expert_B, 1, floating=False)
        outside = expert_B.is_cpu and bool(((expert_B < 0) | (expert_B >= self.num_experts)).any())  # a GPU would wait
        if len(expert_B) != count or outside:
            raise MofeError(f"{count} images need {count} experts, from 0 to {self.num_experts - 1}")

    def forward(self, images: Tensor, expert_B: Tensor | None = None) -> MoFEOutput:
        """Embed and classify images; F⁰ is the norm (Eq. 5) of the experts' weighted sum (Eq. 7).

        Args:
            images: images (B, 3, H, W), normalised for the backbone.
            expert_B: expert to send each image to, instead of the router's choice. It is used to build an expert's bank
                of training embeddings.

        Raises:
            MofeError: the images are not of that form, or there is not an expert for each.
        """
        if tensor("images", images, 4).shape[1] != 3:
            raise MofeError(f"images must be B × 3 × H × W, not of shape {tuple(images.shape)}")
        if expert_B is not None:
            self._check_experts(expert_B, len(images))
        tokens_BTD = self.tokens(images)
        trunk_BD = tokens_BTD[:, 0].clone()  # a view would keep all tokens in memory
        router_logits_BE = self.route(trunk_BD)
        if expert_B is None:
            weights_BS, experts_BS = self.gates(router_logits_BE)
        else:
            experts_BS = expert_B[:, None]
            weights_BS = torch.ones_like(experts_BS)
        batch, chosen = experts_BS.shape
        image_P = torch.arange(batch, device=images.device).repeat_interleave(chosen)
        output_PD = self.run_experts(tokens_BTD, image_P, experts_BS.reshape(-1))
        mixed_BD = (weights_BS[..., None] * output_PD.view(batch, chosen, self.dim)).sum(dim=1)
        embedding_BD = self.norm(mixed_BD)
        top_B = experts_BS[:, 0]
        return MoFEOutput(router_logits_BE, top_B, embedding_BD, self.classify(embedding_BD, top_B), trunk_BD)
