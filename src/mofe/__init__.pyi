from .detector import Detector, load_detector
from .errors import MofeError

__all__ = ["Detector", "MofeError", "load_detector"]
__version__: str
