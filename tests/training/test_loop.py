"""The parts of the fine-tuning loop, each with stand-ins for what it calls.

The oracle checks the numbers of a whole training, test_finetune.py a run that is stopped and resumed.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from upath import UPath

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.model import Epoch
from mofe.artifacts.recipe import Recipe
from mofe.errors import MofeError
from mofe.training import distributed, loop
from mofe.training.loop import Embeddings, Trainer
from mofe.training.mixup import DynamicBetaMixup
from mofe.training.step import Losses

CLASSES, CLUSTERS = 4, torch.tensor([0, 1, 0, 1])
LABELS = np.arange(16) % CLASSES
PREPROCESSING = Preprocessing(
    image_size=2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic", crop_fraction=1.0
)
PLACE = UPath("memory://kept")


class Model(nn.Module):
    """One weight, and the classes' experts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.register_buffer("expert_of_class_C", CLUSTERS)
        self.moved: list[Any] = []

    def to(self, device: Any) -> "Model":  # type: ignore[override]
        self.moved.append(device)
        return self


def small(**recipe: Any) -> Trainer:
    """A trainer of 16 images in four row groups; one of each class's four is for validation."""
    options = {"micro_batch_size": 4, "batch_size": 8, "validation_fraction": 0.25, "epochs": 2, "warmup_epochs": 0.0}
    shards = SimpleNamespace(
        labels_N=LABELS, info=SimpleNamespace(classes=tuple("abcd")), row_groups=[(0, g, 4) for g in range(4)]
    )
    return Trainer(
        model=Model(),  # type: ignore[arg-type]
        shards=shards,  # type: ignore[arg-type]
        embeddings=lambda: Embeddings(torch.zeros(16, 2), torch.ones(16, 2)),
        preprocessing=PREPROCESSING,
        recipe=Recipe(**{**options, **recipe}),
        num_workers=3,
        precision="bf16",
        checkpoints=None,
    )


def begun(**recipe: Any) -> Trainer:
    """A trainer whose epochs have 12 images in three micro-batches, of which two make a step."""
    trainer = small(**recipe)
    trainer.device = torch.device("cpu")
    trainer.labels_N, trainer.clusters_C = LABELS, CLUSTERS
    trainer.is_training_N = np.arange(16) >= 4
    trainer.validation = np.arange(4)
    trainer.micro_batch_size, trainer.micro_batches, trainer.accumulate, trainer.steps_per_epoch = 4, 3, 2, 2
    trainer.mixup = DynamicBetaMixup(CLASSES, 0.9)
    trainer.optimiser = torch.optim.SGD([{"params": trainer.model.weight, "lr_scale": 0.5}], lr=1.0)  # type: ignore[assignment]
    trainer.stop_requested = lambda: False
    trainer.last_saved = 0.0
    return trainer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """``clock.now`` is the time in seconds; each look at it adds ``clock.step``."""
    fake = SimpleNamespace(now=100.0, step=0.0)

    def monotonic() -> float:
        fake.now += fake.step
        return float(fake.now)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=monotonic))
    return fake


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``processes(2, rank=1)``: this process is the second of two."""

    def set_number(number: int, rank: int = 0) -> list[str]:
        waited: list[str] = []
        monkeypatch.setattr(distributed, "num_processes", lambda: number)
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "wait_for_all", lambda: waited.append("waited"))
        return waited

    return set_number


def test_micro_batches_are_grouped_to_steps() -> None:
    """Five micro-batches by two: the last step has one."""
    trainer = begun()
    trainer.micro_batches, trainer.accumulate = 5, 2
    assert [trainer._group_of(n) for n in range(5)] == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 4)]


def test_the_rate_warms_up_and_falls_by_steps() -> None:
    """Three epochs of two steps, of which the first and a half warm up: 1/3, 2/3, 1 of the peak, then the cosine."""
    trainer = begun(epochs=3, warmup_epochs=1.5, learning_rate=0.9, min_learning_rate=0.1)
    rates = [trainer._learning_rate(epoch, number) for epoch in (1, 2, 3) for number in (0, 1, 2)]
    assert rates == pytest.approx([0.3, 0.3, 0.6, 0.9, 0.9, 0.9, 0.5, 0.5, 0.1])


@pytest.mark.parametrize(
    ("recipe", "sigma"),
    [
        ({"mixup": "dynamic", "mixup_scale": 0.5}, [1.0, 0.75, 0.5, 0.5]),
        ({"mixup": "fixed", "mixup_sigma": 0.3}, [0.3] * 4),
        ({"mixup": "none", "mixup_sigma": 0.3}, [0.0] * 4),
    ],
    ids=["dynamic", "fixed", "none"],
)
def test_sigma_is_of_the_kind_of_mixup(recipe: dict[str, Any], sigma: list[float]) -> None:
    trainer = begun(**recipe)
    trainer.mixup = DynamicBetaMixup(CLASSES, trainer.recipe.mixup_scale)
    trainer._set_sigma([0.0, 0.5, 1.0, 1.0])
    assert trainer.mixup.sigma_C.tolist() == sigma


def test_the_measurements_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six validation images three are classified right and four get the right expert; the last class has none."""
    trainer, told = begun(mixup_scale=0.5), list[Epoch]()
    trainer.mixup = DynamicBetaMixup(CLASSES, 0.5)
    trainer.on_epoch = told.append
    trainer.labels_N = np.array([9, 0, 0, 1, 1, 1, 2])
    trainer.validation = np.arange(1, 7)
    monkeypatch.setattr(
        loop, "layer_rates", lambda *of: {"stem": 0.1} if of == (trainer.model, trainer.optimiser) else {}
    )
    arguments = (np.array([0.5, 0.25, 0.125]), np.array([0, 1, 1, 0, 0, 2]), np.array([0, 0, 1, 1, 0, 1]), 20.0)
    trainer._record(0, 0.01, *arguments)
    trainer._record(3, 0.02, *arguments)
    probe, epoch = told
    assert trainer.history == told
    assert (probe.epoch, probe.learning_rate, probe.layer_rates) == (0, 0.01, {})
    assert epoch == Epoch(
        epoch=3, learning_rate=0.02, layer_rates={"stem": 0.1}, loss=0.875, route_loss=0.5, expert_loss=0.25,
        regulariser=0.125, validation_accuracy=0.5, router_accuracy=4 / 6, class_accuracy=(0.5, 1 / 3, 1.0, 0.0),
        sigma=(0.75, 1 - 0.5 / 3, 0.5, 1.0), images_per_second=20.0,
    )  # fmt: skip
    assert trainer.mixup.sigma_C.tolist() == [0.75, 1 - 0.5 / 3, 0.5, 1.0]


