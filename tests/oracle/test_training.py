"""Training with the library against training by definition (reference.py), which is given only the random draws.

The library runs in float64 in all cases but one, so the tolerance is 1e-6, nearly all of which is the 1e-6 that torch
adds to the norm when it clips. The case in float32, in which users train, has 1e-5.

Axes as in reference.py.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from helpers import TINY, make_partition, write_images
from PIL import Image
from reference import Course, Draws, Network, Settings, Training, blended, in_float64
from torch.optim.optimizer import register_optimizer_step_post_hook

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.model import Epoch
from mofe.artifacts.recipe import Recipe
from mofe.models import MoFE
from mofe.training import loop, probe
from mofe.training.loop import Embeddings, Trainer
from mofe.training.mixup import DynamicBetaMixup
from mofe.training.step import TrainingStep

CLUSTERS = (0, 1, 2, 0, 1, 0)
PER_CLASS, VALIDATION_PER_CLASS = 8, 3
TRAINING_IMAGES = len(CLUSTERS) * (PER_CLASS - VALIDATION_PER_CLASS)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SETTINGS = Settings(
    epochs=4,
    probe_epochs=3,
    probe_learning_rate=0.03,
    batch_size=6,
    micro_batch_size=6,
    learning_rate=3e-3,
    min_learning_rate=1e-6,
    warmup_epochs=0.8,
    weight_decay=0.05,
    layer_decay=0.75,
    clip_norm=1.0,
    mixup="dynamic",
    mixup_scale=0.9,
    mixup_sigma=1.0,
    fold_lambda=True,
    regulariser="label-smoothing",
    regulariser_weight=0.1,
    negative_weight=1.0,
    router="cluster",
)


@dataclass(frozen=True)
class Case:
    """A configuration, and the precision in which the library runs."""

    settings: Settings = SETTINGS
    depth: int = 1
    double: bool = True

    @property
    def tolerance(self) -> float:
        return 1e-6 if self.double else 1e-5


CASES = {
    "the method": Case(),
    "the method in float32": Case(double=False),
    "two blocks, norm penalised": Case(replace(SETTINGS, regulariser="l2", regulariser_weight=0.01,
                                                mixup_scale=1.0), depth=2),
    "the authors' code": Case(replace(SETTINGS, regulariser="none", router="class", mixup="fixed", mixup_sigma=0.3,
                                      fold_lambda=False, negative_weight=0.1)),
    "two blocks, accumulated": Case(replace(SETTINGS, batch_size=12, router="class", clip_norm=5.0), depth=2),
    "no Mixup, not clipped": Case(replace(SETTINGS, mixup="none", regulariser="none", clip_norm=0.0, epochs=2)),
}  # fmt: skip


@dataclass
class Update:
    """One step of the library's optimiser; arrays by the name of the parameter."""

    rates: dict[str, float]
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


