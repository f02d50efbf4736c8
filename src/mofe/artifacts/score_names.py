"""The names of all scores that a detector may have, so that a wrong one is refused before any work.

Which of them a detector has depends on its training images and parameters; its manifest lists them.
"""

OWN = ("knn", "msp", "max_logit", "energy")
"""Scores that every detector has."""
_OF_LOGITS = ("msp", "max_logit", "energy", "entropy", "gen", "ash_p", "ash_b", "ash_s", "scale")
_FITTED = (
    "temperature", "kl_matching", "mahalanobis", "mahalanobis++", "relative_mahalanobis", "ssd", "residual", "vim",
    "react", "dice", "she", "nnguide", "fdbd",
)  # fmt: skip
_OF_TEXTS = (
    "msp", "max_logit", "energy", "mcm", "gl_mcm", "cooked", "cooked_msp", "gda_msp", "gda_energy", "neglabel",
    "clipn_ctw", "clipn_atd", "lsn",
)  # fmt: skip
IN_SPACES = {
    "pretrained": ("knn", *_OF_LOGITS, *_FITTED),
    "tuned": ("knn", "mos", *_OF_LOGITS, *_FITTED),
    "expert": (*_OF_LOGITS, *_FITTED),
    "text": _OF_TEXTS,
}
"""Scores of the detectors that are fitted for comparison, by the space that their names begin with."""
ALL = (*OWN, *(f"{space}.{name}" for space, names in IN_SPACES.items() for name in names))
