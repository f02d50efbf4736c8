"""Measure metrics, bootstrap and every detector that pytorch-ood also has, on the same arrays.

    python benchmarks/metrics_and_detectors.py [--quick]

Scores and features are generated: classes are Gaussians, the head predicts the nearest mean, OOD images lie between
the classes. 50 000 ID and 40 000 OOD images are evaluated. If a peer would take minutes, both detectors score only the
first images; the table says how many.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_ood import detector as peers
from pytorch_ood.metrics import OODMetrics as TheirMetrics
from side_by_side import Table, Target, alternately, options, ratio, write
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor, nn

from mofe.detection.activations import DICE, ReAct, ash_b, ash_p, ash_s, head_energy, scale
from mofe.detection.bootstrap import bootstrap_intervals
from mofe.detection.concept_matching import mcm
from mofe.detection.decision_boundary import FDBD
from mofe.detection.gaussian import Mahalanobis, RelativeMahalanobis
from mofe.detection.hopfield import SHE
from mofe.detection.kl_matching import KLMatching
from mofe.detection.knn import ExpertKNN
from mofe.detection.metrics import ood_metrics
from mofe.detection.moments import ClassMoments
from mofe.detection.nnguide import NNGuide
from mofe.detection.scores import energy, generalised_entropy, max_logit, msp, negative_entropy
from mofe.detection.subspace import ViM
from mofe.detection.temperature import TemperatureScaling

SEED, PRINCIPAL, K = 0, 512, 50


class Data(NamedTuple):
    """Training features and labels, a head, and features of images to score (ID and OOD, mixed); float32."""

    train_ND: Tensor
    labels_N: Tensor
    weight_CD: Tensor
    bias_C: Tensor
    new_BD: Tensor

    def logits(self, z_BD: Tensor) -> Tensor:
        return z_BD @ self.weight_CD.T + self.bias_C


def data(train: int, new: int, classes: int, width: int) -> Data:
    generator = torch.Generator().manual_seed(SEED)
    means_CD = torch.randn(classes, width, generator=generator)
    labels_N = torch.arange(train) % classes
    train_ND = means_CD[labels_N] + torch.randn(train, width, generator=generator)
    other_B = torch.randint(classes, (2, new), generator=generator)
    half = means_CD[other_B[0]] + 0.5 * (torch.arange(new) % 9 >= 5)[:, None] * (
        means_CD[other_B[1]] - means_CD[other_B[0]]
    )
    new_BD = half + torch.randn(new, width, generator=generator)
    return Data(train_ND, labels_N, means_CD / 8, -means_CD.square().sum(1) / 16, new_BD)


class Pair(NamedTuple):
    """Our detector and the peer's: the result of fit is passed to score; higher means more ID in both."""

    images: int
    fit: Callable[[], Any]
    score: Callable[[Any, Tensor], Any]
    their_fit: Callable[[], Any]
    their_score: Callable[[Any, Tensor], Any]


