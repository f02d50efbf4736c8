from .losses import expert_loss, route_loss
from .mixup import DynamicBetaMixup, Mixed
from .recipe import Recipe

__all__ = ["DynamicBetaMixup", "Mixed", "Recipe", "expert_loss", "route_loss"]
