"""Every score of the text space is the detector's function of the projected embeddings, and comes back from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch.nn.functional import normalize

from mofe.detection import text_space as module
from mofe.detection.concept_matching import gl_mcm, mcm, zero_shot_logits
from mofe.detection.ensemble import cooked, cooked_msp
from mofe.detection.gda import GDA
from mofe.detection.linear_probe import linear_probe
from mofe.detection.metrics import ood_metrics
from mofe.detection.moments import ClassMoments
from mofe.detection.negative_labels import neg_label
from mofe.detection.negative_prompts import clipn_atd, clipn_ctw, lsn
from mofe.detection.scores import msp
from mofe.detection.seen import Seen
from mofe.detection.text_space import TextSpace
from mofe.detection.texts import Texts

Z, Y = load_digits(return_X_y=True)
Z = (Z / 16).astype(np.float16)
KNOWN = np.flatnonzero(Y < 6)
TRAIN, HELD, TEST = KNOWN[:600], KNOWN[600:800], KNOWN[800:]
UNKNOWN = np.flatnonzero(Y >= 6)
RANDOM = torch.Generator().manual_seed(0)
PROJECTION = torch.randn(64, 32, generator=RANDOM) / 8
MEANS = torch.stack([torch.from_numpy(Z[TRAIN][Y[TRAIN] == c]).float().mean(dim=0) for c in range(6)])
CLASSES = normalize(MEANS @ PROJECTION, dim=1)
FAR = normalize(torch.randn(250, 32, generator=RANDOM), dim=1)
TEXTS = Texts(
    projection_DP=PROJECTION,
    logit_scale=40.0,
    class_CP=CLASSES,
    nice_CP=CLASSES.flip(1),
    negative_KP=FAR,
    clipn_no_CP=-CLASSES,
    lsn_yes_CP=CLASSES,
    lsn_no_JCP=torch.stack([-CLASSES, -CLASSES.flip(1)]),
)


@pytest.fixture(scope="module")
def space() -> TextSpace:
    fitted, refused = TextSpace.fit(TEXTS, Z[TRAIN], Y[TRAIN], Z[HELD], Y[HELD])
    assert refused == {}
    return fitted


def gaussian() -> GDA:
    """GDA of the training images as they are stored: projected, in half precision."""
    known, held = (torch.from_numpy(Z[rows]).float() @ PROJECTION for rows in (TRAIN, HELD))
    moments = ClassMoments.of([(known.half().float(), torch.from_numpy(Y[TRAIN]).long())], 6, normalise=True)
    return GDA.fit(moments, CLASSES, held, torch.from_numpy(Y[HELD]).long(), 40.0)


def ask(space: TextSpace, rows: np.ndarray) -> dict[str, np.ndarray]:
    z_BD = torch.from_numpy(Z[rows]).float()
    local_B = torch.full((len(rows),), 0.2)
    return space.score(Seen(z_BD, z_BD[:, 20:26], np.zeros(len(rows), int), pretrained_BD=z_BD, local_B=local_B))


def test_scores_are_those_of_the_functions(space: TextSpace) -> None:
    z_BD = torch.from_numpy(Z[TEST]).float()
    image_BP = z_BD @ PROJECTION
    weight, bias = linear_probe((torch.from_numpy(Z[TRAIN]).float() @ PROJECTION).half().numpy(), Y[TRAIN])
    zero_shot = 40 * normalize(image_BP, dim=1) @ CLASSES.T
    expected = {
        "msp": msp(zero_shot_logits(image_BP, CLASSES, 40.0)),
        "max_logit": zero_shot.amax(dim=1),
        "energy": zero_shot.logsumexp(dim=1),
        "mcm": mcm(image_BP, CLASSES),
        "gl_mcm": gl_mcm(image_BP, CLASSES, torch.full((len(TEST),), 0.2)),
        "cooked": cooked([zero_shot, image_BP @ weight.T + bias, z_BD[:, 20:26]]),
        "cooked_msp": cooked_msp([zero_shot, image_BP @ weight.T + bias, z_BD[:, 20:26]]),
        "neglabel": neg_label(image_BP, CLASSES.flip(1), FAR, logit_scale=40.0),
        "clipn_ctw": clipn_ctw(image_BP, CLASSES, -CLASSES, 40.0),
        "clipn_atd": clipn_atd(image_BP, CLASSES, -CLASSES, 40.0),
        "lsn": lsn(image_BP, CLASSES, [-CLASSES, -CLASSES.flip(1)]),
    }
    found = ask(space, TEST)
    assert set(found) == set(space.names)
    assert set(found) - {f"text.{name}" for name in expected} == {"text.gda_msp", "text.gda_energy"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[f"text.{name}"], values.numpy(), rtol=2e-4, atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(space.classify(z_BD), zero_shot.argmax(dim=1))
    gda_BC = gaussian().logits(image_BP)
    np.testing.assert_allclose(found["text.gda_energy"], gda_BC.logsumexp(dim=1), rtol=1e-6)
    gda_msp = gda_BC.softmax(dim=1).amax(dim=1).logit().numpy()
    small = gda_msp < 20
    assert small.sum() > 20
    np.testing.assert_allclose(found["text.gda_msp"][small], gda_msp[small], rtol=1e-4, atol=1e-4)
    assert len(np.unique(found["text.gda_msp"])) == len(TEST), "no ties"


def test_known_digits_score_above_unknown_ones(space: TextSpace) -> None:
    known, unknown = ask(space, TEST), ask(space, UNKNOWN)
    for name in ("text.msp", "text.cooked", "text.gda_msp", "text.lsn"):
        assert ood_metrics(known[name], unknown[name]).auroc > 0.7, name
    assert (space.classify(torch.from_numpy(Z[TEST])) == Y[TEST]).mean() > 0.8


def test_it_comes_back_as_it_was(space: TextSpace, tmp_path: Path) -> None:
    save_file(space.tensors(), tmp_path / "space.safetensors")
    again = TextSpace.of_tensors(load_file(tmp_path / "space.safetensors"))
    assert again.names == space.names
    before, after = ask(space, TEST), ask(again, TEST)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_what_is_not_given_or_cannot_be_fitted_is_left_out() -> None:
    rows = np.stack([TRAIN[Y[TRAIN] == c][0] for c in range(6)])
    bare = Texts(PROJECTION, 40.0, CLASSES)
    space, refused = TextSpace.fit(bare, Z[rows], Y[rows], Z[HELD], Y[HELD])
    assert set(refused) == {"text.gda_msp", "text.gda_energy"}
    assert "do not vary within any class" in refused["text.gda_msp"]
    assert set(ask(space, TEST)) == set(space.names)
    assert not {"text.neglabel", "text.lsn", "text.clipn_ctw", "text.gda_msp"} & set(space.names)
    assert TextSpace.of_tensors(space.tensors()).gda is None


def test_names_are_those_of_the_scores(space: TextSpace) -> None:
    always = ("msp", "max_logit", "energy", "mcm", "gl_mcm", "cooked", "cooked_msp")
    given = ("gda_msp", "gda_energy", "neglabel", "clipn_ctw", "clipn_atd", "lsn")
    assert space.names == tuple(f"text.{name}" for name in (*always, *given))
    assert tuple(ask(space, TEST)) == space.names
    assert all(values.dtype == np.float64 and values.shape == (len(TEST),) for values in ask(space, TEST).values())


def test_how_many_images_are_projected_at_once_changes_nothing(
    space: TextSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 70)
    again, _ = TextSpace.fit(TEXTS, Z[TRAIN], Y[TRAIN], Z[HELD], Y[HELD])
    for name, values in ask(space, TEST).items():
        np.testing.assert_allclose(ask(again, TEST)[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"clipn_no_CP": -CLASSES}, {"text.clipn_ctw", "text.clipn_atd"}),
        ({"nice_CP": CLASSES, "negative_KP": FAR}, {"text.neglabel"}),
        ({"lsn_yes_CP": CLASSES, "lsn_no_JCP": -CLASSES[None]}, {"text.lsn"}),
        ({"nice_CP": CLASSES, "lsn_yes_CP": CLASSES}, set()),
    ],
)
def test_each_kind_of_texts_brings_its_own_scores(given: dict[str, torch.Tensor], name: set[str]) -> None:
    space = TextSpace(Texts(PROJECTION, 40.0, CLASSES, **given), torch.zeros(6, 32), torch.zeros(6), None)
    scores = set(ask(space, TEST))
    assert scores == set(space.names)
    assert {n for n in scores if n.split(".")[1] not in {"msp", "max_logit", "energy", "mcm", "gl_mcm", "cooked",
            "cooked_msp"}} == name  # fmt: skip
    again = TextSpace.of_tensors(space.tensors())
    assert again.names == space.names


def test_one_class_has_no_gaussian_to_be_told_from() -> None:
    zeros = TRAIN[Y[TRAIN] == 0]
    space, refused = TextSpace.fit(
        Texts(PROJECTION, 40.0, CLASSES[:1]), Z[zeros], Y[zeros], Z[HELD][Y[HELD] == 0], Y[HELD][Y[HELD] == 0]
    )
    assert set(refused) == {"text.gda_msp", "text.gda_energy"}
    assert all("GDA needs two classes or more" in reason for reason in refused.values())
    assert space.gda is None


def test_two_classes_have_a_gaussian() -> None:
    two, held = (rows[Y[rows] < 2] for rows in (TRAIN, HELD))
    space, refused = TextSpace.fit(Texts(PROJECTION, 40.0, CLASSES[:2]), Z[two], Y[two], Z[held], Y[held])
    assert refused == {}
    assert space.gda is not None


def test_the_log_odds_of_a_sure_image_are_the_lead_of_its_class(space: TextSpace) -> None:
    """log p / (1 − p) of the largest of softmax(l) is l_1 − log Σ e^(l of the others)."""
    found = ask(space, TEST)["text.gda_msp"]
    gda = gaussian().logits(torch.from_numpy(Z[TEST]).float() @ PROJECTION).double().sort(dim=1).values
    np.testing.assert_allclose(found, gda[:, -1] - gda[:, :-1].logsumexp(dim=1), rtol=1e-5, atol=1e-5)