@dataclass
class Recorder:
    """Records the random draws of a training by the library, its losses, gradients, rates and weights."""

    model: MoFE
    trunk_ND: torch.Tensor
    probe_draws: list[Draws] = field(default_factory=list)
    draws: list[Draws] = field(default_factory=list)
    sigma_B: list[np.ndarray] = field(default_factory=list)
    """The σ that each image's λ was drawn with; one array a micro-batch."""
    batches: list[Any] = field(default_factory=list)
    losses: list[tuple[float, ...]] = field(default_factory=list)
    updates: dict[int, list[Update]] = field(default_factory=dict)
    """By optimiser: first the probe's, then the one of fine-tuning."""
    latest: dict[str, Any] = field(default_factory=dict)

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Wrap the functions that draw and the training step, so that they are recorded."""
        recorder = self

        class Generator:
            """Random generator that records λ as drawn, before any folding."""

            def __init__(self, real: np.random.Generator):
                self.real = real

            def beta(self, a_B: np.ndarray, b_B: np.ndarray) -> np.ndarray:
                np.testing.assert_array_equal(a_B, b_B)
                recorder.latest.update(sigma_B=a_B, lam_B=self.real.beta(a_B, b_B))
                return recorder.latest["lam_B"]

        real_batches, real_pairs, real_losses = loop.batches, loop.pairs_with_negatives, probe.losses_of
        real_sample, real_partners = DynamicBetaMixup.sample, DynamicBetaMixup.partners
        real_forward = TrainingStep.forward

        def batches(*args: Any) -> Iterator[Any]:
            for images, labels_B, position_B in real_batches(*args):
                recorder.latest["position_B"] = position_B.tolist()
                yield images, labels_B, position_B

        def pairs_with_negatives(*args: Any) -> Any:
            pairs = real_pairs(*args)
            recorder.latest.update(zip(("image_P", "expert_P"), (t.tolist() for t in pairs), strict=True))
            return pairs

        def sample(mixup: DynamicBetaMixup, labels_B: torch.Tensor) -> torch.Tensor:
            mixup.generator = Generator(mixup.generator)  # type: ignore[assignment]
            return real_sample(mixup, labels_B)

        def partners(mixup: DynamicBetaMixup, labels_B: torch.Tensor) -> torch.Tensor:
            found_B = real_partners(mixup, labels_B)
            recorder.latest["partner_B"] = found_B.tolist()
            return found_B

        def forward(step: TrainingStep, batch: Any, *pairs: torch.Tensor) -> Any:
            losses = real_forward(step, batch, *pairs)
            recorder.batches.append(batch)
            recorder.losses.append(tuple(part.item() for part in losses))
            recorder.sigma_B.append(recorder.latest.get("sigma_B", np.empty(0)))
            recorder.draws.append(recorder.drawn())
            return losses

        def losses_of(model: MoFE, outputs: Any, pairs: Any, batch: Any, **more: Any):
            is_row_BN = (batch.images[:, None] == recorder.trunk_ND).all(dim=2)  # an image is known by its features
            assert (is_row_BN.sum(dim=1) == 1).all()
            recorder.latest["position_B"] = is_row_BN.long().argmax(dim=1).tolist()
            recorder.probe_draws.append(recorder.drawn())
            return real_losses(model, outputs, pairs, batch, **more)

        for module in (loop, probe):
            patch.setattr(module, "pairs_with_negatives", pairs_with_negatives)
        patch.setattr(loop, "batches", batches)
        patch.setattr(probe, "losses_of", losses_of)
        patch.setattr(DynamicBetaMixup, "sample", sample)
        patch.setattr(DynamicBetaMixup, "partners", partners)
        patch.setattr(TrainingStep, "forward", forward)

    def drawn(self) -> Draws:
        """Draws since the last micro-batch."""
        drawn = Draws(*(self.latest.get(name) for name in Draws._fields))  # type: ignore[arg-type]
        self.latest.clear()
        return drawn

    def updated(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        """Record a step that an optimiser has just made."""
        rate_of = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
        named = {name: p for name, p in self.model.named_parameters() if id(p) in rate_of}
        assert len(named) == len(rate_of) == sum(len(group["params"]) for group in optimiser.param_groups)
        update = Update(
            {name: rate_of[id(p)] for name, p in named.items()},
            {name: p.grad.numpy().copy() for name, p in named.items() if p.grad is not None},
            state_of(self.model),
        )
        self.updates.setdefault(id(optimiser), []).append(update)


@dataclass
class Run:
    """A training by the library beside the training by definition."""

    case: Case
    recorder: Recorder
    history: list[Epoch]
    validation: list[int]
    labels_N: list[int]
    images_N3HW: torch.Tensor
    expected: Course
    before: dict[str, np.ndarray]

    @property
    def of_probe(self) -> list[Update]:
        return next(iter(self.recorder.updates.values()))

    @property
    def of_training(self) -> list[Update]:
        return list(self.recorder.updates.values())[1]

    @property
    def per_epoch(self) -> int:
        """Number of micro-batches in an epoch."""
        return len(self.recorder.draws) // self.case.settings.epochs

    @property
    def steps_per_epoch(self) -> int:
        return len(self.of_training) // self.case.settings.epochs

    def labels(self, draws: Draws) -> list[int]:
        return [self.labels_N[i] for i in draws.position_B]


def state_of(model: MoFE) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def read_pixels(folder: str) -> tuple[torch.Tensor, list[int]]:
    """Read the normalised images and the labels of a set with pyarrow and Pillow alone."""
    tables = [pq.read_table(file) for file in sorted(Path(folder).glob("images-*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), np.float64) for row in rows])
    images_NHW3 = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).contiguous(), [row["label"] for row in rows]


def train(case: Case, folder: Path) -> Run:
    """Train with the library, then by definition with the same draws."""
    uri = write_images(folder, classes=range(len(CLUSTERS)), per_class=PER_CLASS)
    images_N3HW, labels_N = read_pixels(uri)
    torch.manual_seed(3)
    dtype = torch.float64 if case.double else torch.float32
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, init_values=0.5, **TINY).to(dtype)
    for parameter in backbone.parameters():
        parameter.data *= 3 if parameter.ndim > 1 else 1  # otherwise its features hardly depend on the image
    model = MoFE(backbone, make_partition(CLUSTERS), case.depth, 1, case.settings.router).to(dtype)  # type: ignore[arg-type]
    before = state_of(model)
    linears = {name: value for name, value in before.items() if name.startswith(("router.", "heads."))}
    network = Network(backbone, CLUSTERS, case.depth, linears)
    trunk_ND, embedding_ND = (of_ND.to(dtype) for of_ND in network.features(images_N3HW))
    trainer = Trainer(
        model=model,
        shards=ImageShards(uri),
        embeddings=lambda: Embeddings(trunk_ND, embedding_ND),
        preprocessing=Preprocessing(image_size=16, mean=MEAN, std=STD, interpolation="bicubic", crop_fraction=1.0),
        recipe=Recipe(**asdict(case.settings), drop_path=0.0, augmentation="none", expert_init="backbone",
                      validation_fraction=VALIDATION_PER_CLASS / PER_CLASS, seed=0),
        num_workers=0,
        precision="fp32",
        checkpoints=None,
    )  # fmt: skip
    recorder = Recorder(model, trunk_ND)
    hook = register_optimizer_step_post_hook(recorder.updated)
    try:
        with pytest.MonkeyPatch.context() as patch, in_float64() if case.double else nullcontext():
            recorder.watch(patch)
            patch.setattr(loop, "device", lambda: torch.device("cpu"))
            if case.double:  # including where the library calls float()
                patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            trainer.train()
    finally:
        hook.remove()
    validation = trainer.validation.tolist()
    by_definition = Training(network, images_N3HW, labels_N, validation, case.settings)
    expected = by_definition.run(recorder.probe_draws, recorder.draws)
    return Run(case, recorder, trainer.history, validation, labels_N, images_N3HW, expected, before)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(request.param, tmp_path_factory.mktemp("oracle"))


def assert_all_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], tolerance: float, when: str) -> None:
    """Check that the names are the same and that no number differs by more than the tolerance."""
    assert found.keys() == wanted.keys()
    errors = {name: np.abs(found[name] - value).max() for name, value in wanted.items()}
    too_large = {name: f"{error:.2e}" for name, error in errors.items() if not error <= tolerance}
    assert not too_large, when


def without_key_biases(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Drop the biases of the keys: no output depends on them, so in float32 AdamW moves them by rounding errors."""
    return {
        name: np.delete(w, np.arange(len(w) // 3, 2 * len(w) // 3)) if name.endswith(".qkv.bias") else w
        for name, w in weights.items()
    }


def check_pairs(draws: Draws, labels_B: Sequence[int]) -> None:
    """Check that each image meets its own expert, and each expert as many images of other clusters, if there are."""
    clusters_B = [CLUSTERS[label] for label in labels_B]
    size = len(labels_B)
    assert draws.image_P[:size] == list(range(size))
    assert draws.expert_P[:size] == clusters_B
    negatives = list(zip(draws.image_P[size:], draws.expert_P[size:], strict=True))
    assert len(set(negatives)) == len(negatives)
    assert all(clusters_B[image] != expert for image, expert in negatives)
    own = Counter(clusters_B)
    assert Counter(expert for _, expert in negatives) == {
        expert: min(count, size - count) for expert, count in own.items() if count < size
    }


def test_the_validation_split_is_a_part_of_every_class(run: Run) -> None:
    assert Counter(run.labels_N[i] for i in run.validation) == dict.fromkeys(range(len(CLUSTERS)), VALIDATION_PER_CLASS)


def test_every_epoch_meets_every_training_image_once(run: Run) -> None:
    training = set(range(len(run.labels_N))) - set(run.validation)
    of_probe = len(run.recorder.probe_draws) // run.case.settings.probe_epochs
    for draws, length in ((run.recorder.probe_draws, of_probe), (run.recorder.draws, run.per_epoch)):
        assert length * run.case.settings.micro_batch_size == TRAINING_IMAGES
        for first in range(0, len(draws), length):
            met = [i for micro_batch in draws[first : first + length] for i in micro_batch.position_B]
            assert len(met) == TRAINING_IMAGES
            assert set(met) == training


def test_each_expert_gets_its_own_images_and_as_many_of_other_clusters(run: Run) -> None:
    for draws in (*run.recorder.probe_draws, *run.recorder.draws):
        check_pairs(draws, run.labels(draws))


def test_mixup_draws_lambda_by_class_and_partners_of_other_classes(run: Run) -> None:
    for number, (draws, sigma_B) in enumerate(zip(run.recorder.draws, run.recorder.sigma_B, strict=True)):
        if run.case.settings.mixup == "none":
            assert draws.partner_B is draws.lam_B is None
            continue
        assert draws.partner_B is not None
        labels_B = run.labels(draws)
        assert all(label != labels_B[j] for label, j in zip(labels_B, draws.partner_B, strict=True))
        sigma_C = run.expected.epochs[number // run.per_epoch].sigma_C
        np.testing.assert_allclose(sigma_B, sigma_C[labels_B], rtol=1e-12)


def test_images_are_blended_by_the_lambda_that_was_drawn(run: Run) -> None:
    for draws, batch in zip(run.recorder.draws, run.recorder.batches, strict=True):
        images, mixed = blended(run.images_N3HW[list(draws.position_B)], run.labels(draws), draws, run.case.settings)
        torch.testing.assert_close(batch.images.double(), torch.stack(images), rtol=0, atol=run.case.tolerance)
        a_B, b_B, lam_B = (list(column) for column in zip(*mixed, strict=True))
        assert (batch.labels_a.tolist(), batch.labels_b.tolist()) == (a_B, b_B)
        np.testing.assert_allclose(batch.lam.numpy(), lam_B, atol=run.case.tolerance)


def test_the_probe_trains_router_and_heads_on_stored_features(run: Run) -> None:
    assert len(run.of_probe) == len(run.expected.probe)
    for number, (found, wanted) in enumerate(zip(run.of_probe, run.expected.probe, strict=True)):
        assert found.rates == pytest.approx(wanted.rates, rel=1e-9)
        assert_all_close(found.gradients, wanted.gradients, run.case.tolerance, f"gradient of probe step {number}")
        assert_all_close(found.weights, wanted.weights, run.case.tolerance, f"after probe step {number}")
    for name, value in run.before.items():
        if not name.startswith(("router.", "heads.")):
            np.testing.assert_array_equal(run.of_probe[-1].weights[name], value, err_msg=name)


def test_every_parameter_has_the_rate_of_its_layer_at_every_step(run: Run) -> None:
    assert len(run.of_training) == len(run.expected.steps)
    for found, wanted in zip(run.of_training, run.expected.steps, strict=True):
        assert found.rates == pytest.approx(wanted.rates, rel=1e-9)


def test_the_losses_are_those_of_the_equations(run: Run) -> None:
    wanted = [parts for step in run.expected.steps for parts in step.losses]
    np.testing.assert_allclose(run.recorder.losses, wanted, rtol=run.case.tolerance)


def test_the_gradient_is_clipped_as_a_whole(run: Run) -> None:
    norms = [step.total_norm for step in run.expected.steps]
    assert max(norms) > 1.2 * run.case.settings.clip_norm, "no gradient was long enough to be clipped"
    for number, (found, wanted) in enumerate(zip(run.of_training, run.expected.steps, strict=True)):
        assert_all_close(found.gradients, wanted.gradients, 3 * run.case.tolerance, f"gradient of step {number}")


def test_the_weights_after_every_step_are_those_of_adamw(run: Run) -> None:
    for number, (found, wanted) in enumerate(zip(run.of_training, run.expected.steps, strict=True)):
        both = (found.weights, wanted.weights)
        if not run.case.double:
            both = tuple(map(without_key_biases, both))
        assert_all_close(*both, run.case.tolerance, f"after step {number}")


def test_sigma_follows_the_accuracy_of_each_class_after_every_epoch(run: Run) -> None:
    truth = [run.labels_N[i] for i in run.validation]
    assert len(run.history) == len(run.expected.epochs)
    for found, wanted in zip(run.history, run.expected.epochs, strict=True):
        np.testing.assert_allclose(found.class_accuracy, wanted.accuracy_C, rtol=1e-12)
        np.testing.assert_allclose(found.sigma, wanted.sigma_C, rtol=1e-12)
        in_force = run.of_training[found.epoch * run.steps_per_epoch - 1] if found.epoch else run.of_probe[0]
        assert found.learning_rate == pytest.approx(in_force.rates["router.weight"])
        assert found.validation_accuracy == pytest.approx(np.mean(np.equal(wanted.predicted, truth)))
        assert found.router_accuracy == pytest.approx(
            np.mean([CLUSTERS[c] == e for c, e in zip(truth, wanted.routed, strict=True)])
        )


def test_the_history_has_the_mean_losses_of_every_epoch(run: Run) -> None:
    losses = np.array([parts for step in run.expected.steps for parts in step.losses])
    for epoch, found in enumerate(run.history[1:]):
        mean = losses[epoch * run.per_epoch : (epoch + 1) * run.per_epoch].mean(axis=0)
        measured = (found.route_loss, found.expert_loss, found.regulariser)
        np.testing.assert_allclose(measured, mean, rtol=run.case.tolerance)
        assert found.loss == pytest.approx(mean.sum(), rel=run.case.tolerance)
