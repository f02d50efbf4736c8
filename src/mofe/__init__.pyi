from .errors import MofeError
from .inference.detector import Detector, load_detector

__all__ = ["Detector", "MofeError", "load_detector"]
__version__: str