def pairs(d: Data, few: int) -> dict[str, Pair]:
    """Every detector that both have; only ``few`` images if the peer is slow."""
    everything, width, classes = len(d.new_BD), d.train_ND.shape[1], len(d.bias_C)
    head = nn.Linear(width, classes).requires_grad_(False)
    head.weight.data, head.bias.data = d.weight_CD, d.bias_C
    found: dict[str, Pair] = {}

    logits_BC = d.logits(d.new_BD)

    def of_logits(name: str, ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor]) -> None:
        found[name] = Pair(
            everything, lambda: None, lambda _, z_BD: ours(logits_BC),
            lambda: None, lambda _, z_BD: -theirs(logits_BC),
        )  # fmt: skip

    of_logits("MSP", msp, peers.MaxSoftmax(None).predict_logits)
    of_logits("MaxLogit", max_logit, peers.MaxLogit(None).predict_logits)
    of_logits("Energy", energy, peers.EnergyBased(None).predict_logits)
    of_logits("Entropy", negative_entropy, peers.Entropy.score)
    of_logits("GEN", generalised_entropy, lambda logits: peers.GEN.score(logits, gamma=0.1, M=100))

    def of_shape(name: str, shape: Callable[[Tensor], Tensor], theirs: Any) -> None:
        found[name] = Pair(
            everything, lambda: None, lambda _, z_BD: head_energy(shape(z_BD.relu()), d.weight_CD, d.bias_C),
            lambda: None, lambda _, z_BD: -theirs.predict_feature_maps(z_BD.relu()[:, :, None, None]),
        )  # fmt: skip

    pooled = nn.Sequential(nn.Flatten(), head)
    for name, shape, pruned in (("ash-p", ash_p, 0.6), ("ash-b", ash_b, 0.65), ("ash-s", ash_s, 0.9)):
        of_shape(name.upper(), shape, peers.ASH(None, pooled, percentile=pruned, variant=name))
    of_shape("SCALE", scale, peers.SCALE(None, pooled, percentile=0.85))

    train_logits = d.logits(d.train_ND)
    doubtful_N = torch.where(torch.arange(len(d.labels_N)) % 10 == 0, d.labels_N.roll(1), d.labels_N)
    found["temperature"] = Pair(
        everything, lambda: TemperatureScaling.fit(train_logits, doubtful_N), lambda t, _: t.score(logits_BC),
        lambda: _fitted(peers.TemperatureScaling(None), "fit_logits", train_logits, doubtful_N),
        lambda t, _: -t.predict_logits(logits_BC).detach(),
    )  # fmt: skip
    found["KL matching"] = Pair(
        few, lambda: KLMatching.fit(train_logits), lambda t, z: t.score(d.logits(z)),
        lambda: _fitted(peers.KLMatching(None), "fit_logits", train_logits),
        lambda t, z: -t.predict_logits(d.logits(z)),
    )  # fmt: skip
    found["MCM"] = Pair(
        everything, lambda: None, lambda _, z: mcm(z, d.weight_CD),
        lambda: peers.MCM(None, d.weight_CD), lambda t, z: -t.predict_features(z),
    )  # fmt: skip

    def moments() -> ClassMoments:
        return ClassMoments.of([(d.train_ND, d.labels_N)], classes)

    def of_features(name: str, images: int, ours: Callable[[], Any], theirs: Any,
                    score: Callable[[Any, Tensor], Any] = lambda t, z: t.score(z)) -> None:  # fmt: skip
        found[name] = Pair(
            images, ours, score,
            lambda: _fitted(theirs, "fit_features", d.train_ND, d.labels_N), lambda t, z: -t.predict_features(z),
        )  # fmt: skip

    of_features("Mahalanobis", few, lambda: Mahalanobis.fit(moments()), peers.Mahalanobis(None))
    of_features("relative Mahalanobis", few, lambda: RelativeMahalanobis.fit(moments()), peers.RMD(None))
    of_features(
        "ViM", everything, lambda: ViM.fit(moments(), [d.train_ND], d.weight_CD, d.bias_C, min(PRINCIPAL, width // 2)),
        peers.ViM(None, min(PRINCIPAL, width // 2), d.weight_CD, d.bias_C),
    )  # fmt: skip
    of_features("DICE", few, lambda: DICE.fit(d.train_ND.mean(0), d.weight_CD, d.bias_C),
                peers.DICE(None, d.weight_CD, d.bias_C, 0.7))  # fmt: skip
    of_features("SHE", everything, lambda: SHE.fit([(d.train_ND, d.labels_N, train_logits.argmax(1))], classes),
                peers.SHE(None, head), lambda t, z: t.score(z, d.logits(z).argmax(1)))  # fmt: skip
    of_features("NNGuide", few, lambda: NNGuide.fit(d.train_ND, train_logits), peers.NNGuide(None, head, 10),
                lambda t, z: t.score(z, d.logits(z)))  # fmt: skip
    of_features("fDBD", few, lambda: FDBD.fit(d.train_ND.mean(0), d.weight_CD, d.bias_C), peers.fDBD(None, head))
    of_features("KNN", few, lambda: ExpertKNN.build(d.train_ND.numpy(), None, K), peers.KNN(None, k=K),
                lambda t, z: t.score(z.numpy(), np.zeros(len(z), int)))  # fmt: skip
    found["KNN"] = found["KNN"]._replace(  # pytorch-ood's does not normalise lengths
        their_fit=lambda: _fitted(peers.KNN(None, k=K), "fit_features", unit(d.train_ND), d.labels_N),
        their_score=lambda t, z: -t.predict_features(unit(z)),
    )
    found["ReAct"] = Pair(
        everything, lambda: ReAct.fit(d.train_ND), lambda t, z: t.score(z, d.weight_CD, d.bias_C),
        lambda: _fitted(peers.ReAct(None, head, percentile=0.9), "fit_feature_maps", d.train_ND, d.labels_N),
        lambda t, z: -t.predict_feature_maps(z),
    )  # fmt: skip
    return found


def unit(z_BD: Tensor) -> Tensor:
    return nn.functional.normalize(z_BD, dim=1)


def _fitted(detector: Any, method: str, *arrays: Tensor) -> Any:
    getattr(detector, method)(*arrays)
    return detector


def compared(pair: Pair, z_BD: Tensor, rounds: int) -> tuple[float, float, float, str, float]:
    """Measure seconds to score, ratios of scoring and fitting, and whether both give the same order of images."""
    fitted: dict[str, Any] = {}
    scores: dict[str, Any] = {}
    fit = alternately(
        {
            "ours": lambda: fitted.update(ours=pair.fit()),
            "theirs": lambda: fitted.update(theirs=pair.their_fit()),
        },
        1,
    )
    score = alternately(
        {
            "ours": lambda: scores.update(ours=pair.score(fitted["ours"], z_BD)),
            "theirs": lambda: scores.update(theirs=pair.their_score(fitted["theirs"], z_BD)),
        },
        rounds,
    )
    ranks = [torch.as_tensor(values).double().argsort().argsort().double() for values in scores.values()]
    return (
        float(np.median(score["ours"])),
        float(np.median(score["theirs"])),
        ratio(score["theirs"], score["ours"]),
        f"{ratio(fit['theirs'], fit['ours']):.2f}" if fitted["ours"] is not None else "–",
        float(torch.corrcoef(torch.stack(ranks))[0, 1]),
    )


def metrics(known: int, unknown: int, resamples: int, rounds: int) -> tuple[list[Any], list[Target]]:
    """Measure the five metrics of one score, and the intervals of two."""
    rng = np.random.default_rng(SEED)
    id_scores, ood_scores = rng.normal(1.5, 1, known), rng.normal(0, 1.3, unknown)
    is_id = np.r_[np.ones(known, int), np.zeros(unknown, int)]
    scores = np.r_[id_scores, ood_scores]
    tensor, labels = torch.from_numpy(-scores), torch.from_numpy(is_id - 1).int()

    def scikit_learn() -> None:
        for positive, values in ((is_id, scores), (1 - is_id, -scores)):
            fpr, tpr, _ = roc_curve(positive, values, drop_intermediate=False)
            fpr[np.argmax(tpr >= 0.95)]
            average_precision_score(positive, values)
        roc_auc_score(is_id, scores)

    def pytorch_ood() -> None:
        theirs = TheirMetrics()
        theirs.update(tensor, labels)
        theirs.compute()

    seconds = alternately(
        {"mofe": lambda: ood_metrics(id_scores, ood_scores), "scikit-learn": scikit_learn, "pytorch-ood": pytorch_ood},
        rounds,
    )
    ours = seconds["mofe"]
    rows: list[Any] = [(f"five metrics, {name}", float(np.median(s)), ratio(s, ours)) for name, s in seconds.items()]

    def naive(times: int) -> None:
        for _ in range(times):
            a, b = rng.choice(id_scores, known), rng.choice(ood_scores, unknown)
            roc_auc_score(is_id, np.r_[a, b])
            np.mean(b >= np.sort(a)[known - int(np.ceil(0.95 * known))])

    drawn = alternately(
        {"mofe": lambda: bootstrap_intervals(id_scores, ood_scores, resamples=resamples), "loop": lambda: naive(20)}, 1
    )
    loop = drawn["loop"][0] / 20 * resamples
    rows += [
        (f"bootstrap, {resamples} resamples, mofe", drawn["mofe"][0], 1.0),
        ("a loop around scikit-learn (from 20 resamples)", loop, loop / drawn["mofe"][0]),
    ]
    slowest = min(ratio(seconds[name], ours) for name in ("scikit-learn", "pytorch-ood"))
    return rows, [
        Target("metrics", "no slower than either", f"{slowest:.2f} × at the least", slowest >= 1),
        Target(f"bootstrap of {resamples}", "seconds", f"{drawn['mofe'][0]:.1f} s", drawn["mofe"][0] < 60),
    ]


def main() -> None:
    """Measure, print and write the figures."""
    given = options(__doc__ or "")
    sizes, train, few, classes, width, resamples, rounds = (50_000, 40_000), 20_000, 500, 100, 768, 1000, 5
    if given.quick:
        sizes, train, few, classes, width, resamples, rounds = (500, 400), 600, 100, 6, 16, 20, 1
    rows, targets = metrics(*sizes, resamples, rounds)
    d = data(train, sum(sizes), classes, width)
    found = [
        (name, pair.images, *compared(pair, d.new_BD[: pair.images], rounds)) for name, pair in pairs(d, few).items()
    ]
    slower = [f"{row[0]} ({row[4]:.2f} ×)" for row in found if row[4] < 1]
    targets.append(
        Target(f"{len(found)} detectors, scoring", "none slower than pytorch-ood",
               f"slower: {', '.join(slower)}" if slower else f"least: {min(row[4] for row in found):.2f} ×", not slower)
    )  # fmt: skip
    tables = [
        Table(f"{sizes[0]:,} ID and {sizes[1]:,} OOD scores", ("", "seconds", "time, mofe = 1"), rows),
        Table(f"Detectors, fitted on {train:,} × {width}, {classes} classes",
              ("", "images scored", "mofe, s", "pytorch-ood, s", "scoring, ×", "fitting, ×", "correlation of ranks"),
              found),
    ]  # fmt: skip
    notes = ["Times of scoring include the logits where a detector makes them of features. Fitting is timed once."]
    write("metrics_and_detectors", given, tables, targets, notes, seed=SEED, rounds=rounds)


if __name__ == "__main__":
    main()
