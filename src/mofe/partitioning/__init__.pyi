from .clusters import partition_classes
from .seeds import Supercategory, supercategories
from .strategies import STRATEGIES
from .wordnet import ensure_wordnet, resolve_synsets

__all__ = [
    "STRATEGIES",
    "Supercategory",
    "ensure_wordnet",
    "partition_classes",
    "resolve_synsets",
    "supercategories",
]
