"""The pre-trained vision transformer, and the mixture of feature experts made from it."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
