"""Training by its definition: one image, one expert and one parameter at a time, in float64.

It is written from the equations of docs/explanation/method.md and from the documentation of the parameters. It uses
timm's blocks, torch's autograd for gradients, scikit-learn's recall, and nothing of this library. The random draws
(images, partners, λ, negatives) are given to it.

Axes: N images of the set, B images of a micro-batch, P image–expert pairs, H × W pixels, T tokens, D features,
C classes, K outputs of a linear layer.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import recall_score
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

BETA_1, BETA_2, EPSILON = 0.9, 0.95, 1e-8
OTHERS = "others"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """The parameters of a training, by the names of the finetune stage."""

    epochs: int
    probe_epochs: int
    probe_learning_rate: float
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    min_learning_rate: float
    warmup_epochs: float
    weight_decay: float
    layer_decay: float
    clip_norm: float
    mixup: str
    mixup_scale: float
    mixup_sigma: float
    fold_lambda: bool
    regulariser: str
    regulariser_weight: float
    negative_weight: float
    router: str


class Draws(NamedTuple):
    """Random draws of one micro-batch."""

    position_B: Sequence[int]
    """Images of the set."""
    partner_B: Sequence[int] | None
    """The image of the micro-batch that each one is blended with; None without Mixup."""
    lam_B: Sequence[float] | None
    """λ as it was drawn, not folded; None without Mixup."""
    image_P: Sequence[int]
    expert_P: Sequence[int]


class Losses(NamedTuple):
    """The parts of L = L_route + L_expert (Eq. 8-10) + Reg (Eq. 14)."""

    route: Any
    expert: Any
    regulariser: Any


@dataclass
class Step:
    """One optimiser step; arrays by the name of the parameter."""

    rates: dict[str, float]
    losses: list[tuple[float, ...]]
    """Route, expert and regulariser of each micro-batch."""
    total_norm: float
    """Norm of the whole gradient before clipping."""
    gradients: Arrays
    """After clipping."""
    weights: Arrays
    """After the step."""


@dataclass
class Measured:
    """Measurements on the validation images after the probe (epoch 0) or an epoch."""

    predicted: list[int]
    routed: list[int]
    accuracy_C: np.ndarray
    sigma_C: np.ndarray


@dataclass
class Course:
    """A whole training: the steps of the probe, the steps of fine-tuning, and what was measured."""

    probe: list[Step] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    epochs: list[Measured] = field(default_factory=list)


class Network:
    """A vision transformer whose last M blocks exist E times (Eq. 4-7).

    Args:
        backbone: the pre-trained transformer.
        clusters: the expert of each class.
        depth: M.
        linears: first weights and biases of the router and the heads, by name.
    """

    def __init__(self, backbone: VisionTransformer, clusters: Sequence[int], depth: int, linears: Arrays):
        self.stem = copy.deepcopy(backbone).double()
        blocks = list(self.stem.blocks)
        self.shared = blocks[:-depth]
        self.experts = [copy.deepcopy(blocks[-depth:]) for _ in range(max(clusters) + 1)]
        self.clusters = clusters
        self.outputs = [[*(c for c, own in enumerate(clusters) if own == e), OTHERS] for e in range(len(self.experts))]
        self.top = len(blocks) + 1
        self.parameters: dict[str, nn.Parameter] = {}
        self.layer: dict[str, int] = {}
        self.decayed: dict[str, bool] = {}

        for name, parameter in self.stem.named_parameters():
            if not name.startswith(("blocks.", "norm.", "head.")):
                self._add(f"trunk.{name}", parameter, 0)
        for i, block in enumerate(self.shared):
            self._add_all(f"trunk.blocks.{i}", block, i + 1)
        for e, copies in enumerate(self.experts):
            for m, block in enumerate(copies):
                self._add_all(f"experts.{e}.{m}", block, len(self.shared) + m + 1)
        self._add_all("norm", self.stem.norm, len(blocks))
        for name, value in linears.items():
            self._add(name, nn.Parameter(torch.tensor(value, dtype=torch.float64)), self.top)

    def _add_all(self, prefix: str, module: nn.Module, layer: int) -> None:
        for name, parameter in module.named_parameters():
            self._add(f"{prefix}.{name}", parameter, layer)

    def _add(self, name: str, parameter: nn.Parameter, layer: int) -> None:
        self.parameters[name] = parameter
        self.layer[name] = layer
        self.decayed[name] = parameter.ndim > 1 and name not in ("trunk.cls_token", "trunk.pos_embed")

    def linear(self, name: str, x_D: Tensor) -> Tensor:
        return self.parameters[f"{name}.weight"] @ x_D + self.parameters[f"{name}.bias"]

    def tokens(self, image_3HW: Tensor) -> Tensor:
        """The tokens of one image (1, T, D) that enter the MoFE layer."""
        patches_1TD = self.stem.patch_embed(image_3HW[None])
        x_1TD = torch.cat([self.stem.cls_token, patches_1TD], dim=1) + self.stem.pos_embed
        for block in self.shared:
            x_1TD = block(x_1TD)
        return x_1TD

    def embedding(self, tokens_1TD: Tensor, expert: int) -> Tensor:
        """F⁰ of one image through one expert."""
        for block in self.experts[expert]:
            tokens_1TD = block(tokens_1TD)
        return self.stem.norm(tokens_1TD[:, 0])[0]

    def expert_of(self, trunk_D: Tensor, settings: Settings) -> int:
        best = int(self.linear("router", trunk_D).argmax())
        return self.clusters[best] if settings.router == "class" else best

    def class_by(self, embedding_D: Tensor, expert: int) -> int:
        """The likeliest of the expert's own classes."""
        own = self.outputs[expert][:-1]
        return own[int(self.linear(f"heads.{expert}", embedding_D)[: len(own)].argmax())]

    def predict(self, image_3HW: Tensor, settings: Settings) -> tuple[int, int]:
        """Class and expert of one image."""
        with torch.no_grad():
            tokens_1TD = self.tokens(image_3HW)
            expert = self.expert_of(tokens_1TD[0, 0], settings)
            return self.class_by(self.embedding(tokens_1TD, expert), expert), expert

    def features(self, images_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """z⁰ and F⁰ (N, D) of images while all experts are still equal."""
        with torch.no_grad():
            tokens = [self.tokens(image) for image in images_N3HW]
            return torch.stack([t[0, 0] for t in tokens]), torch.stack([self.embedding(t, 0) for t in tokens])

    def state(self) -> Arrays:
        return {name: p.detach().numpy().copy() for name, p in self.parameters.items()}


def losses_by_definition(
    network: Network,
    trunk_B: Sequence[Tensor],
    embedding_P: Sequence[Tensor],
    mixed: Sequence[tuple[int, int, float]],
    pairs: Sequence[tuple[int, int]],
    settings: Settings,
    regulariser: str,
) -> Losses:
    """Eq. 8-10, a sum over images and a sum over pairs.

    Args:
        network: owner of the router and the heads.
        trunk_B: z⁰ of each image.
        embedding_P: F⁰ of each pair.
        mixed: class of x_i, class of x_j and λ̂ of each image.
        pairs: image and expert.
        settings: weights of the terms.
        regulariser: kind of Reg.
    """
    route = torch.zeros(())
    for trunk_D, (a, b, lam) in zip(trunk_B, mixed, strict=True):
        log_p_K = network.linear("router", trunk_D).log_softmax(0)
        means = range(len(network.clusters)) if settings.router == "class" else network.clusters
        route = route - lam * log_p_K[means[a]] - (1 - lam) * log_p_K[means[b]]

    expert_sum, norm = torch.zeros(()), torch.zeros(())
    smoothed = settings.regulariser_weight if regulariser == "label-smoothing" else 0.0
    for embedding_D, (image, expert) in zip(embedding_P, pairs, strict=True):
        a, b, lam = mixed[image]
        outputs = network.outputs[expert]
        log_p_K = network.linear(f"heads.{expert}", embedding_D).log_softmax(0)
        target_K = [smoothed / len(outputs)] * len(outputs)
        for label, share in ((a, lam), (b, 1 - lam)):
            target_K[outputs.index(label if label in outputs else OTHERS)] += (1 - smoothed) * share
        term = -sum(t * log_p for t, log_p in zip(target_K, log_p_K, strict=True))
        expert_sum = expert_sum + term * (1.0 if network.clusters[a] == expert else settings.negative_weight)
        norm = norm + (embedding_D**2).sum()
    penalty = settings.regulariser_weight * norm / len(pairs) if regulariser == "l2" else torch.zeros(())
    return Losses(route / len(trunk_B), expert_sum / len(pairs), penalty)


class AdamW:
    """AdamW by its published formula (Loshchilov and Hutter), one parameter at a time."""

    def __init__(self) -> None:
        self.steps = 0
        self.moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def step(self, weights: Arrays, gradients: Arrays, rates: Mapping[str, float], decays: Mapping[str, float]) -> None:
        """θ ← θ − η λ θ − η m̂ / (√v̂ + ε), in place."""
        self.steps += 1
        for name, g in gradients.items():
            m, v = self.moments.get(name, (np.zeros_like(g), np.zeros_like(g)))
            m = BETA_1 * m + (1 - BETA_1) * g
            v = BETA_2 * v + (1 - BETA_2) * g**2
            self.moments[name] = m, v
            m_hat, v_hat = m / (1 - BETA_1**self.steps), v / (1 - BETA_2**self.steps)
            shrunk = weights[name] * (1 - rates[name] * decays[name])
            weights[name][...] = shrunk - rates[name] * m_hat / (np.sqrt(v_hat) + EPSILON)


def rate_at(step: int, steps: int, warmup: int, peak: float, least: float) -> float:
    """Rate of a step: linear from 0 to ``peak``, then half a cosine down to ``least`` in the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return least + (peak - least) * (1 + math.cos(math.pi * (step - warmup) / (steps - 1 - warmup))) / 2


def sigma_of(accuracy_C: np.ndarray, settings: Settings) -> np.ndarray:
    """σ = max(1 − w s, 0.05) of each class (Eq. 12), or the same for all classes."""
    if settings.mixup == "dynamic":
        return np.array([max(1 - settings.mixup_scale * s, 0.05) for s in accuracy_C])
    return np.full(len(accuracy_C), settings.mixup_sigma if settings.mixup == "fixed" else 0.0)


def blended(
    images_B3HW: Tensor, labels_B: Sequence[int], draws: Draws, settings: Settings
) -> tuple[list[Tensor], list[tuple[int, int, float]]]:
    """x̂ = λ̂ x_i + (1 − λ̂) x_j (Eq. 11 and 13); beside each image both classes and λ̂."""
    if draws.partner_B is None or draws.lam_B is None:
        return list(images_B3HW), [(label, label, 1.0) for label in labels_B]
    images, mixed = [], []
    for i, (j, drawn) in enumerate(zip(draws.partner_B, draws.lam_B, strict=True)):
        lam = max(drawn, 1 - drawn) if settings.fold_lambda else drawn
        images.append(lam * images_B3HW[i] + (1 - lam) * images_B3HW[j])
        mixed.append((labels_B[i], labels_B[j], lam))
    return images, mixed


class Training:
    """A probe and epochs of steps, with a measurement on the validation images after each.

    Args:
        network: the untrained network; training changes it in place.
        images_N3HW: normalised, float64.
        labels_N: their classes.
        validation: positions of the images that are not trained on.
        settings: the parameters.
    """

    def __init__(
        self,
        network: Network,
        images_N3HW: Tensor,
        labels_N: Sequence[int],
        validation: Sequence[int],
        settings: Settings,
    ):
        self.network = network
        self.images_N3HW = images_N3HW
        self.labels_N = labels_N
        self.validation = validation
        self.settings = settings
        self.trunk_ND, self.embedding_ND = network.features(images_N3HW)

    def run(self, probe: Sequence[Draws], micro_batches: Sequence[Draws]) -> Course:
        """Train with the given draws: one for every step of the probe, one for every micro-batch of fine-tuning."""
        with in_float64():
            course = Course(probe=list(self._probe(probe)))
            by_features = [self._predict_from_features(i) for i in self.validation]
            course.epochs.append(self._measured(by_features))
            per_epoch = len(micro_batches) // self.settings.epochs
            accumulated = self.settings.batch_size // self.settings.micro_batch_size
            steps = -(-per_epoch // accumulated)
            warmup = round(self.settings.warmup_epochs * steps)
            optimiser = AdamW()
            for epoch in range(self.settings.epochs):
                of_epoch = micro_batches[epoch * per_epoch : (epoch + 1) * per_epoch]
                for number in range(steps):
                    s = self.settings
                    rate = rate_at(
                        epoch * steps + number, s.epochs * steps, warmup, s.learning_rate, s.min_learning_rate
                    )
                    together = of_epoch[number * accumulated : (number + 1) * accumulated]
                    course.steps.append(self._step(optimiser, together, rate))
                predictions = [self.network.predict(self.images_N3HW[i], self.settings) for i in self.validation]
                course.epochs.append(self._measured(predictions))
            return course

    def _probe(self, draws: Sequence[Draws]) -> Iterator[Step]:
        """Train router and heads on the stored features, without Mixup or clipping; the rate is a cosine to 0."""
        s = self.settings
        optimiser = AdamW()
        names = [name for name in self.network.parameters if self.network.layer[name] == self.network.top]
        regulariser = "label-smoothing" if s.regulariser == "label-smoothing" else "none"
        for number, (position_B, _, _, image_P, expert_P) in enumerate(draws):
            labels_B = [self.labels_N[i] for i in position_B]
            losses = losses_by_definition(
                self.network,
                [self.trunk_ND[i] for i in position_B],
                [self.embedding_ND[position_B[i]] for i in image_P],
                [(label, label, 1.0) for label in labels_B],
                list(zip(image_P, expert_P, strict=True)),
                s,
                regulariser,
            )
            gradients = self._gradients(sum(losses), names)
            rate = s.probe_learning_rate * (1 + math.cos(math.pi * number / len(draws))) / 2
            yield self._changed(optimiser, gradients, dict.fromkeys(names, rate), [losses], math.nan)

    def _step(self, optimiser: AdamW, micro_batches: Sequence[Draws], peak: float) -> Step:
        s, network = self.settings, self.network
        found, total = [], torch.zeros(())
        for draws in micro_batches:
            labels_B = [self.labels_N[i] for i in draws.position_B]
            images, mixed = blended(self.images_N3HW[list(draws.position_B)], labels_B, draws, s)
            tokens = [network.tokens(image) for image in images]
            pairs = list(zip(draws.image_P, draws.expert_P, strict=True))
            embeddings = [network.embedding(tokens[image], expert) for image, expert in pairs]
            trunk_B = [t[0, 0] for t in tokens]
            losses = losses_by_definition(network, trunk_B, embeddings, mixed, pairs, s, s.regulariser)
            found.append(losses)
            total = total + sum(losses) / len(micro_batches)
        gradients = self._gradients(total, list(network.parameters))
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        factor = min(1.0, s.clip_norm / norm) if s.clip_norm else 1.0
        clipped = {name: g * factor for name, g in gradients.items()}
        rates = {name: peak * s.layer_decay ** (network.top - layer) for name, layer in network.layer.items()}
        return self._changed(optimiser, clipped, rates, found, norm)

    def _gradients(self, loss: Any, names: Sequence[str]) -> Arrays:
        parameters = [self.network.parameters[name] for name in names]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return {
            name: (torch.zeros_like(p) if g is None else g).numpy()
            for name, p, g in zip(names, parameters, gradients, strict=True)
        }

    def _changed(
        self, optimiser: AdamW, gradients: Arrays, rates: dict[str, float], losses: Sequence[Losses], norm: float
    ) -> Step:
        weights = {name: self.network.parameters[name].detach().numpy() for name in gradients}  # the same memory
        decays = {name: self.settings.weight_decay * self.network.decayed[name] for name in gradients}
        optimiser.step(weights, gradients, rates, decays)
        parts = [tuple(part.item() for part in of_batch) for of_batch in losses]
        return Step(rates, parts, norm, gradients, self.network.state())

    def _predict_from_features(self, position: int) -> tuple[int, int]:
        with torch.no_grad():
            expert = self.network.expert_of(self.trunk_ND[position], self.settings)
            return self.network.class_by(self.embedding_ND[position], expert), expert

    def _measured(self, predictions: Sequence[tuple[int, int]]) -> Measured:
        predicted, routed = (list(column) for column in zip(*predictions, strict=True))
        truth = [self.labels_N[i] for i in self.validation]
        classes = range(len(self.network.clusters))
        accuracy_C = recall_score(truth, predicted, labels=list(classes), average=None)
        return Measured(predicted, routed, accuracy_C, sigma_of(accuracy_C, self.settings))


@contextmanager
def in_float64() -> Iterator[None]:
    """Make float64 the default type of new tensors."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
