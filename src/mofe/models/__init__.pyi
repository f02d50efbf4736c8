from .backbone import create_backbone, describe_backbone
from .checkpoint import load_model, save_model
from .mofe import MoFE, MoFEOutput

__all__ = ["MoFE", "MoFEOutput", "create_backbone", "describe_backbone", "load_model", "save_model"]
