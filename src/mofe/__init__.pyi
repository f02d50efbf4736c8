from .detector import Detector, load_detector

__all__ = ["Detector", "load_detector"]
__version__: str
