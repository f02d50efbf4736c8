from . import scores
from .knn import ExpertKNN
from .metrics import OODMetrics, ood_metrics

__all__ = ["ExpertKNN", "OODMetrics", "ood_metrics", "scores"]
