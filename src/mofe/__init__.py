"""mofe: an image classifier that knows what it does not know.

Its pipeline makes a detector from a pre-trained vision transformer and labelled images. The detector names the class
of an image, or says that the image is unknown. The stages are in :mod:`mofe.stages`; their order is
``mofe.stages.STAGES``.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