def measured(epoch: int) -> Epoch:
    return Epoch(
        epoch=epoch, learning_rate=0.1, layer_rates={}, loss=1.0, route_loss=1.0, expert_loss=0.0, regulariser=0.0,
        validation_accuracy=0.5, router_accuracy=0.5, class_accuracy=(0.0, 0.5, epoch / 2, 1.0), sigma=(1.0,) * 4,
        images_per_second=1.0,
    )  # fmt: skip


def test_a_checkpoint_has_the_progress_and_the_history(
    monkeypatch: pytest.MonkeyPatch, processes: Callable[..., list[str]], clock: SimpleNamespace
) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(loop, "save_checkpoint", lambda *args: saved.append(args))
    trainer = begun()
    trainer.history = [measured(0)]
    trainer._save({"epoch": 1})
    assert saved == [], "there is no folder for checkpoints"
    assert trainer.last_saved == 0.0
    trainer.checkpoints = PLACE
    processes(2, rank=1)
    trainer._save({"epoch": 1})
    assert saved == [], "the first process saves"
    processes(2)
    trainer._save({"epoch": 1, "step": 2})
    expected = {"epoch": 1, "step": 2, "history": [measured(0).model_dump(mode="json")]}
    assert saved == [(PLACE, trainer.model, trainer.optimiser, expected)]
    assert trainer.last_saved == 100.0
    trainer.model.weight.data[1] = torch.inf  # type: ignore[index, union-attr]
    with pytest.raises(MofeError, match="values that are not finite"):
        trainer._save({})


def test_the_advice_depends_on_checkpoints() -> None:
    trainer = begun()
    assert trainer._advice() == "nothing was saved, as checkpoints is empty"
    trainer.checkpoints = PLACE
    assert trainer._advice() == "run the same command to resume"


