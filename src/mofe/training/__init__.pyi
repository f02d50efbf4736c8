from .losses import expert_loss, route_loss
from .mixup import DynamicBetaMixup, Mixed

__all__ = ["DynamicBetaMixup", "Mixed", "expert_loss", "route_loss"]
