"""The paper's "self-learning" grouping: a router that learns its clusters without labels or WordNet.

The paper gives only the name. Therefore this uses the standard principle for a linear router without supervision,
regularised information maximisation (Krause, Perona and Gomes, 2010): its choices should be confident, and spread over
all experts.

    maximise  H(mean_c p_c) − mean_c H(p_c) − λ ‖W‖²,   p_c = softmax(W z_c + b)

Axes: C classes, D features, E experts.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

RESTARTS = 10
RIDGE = 1e-2


def learn_groups(prototypes_CD: np.ndarray, num_experts: int, seed: int) -> np.ndarray:
    """Find the expert of each class, (C,); each expert gets at least one class.

    Args:
        prototypes_CD: prototypes in float64; only their directions from the mean matter.
        num_experts: E ≤ C.
        seed: seed of the router's initial weights; the best of ten starts is taken.
    """
    centred_CD = prototypes_CD - prototypes_CD.mean(axis=0)
    scale = np.linalg.norm(centred_CD, axis=1, keepdims=True)
    inputs_CD = np.c_[centred_CD / np.where(scale > 0, scale, 1), np.ones(len(centred_CD))]
    generator = np.random.default_rng(seed)
    starts = [generator.normal(0, 1.0, inputs_CD.shape[1] * num_experts) for _ in range(RESTARTS)]
    found = [
        minimize(_objective, start, (inputs_CD, num_experts), jac=True, method="L-BFGS-B", options={"maxiter": 500})
        for start in starts
    ]
    best = min(found, key=lambda result: result.fun).x.reshape(-1, num_experts)
    log_p_CE = log_softmax(inputs_CD @ best, axis=1)
    expert_C = log_p_CE.argmax(axis=1)
    for expert in np.flatnonzero(np.bincount(expert_C, minlength=num_experts) == 0):  # gets its likeliest class
        spare_C = np.bincount(expert_C, minlength=num_experts)[expert_C] > 1
        expert_C[np.where(spare_C, log_p_CE[:, expert], -np.inf).argmax()] = expert
    return expert_C


def _objective(weights: np.ndarray, inputs_CD: np.ndarray, num_experts: int) -> tuple[float, np.ndarray]:
    """The objective to minimise, and its gradient in the weights."""
    weights_DE = weights.reshape(-1, num_experts)
    log_p_CE = log_softmax(inputs_CD @ weights_DE, axis=1)
    p_CE = np.exp(log_p_CE)
    log_mean_E = np.log(p_CE.mean(axis=0) + 1e-300)
    information = (p_CE * (log_p_CE - log_mean_E)).sum(axis=1).mean()
    to_p_CE = (log_mean_E - log_p_CE) / len(inputs_CD)
    to_logits_CE = p_CE * (to_p_CE - (p_CE * to_p_CE).sum(axis=1, keepdims=True))
    gradient_DE = inputs_CD.T @ to_logits_CE + 2 * RIDGE * weights_DE
    return RIDGE * float((weights_DE**2).sum()) - float(information), gradient_DE.ravel()