@pytest.mark.parametrize(("clip_norm", "length"), [(1.0, 1.0), (2.0, 2.0), (0.0, 5.0)])
@pytest.mark.parametrize("stops", [False, True])
def test_a_step_clips_the_gradient_and_takes_the_rate_of_each_layer(
    monkeypatch: pytest.MonkeyPatch, clip_norm: float, length: float, stops: bool
) -> None:
    """The gradient (3, 4) has the norm 5."""
    trainer = begun(clip_norm=clip_norm)
    trainer.stop_requested = lambda: stops
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda values: 2 * values)
    trainer.model.weight.grad = torch.tensor([3.0, 4.0])  # type: ignore[union-attr]
    losses, stop = trainer._finish_step(np.array([1.0, 2.0, 3.0]), 0.1)
    assert losses.tolist() == [2.0, 4.0, 6.0], "those of all processes"
    assert stop is stops
    moved = torch.tensor([3.0, 4.0]) * (1 - 0.05 * length / 5)  # the layer's scale is 0.5
    torch.testing.assert_close(trainer.model.weight.data, moved)


def test_a_micro_batch_adds_its_share_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, asked = begun(), list[Any]()
    weight = trainer.model.weight

    def mixed(*args: Any) -> Any:
        asked.append(args)
        return "batch", "image_P", "expert_P"

    def step(*args: Any) -> Losses:
        assert args == ("batch", "image_P", "expert_P")
        return Losses(weight[0] * 2, weight[1] * 4, weight.sum() * 0 + 0.5)  # type: ignore[index, union-attr, operator]

    def autocast(precision: str, *, training: bool = False) -> Any:
        asked.append((precision, training))
        return nullcontext()

    monkeypatch.setattr(trainer, "_mixed", mixed)
    monkeypatch.setattr(loop, "autocast", autocast)
    trainer.step = step  # type: ignore[assignment]
    for _ in range(2):
        parts = trainer._backward("images", "labels", 3, 5, 2, 0.1)  # type: ignore[arg-type]
    assert asked == [("images", "labels", 3, 5), ("bf16", True)] * 2
    assert (parts.dtype, parts.tolist()) == (np.float64, [6.0, 16.0, 0.5])
    assert weight.grad.tolist() == [2.0, 4.0], "the mean of two"  # type: ignore[union-attr]
    trainer.step = lambda *_: Losses(weight[0], weight[1] * torch.inf, weight.sum())  # type: ignore[index, union-attr, operator, assignment]
    with pytest.raises(MofeError, match="the loss is not finite in epoch 3, micro-batch 5"):
        trainer._backward("images", "labels", 3, 5, 2, 0.1)  # type: ignore[arg-type]
    assert weight.grad.tolist() == [2.0, 4.0]  # type: ignore[union-attr]


def test_only_several_processes_can_leave_gradients_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parallel:
        def no_sync(self) -> Any:
            return nullcontext("apart")

    monkeypatch.setattr(loop, "DistributedDataParallel", Parallel)
    trainer = begun()
    for step, context in ((nn.Identity(), None), (Parallel(), "apart")):
        trainer.step = step  # type: ignore[assignment]
        with trainer._unsynchronised() as entered:  # type: ignore[func-returns-value]
            assert entered == context


PIXELS = torch.arange(8 * 12, dtype=torch.uint8).reshape(8, 3, 2, 2)
LABELS_8 = torch.arange(8) % CLASSES


def draws(trainer: Trainer, epoch: int, number: int) -> tuple[list[Any], ...]:
    """λ, the negatives, and what a layer with dropout would draw."""
    batch, image_P, expert_P = trainer._mixed(PIXELS, LABELS_8, epoch, number)
    return batch.lam.tolist(), batch.labels_b.tolist() + image_P.tolist() + expert_P.tolist(), torch.rand(4).tolist()


def test_every_draw_depends_on_seed_epoch_and_micro_batch_alone() -> None:
    first = draws(begun(seed=1), 2, 3)
    torch.manual_seed(0)
    assert draws(begun(seed=1), 2, 3) == first
    for other in (draws(begun(seed=2), 2, 3), draws(begun(seed=1), 1, 3), draws(begun(seed=1), 2, 4)):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_micro_batch_is_normalised_and_blended() -> None:
    normal = (PIXELS.float() / 255 - 0.5) / 0.5
    plain, image_P, expert_P = begun(mixup="none")._mixed(PIXELS, LABELS_8, 1, 0)
    torch.testing.assert_close(plain.images, normal)
    assert plain.labels_a.tolist() == plain.labels_b.tolist() == LABELS_8.tolist()
    assert plain.lam.tolist() == [1.0] * 8
    assert image_P[:8].tolist() == list(range(8))
    assert expert_P[:8].tolist() == CLUSTERS[LABELS_8].tolist(), "each image meets the expert of its class"
    batch, _, _ = begun(mixup="dynamic")._mixed(PIXELS, LABELS_8, 1, 0)
    assert batch.labels_a.tolist() == LABELS_8.tolist()
    assert (batch.labels_b != LABELS_8).all(), "a partner is of another class"
    assert not torch.equal(batch.images, normal)


