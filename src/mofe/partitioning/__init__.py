"""Partition of the classes among experts: WordNet super-categories seed a K-Means over the class prototypes."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
