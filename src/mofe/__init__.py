"""mofe: an image classifier that knows what it does not know.

Its pipeline makes a detector from a pre-trained vision transformer and labelled images. The detector names the class
of an image, or says that the image is unknown. The stages are in :mod:`mofe.stages`; their order is
``mofe.stages.STAGES``.
"""

import os as _os
import tempfile as _tempfile

import lazy_loader as _lazy

__version__ = "0.1.0"

# a container's user may have neither HOME nor a line in /etc/passwd; NLTK and others fail where there is no home
if _os.path.expanduser("~") == "~":  # noqa: PTH111
    _os.environ["HOME"] = _tempfile.gettempdir()

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
