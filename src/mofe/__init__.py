"""mofe: an image classifier that knows what it does not know.

From a pre-trained vision transformer and labelled images to a detector that names the class of an image or says
"I don't know this". The pipeline's stages are in :mod:`mofe.stages`; their order is ``mofe.stages.STAGES``.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