class Bar:
    """A progress bar that counts."""

    def __init__(self, total: int):
        self.total, self.count = total, 0

    def update(self, more: int) -> None:
        self.count += more

    def set_postfix(self, **_: Any) -> None:
        pass


@pytest.fixture
def epoch_run(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> Callable[..., SimpleNamespace]:
    """Runs an epoch of a trainer whose images, losses and steps are stand-ins; returns what was called for."""

    def run(trainer: Trainer, epoch: int, steps: int, sums: list[float], stop_after: int = -1) -> SimpleNamespace:
        seen = SimpleNamespace(events=[], saved=[], bars=[], records=[], dataset=None, status=None)

        def dataset(*args: Any) -> SimpleNamespace:
            seen.dataset = SimpleNamespace(args=args, epoch=None)
            return seen.dataset

        def batches(of: Any, own: np.ndarray, size: int, workers: int) -> Iterator[Any]:
            assert of is seen.dataset
            seen.positions, seen.loaded = own.tolist(), (size, workers)
            assert trainer.model.training
            for first in range(0, len(own), size):
                rows = own[first : first + size]
                yield torch.from_numpy(rows)[:, None], torch.from_numpy(LABELS[rows]), torch.from_numpy(rows)

        def backward(images: Any, labels_B: Any, of: int, number: int, share: int, rate: float) -> np.ndarray:
            assert of == epoch
            assert LABELS[images[:, 0]].tolist() == labels_B.tolist()
            if trainer.model.weight.grad is None:
                seen.events.append("no gradient")
            trainer.model.weight.grad = torch.ones(2)
            seen.events.append(("backward", number, share, rate))
            return np.array([1.0, 10.0, 100.0]) * (number + 1)

        @contextmanager
        def unsynchronised() -> Iterator[None]:
            seen.events.append("apart")
            yield

        def finish(losses: np.ndarray, rate: float) -> tuple[np.ndarray, bool]:
            seen.events.append(("step", losses.tolist(), rate))
            return losses, sum(e[0] == "step" for e in seen.events) == stop_after

        @contextmanager
        def progress(label: str, total: int) -> Iterator[Bar]:
            seen.bars.append(Bar(total))
            yield seen.bars[-1]
            clock.now += 6.0

        trainer.model.eval()
        monkeypatch.setattr(loop, "ShardDataset", dataset)
        monkeypatch.setattr(loop, "batches", batches)
        monkeypatch.setattr(loop, "progress", progress)
        monkeypatch.setattr(loop, "training_transform", lambda *args: args)
        monkeypatch.setattr(trainer, "_backward", backward)
        monkeypatch.setattr(trainer, "_unsynchronised", unsynchronised)
        monkeypatch.setattr(trainer, "_finish_step", finish)
        monkeypatch.setattr(trainer, "_save", seen.saved.append)
        monkeypatch.setattr(trainer, "_record", lambda *args: seen.records.append(args))
        monkeypatch.setattr(trainer, "_learning_rate", lambda of, number: 10.0 * of + number)
        monkeypatch.setattr(trainer, "predict_validation", lambda: ("predicted", "routed"))
        trainer.model.weight.grad = torch.ones(2)
        try:
            trainer._train_epoch(epoch, steps, np.array(sums))
        except SystemExit as stopped:
            seen.status = stopped.code
        return seen

    return run


def order_of(epoch: int) -> list[int]:
    """The training images in the order of the epoch."""
    return [i for i in loop.shuffled_positions([4] * 4, 7, epoch).tolist() if i >= 4]


def test_an_epoch_accumulates_micro_batches_to_steps(epoch_run: Callable[..., SimpleNamespace]) -> None:
    """Three micro-batches of four images make two steps; the stand-in's losses are (1, 10, 100) times 1, 2 and 3.

    A step begins without gradients, not with zeros, because AdamW decays each weight that has a gradient.
    """
    trainer = begun(seed=7, augmentation="crop")
    seen = epoch_run(trainer, 2, 0, [0.0] * 3)
    assert seen.dataset.args == (trainer.shards, (PREPROCESSING, "crop"), 7)
    assert seen.dataset.epoch == 2
    assert (seen.positions, seen.loaded) == (order_of(2), (4, 3))
    assert seen.events == [
        "apart", "no gradient", ("backward", 0, 2, 20.0), ("backward", 1, 2, 21.0),
        ("step", [12.0, 120.0, 1200.0], 21.0),
        "no gradient", ("backward", 2, 1, 22.0), ("step", [12.0, 120.0, 1200.0], 22.0),
    ]  # fmt: skip
    ((epoch, rate, losses, predicted, routed, speed),) = seen.records
    assert (epoch, rate, losses.tolist(), predicted, routed) == (2, 22.0, [2.0, 20.0, 200.0], "predicted", "routed")
    assert speed == 12 / 6.0, "images a second"
    assert (seen.saved, seen.status) == ([], None)
    assert trainer.optimiser.param_groups[0]["lr"] == 11.0
    ((bar),) = seen.bars
    assert bar.total == bar.count == 12


def test_a_resumed_epoch_does_the_steps_that_are_left(epoch_run: Callable[..., SimpleNamespace]) -> None:
    seen = epoch_run(begun(seed=7), 1, 1, [24.0, 240.0, 2400.0])
    assert seen.positions == order_of(1)[8:]
    assert seen.events == ["no gradient", ("backward", 2, 1, 12.0), ("step", [12.0, 120.0, 1200.0], 12.0)]
    assert seen.records[0][2].tolist() == [3.0, 30.0, 300.0]
    assert seen.records[0][5] == 4 / 6.0, "only the images that were trained on count"
    assert seen.bars[0].total == seen.bars[0].count == 12
    seen = epoch_run(begun(seed=7), 1, 2, [36.0, 360.0, 3600.0])
    assert (seen.events, seen.positions) == ([], [])
    assert seen.records[0][2].tolist() == [3.0, 30.0, 300.0]
    assert seen.records[0][5] == 0.0


def test_processes_share_the_micro_batches_of_a_step(
    epoch_run: Callable[..., SimpleNamespace], processes: Callable[..., list[str]]
) -> None:
    for rank in (0, 1):
        processes(2, rank)
        trainer = begun(seed=7)
        trainer.micro_batch_size, trainer.micro_batches, trainer.accumulate = 2, 6, 4
        seen = epoch_run(trainer, 1, 0, [0.0] * 3)
        micro_batches = [order_of(1)[i : i + 2] for i in range(0, 12, 2)]
        assert seen.positions == [i for own in micro_batches[rank::2] for i in own]
        backward = [e for e in seen.events if e[0] == "backward"]
        assert [(e[1], e[2]) for e in backward] == [(rank, 2), (2 + rank, 2), (4 + rank, 1)]
        kinds = [e if isinstance(e, str) else e[0] for e in seen.events]
        assert kinds == ["apart", "no gradient", "backward", "backward", "step", "no gradient", "backward", "step"]
        assert seen.bars[0].count == 12


@pytest.mark.parametrize(("late", "saves"), [(0.0, 0), (0.5, 2)])
def test_a_checkpoint_is_written_each_quarter_of_an_hour(
    epoch_run: Callable[..., SimpleNamespace], clock: SimpleNamespace, late: float, saves: int
) -> None:
    trainer = begun(seed=7)
    trainer.last_saved = 50.0
    clock.now = 50 + 15 * 60 + late
    seen = epoch_run(trainer, 1, 0, [0.0] * 3)
    assert seen.saved == [
        {"epoch": 1, "step": 1, "sums": [12.0, 120.0, 1200.0]}, {"epoch": 1, "step": 2, "sums": [24.0, 240.0, 2400.0]}
    ][:saves]  # fmt: skip
    assert len(seen.records) == 1


def test_after_sigterm_the_step_is_saved_and_all_end(
    epoch_run: Callable[..., SimpleNamespace], processes: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    waited = processes(1)
    trainer = begun(seed=7)
    trainer.last_saved = 100.0
    seen = epoch_run(trainer, 1, 0, [0.0] * 3, stop_after=1)
    assert seen.status == 128 + signal.SIGTERM
    assert seen.saved == [{"epoch": 1, "step": 1, "sums": [12.0, 120.0, 1200.0]}]
    assert seen.records == []
    assert waited == ["waited"], "torchrun ends all processes as soon as one has ended"
    assert "stopped by SIGTERM in epoch 1 after step 1" in capsys.readouterr().out


def test_the_probe_is_trained_and_measured_on_stored_embeddings(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    clock.step = 2.0
    trainer, calls = begun(probe_epochs=5, probe_learning_rate=0.3), list[Any]()

    def called(result: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append([a.tolist() if isinstance(a, torch.Tensor) else a for a in args])
            return result

        return call

    monkeypatch.setattr(loop, "linear_probe", called(None))
    monkeypatch.setattr(loop, "predict_from_features", called(("predicted", "routed")))
    monkeypatch.setattr(trainer, "_record", lambda *args: calls.append(args))
    trainer._probe()
    trunk, final = torch.zeros(16, 2).tolist(), torch.ones(16, 2).tolist()
    probe, predict, (epoch, rate, losses, predicted, routed, speed) = calls
    assert probe == [trainer.model, trunk, final, LABELS.tolist(), list(range(4, 16)), trainer.recipe]
    assert predict == [trainer.model, trunk, final, [0, 1, 2, 3]]
    assert (epoch, rate, losses.tolist()) == (0, 0.3, [0.0] * 3)
    assert (predicted, routed) == ("predicted", "routed")
    assert speed == 12 * 5 / 2.0


def outputs(rows: np.ndarray) -> SimpleNamespace:
    """Outputs for which row r is of class r mod 3 and expert r mod 2; the last logit, of "another", is the highest."""
    logits = torch.full((len(rows), 4), -torch.inf)
    logits[np.arange(len(rows)), rows % 3] = 1.0
    logits[:, 3] = 2.0
    return SimpleNamespace(logits=logits, embedding_BD=torch.ones(len(rows), 2), expert_B=torch.from_numpy(rows % 2))


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, Any, list[Any]]]:
    """Predicts the validation images by a stand-in for the model."""

    def predict(trainer: Trainer, change: Callable[[Any], None] = lambda _: None) -> tuple[Any, Any, list[Any]]:
        loaded: list[Any] = []

        def batches(dataset: Any, own: np.ndarray, size: int, workers: int) -> Iterator[Any]:
            loaded.append((dataset, own.tolist(), size, workers))
            for first in range(0, len(own), size):
                rows = torch.from_numpy(own[first : first + size])
                yield rows[:, None, None, None].expand(-1, 3, 2, 2).to(torch.uint8), rows, rows

        def forward(images: torch.Tensor) -> SimpleNamespace:
            assert torch.is_inference_mode_enabled()
            assert not trainer.model.training
            rows = ((images[:, 0, 0, 0] * 0.5 + 0.5) * 255).round().long().numpy()
            found = outputs(rows)
            change(found)
            return found

        def autocast(precision: str, *, training: bool = False) -> Any:
            assert (precision, training) == ("bf16", True)
            return nullcontext()

        monkeypatch.setattr(loop, "ShardDataset", lambda *args: args)
        monkeypatch.setattr(loop, "evaluation_transform", lambda of: ("evaluation", of))
        monkeypatch.setattr(loop, "batches", batches)
        monkeypatch.setattr(loop, "autocast", autocast)
        monkeypatch.setattr(trainer.model, "forward", forward)
        trainer.model.train()
        return *trainer.predict_validation(), loaded

    return predict


def test_validation_images_are_predicted_among_known_classes(
    validated: Callable[..., Any], processes: Callable[..., list[str]]
) -> None:
    trainer = begun()
    trainer.validation = np.array([1, 2, 5, 7, 9, 12])
    predicted, routed, loaded = validated(trainer)
    assert predicted.tolist() == [1, 2, 2, 1, 0, 0]
    assert routed.tolist() == [1, 0, 1, 1, 1, 0]
    assert loaded == [((trainer.shards, ("evaluation", PREPROCESSING)), [1, 2, 5, 7, 9, 12], 4, 3)]


def test_each_process_predicts_its_share(
    monkeypatch: pytest.MonkeyPatch, validated: Callable[..., Any], processes: Callable[..., list[str]]
) -> None:
    gathered: list[Any] = []
    monkeypatch.setattr(distributed, "all_gather", lambda own: gathered.append(own) or f"all {len(gathered)}")
    processes(2, rank=1)
    trainer = begun()
    trainer.validation = np.array([1, 2, 5])
    assert validated(trainer)[:2] == ("all 1", "all 2")
    assert [own.tolist() for own in gathered] == [[2], [0]]
    trainer.validation = np.array([1])
    validated(trainer)
    assert [(own.tolist(), own.dtype) for own in gathered[2:]] == [([], np.int64)] * 2, "a process without images"


@pytest.mark.parametrize(
    ("name", "value"), [("logits", torch.nan), ("embedding_BD", torch.inf), ("embedding_BD", torch.nan)]
)
def test_outputs_that_are_not_finite_are_an_error(validated: Callable[..., Any], name: str, value: float) -> None:
    def change(found: Any) -> None:
        getattr(found, name)[0, 0] = value

    with pytest.raises(MofeError, match="values that are not finite"):
        validated(begun(), change)


@pytest.fixture
def trained_by(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> Callable[..., SimpleNamespace]:  # fmt: skip
    """Runs ``train`` with stand-ins for its parts; returns what was called for."""

    def run(trainer: Trainer, place: str = "cpu", resumed: Any = None) -> SimpleNamespace:
        seen = SimpleNamespace(calls=[], step=None, adamw=None, groups=None, passes=[], deterministic=None, loaded=[])

        def step(*args: Any, **options: Any) -> nn.Module:
            seen.step = (args, options)
            return nn.Identity()

        def adamw(*args: Any, **options: Any) -> str:
            seen.adamw = (args, options)
            return "optimiser"

        def groups(*args: Any) -> str:
            seen.groups = args
            return "groups"

        def pays(passes: float) -> bool:
            seen.passes.append(passes)
            return True

        def load(*args: Any) -> Any:
            seen.loaded.append(args)
            return resumed

        def parallel(module: Any, **options: Any) -> Any:
            seen.calls.append(("parallel", options))
            return SimpleNamespace(module=module)

        @contextmanager
        def deferred() -> Iterator[str]:
            seen.calls.append("deferred")
            yield "stop requested"
            seen.calls.append("no more")

        def deterministic(on: bool, *, warn_only: bool = False) -> None:
            seen.deterministic = (on, warn_only)

        monkeypatch.setattr(loop, "device", lambda: torch.device(place))
        monkeypatch.setattr(torch, "use_deterministic_algorithms", deterministic)
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        monkeypatch.setattr(torch.optim, "AdamW", adamw)
        for name, stand_in in (("TrainingStep", step), ("parameter_groups", groups), ("compiling_pays", pays),
                               ("load_checkpoint", load), ("DistributedDataParallel", parallel)):  # fmt: skip
            monkeypatch.setattr(loop, name, stand_in)
        monkeypatch.setattr(loop.termination, "deferred", deferred)
        monkeypatch.setattr(trainer, "_probe", lambda: seen.calls.append("probe"))
        monkeypatch.setattr(trainer, "_save", lambda progress: seen.calls.append(("save", progress)))
        monkeypatch.setattr(
            trainer, "_train_epoch", lambda epoch, steps, sums: seen.calls.append((epoch, steps, sums.tolist()))
        )
        trainer.train()
        return seen

    return run


def start_of(epoch: int) -> tuple[str, dict[str, Any]]:
    return ("save", {"epoch": epoch, "step": 0, "sums": [0.0, 0.0, 0.0]})


NOTHING = [0.0, 0.0, 0.0]


def test_training_begins_with_the_probe(trained_by: Callable[..., SimpleNamespace]) -> None:
    trainer = small(
        weight_decay=0.2, layer_decay=0.5, learning_rate=0.3, mixup_scale=0.4, fold_lambda=False, regulariser="l2",
        regulariser_weight=0.7, negative_weight=0.6,
    )  # fmt: skip
    seen = trained_by(trainer)
    assert seen.calls == [
        "probe", start_of(1), "deferred", (1, 0, NOTHING), start_of(2), (2, 0, NOTHING), start_of(3), "no more",
    ]  # fmt: skip
    assert seen.loaded == [], "there is no folder for checkpoints"
    assert seen.deterministic == (True, False)
    assert torch.utils.deterministic.fill_uninitialized_memory is False  # type: ignore[attr-defined]
    assert trainer.model.moved == [torch.device("cpu")]
    assert trainer.clusters_C.tolist() == CLUSTERS.tolist()
    assert trainer.labels_N is LABELS
    assert sorted(LABELS[trainer.validation]) == [0, 1, 2, 3]
    assert np.flatnonzero(~trainer.is_training_N).tolist() == trainer.validation.tolist()
    assert (trainer.micro_batch_size, trainer.micro_batches) == (4, 3)
    assert isinstance(trainer.micro_batches, int)
    assert (trainer.accumulate, trainer.steps_per_epoch) == (2, 2)
    assert seen.groups == (trainer.model, 0.2, 0.5)
    assert seen.adamw == (("groups",), {"lr": 0.3, "betas": (0.9, 0.95), "fused": False})
    assert seen.passes == [2 * 3 * 4], "images of two epochs"
    assert seen.step == ((trainer.model, "l2", 0.7, 0.6), {"compiled": True})
    assert isinstance(trainer.step, nn.Identity)
    assert (trainer.mixup.scale, trainer.mixup.fold, len(trainer.mixup.sigma_C)) == (0.4, False, CLASSES)
    assert trainer.last_saved == 100.0
    assert trainer.stop_requested == "stop requested"


def test_the_split_follows_the_seed(trained_by: Callable[..., SimpleNamespace]) -> None:
    splits = []
    for seed in (*range(6), *range(6)):
        trainer = small(seed=seed, validation_fraction=0.5)
        trained_by(trainer)
        assert sorted(LABELS[trainer.validation]) == [0, 0, 1, 1, 2, 2, 3, 3]
        splits.append(tuple(trainer.validation.tolist()))
    assert splits[:6] == splits[6:]
    assert len(set(splits)) > 1


@pytest.mark.parametrize(("place", "warn_only", "fused"), [("cuda", False, True), ("xpu", True, False)])
def test_only_cpu_and_cuda_have_all_operations_deterministic(
    trained_by: Callable[..., SimpleNamespace], place: str, warn_only: bool, fused: bool
) -> None:
    seen = trained_by(small(), place)
    assert seen.deterministic == (True, warn_only)
    assert seen.adamw[1]["fused"] is fused


def test_a_set_smaller_than_the_batch_is_one_batch(trained_by: Callable[..., SimpleNamespace]) -> None:
    trainer = small(micro_batch_size=64, batch_size=128)
    trained_by(trainer)
    assert (trainer.micro_batch_size, trainer.micro_batches) == (12, 1)
    assert (trainer.accumulate, trainer.steps_per_epoch) == (1, 1)


def test_training_is_resumed_where_it_was_saved(
    trained_by: Callable[..., SimpleNamespace], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = small(epochs=4, mixup_scale=0.5)
    trainer.checkpoints = PLACE
    history = [measured(0), measured(1), measured(2)]
    saved = {"epoch": 3, "step": 1, "sums": [1.0, 2.0, 3.0], "history": [e.model_dump(mode="json") for e in history]}
    seen = trained_by(trainer, resumed=saved)
    assert seen.loaded == [(PLACE, trainer.model, "optimiser")]
    assert seen.calls == [
        "deferred", (3, 1, [1.0, 2.0, 3.0]), start_of(4), (4, 0, NOTHING), start_of(5), "no more",
    ]  # fmt: skip
    assert trainer.history == history
    assert trainer.mixup.sigma_C.tolist() == [1.0, 0.75, 0.5, 0.5], "from the accuracy of each class after epoch 2"
    assert "resuming in epoch 3 after step 1" in capsys.readouterr().out


def test_training_begins_where_nothing_was_saved(trained_by: Callable[..., SimpleNamespace]) -> None:
    trainer = small(epochs=0)
    trainer.checkpoints = PLACE
    assert trained_by(trainer).calls == ["probe", start_of(1), "deferred", "no more"]


def test_processes_share_each_step(
    trained_by: Callable[..., SimpleNamespace], processes: Callable[..., list[str]]
) -> None:
    """Of three micro-batches of four images each of two processes takes one."""
    processes(2)
    trainer = small()
    seen = trained_by(trainer)
    assert (trainer.micro_batch_size, trainer.micro_batches) == (4, 2)
    assert (trainer.accumulate, trainer.steps_per_epoch) == (2, 1)
    assert ("parallel", {"broadcast_buffers": False, "find_unused_parameters": True}) in seen.calls
    assert isinstance(trainer.step.module, nn.Identity)
    assert not any(call[0] == "parallel" for call in trained_by(small(epochs=0)).calls)
    with pytest.raises(MofeError, match="12 training images do not give each of 2 processes a micro-batch of 12"):
        trained_by(small(micro_batch_size=64, batch_size=128))
