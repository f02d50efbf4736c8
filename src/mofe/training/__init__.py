"""Fine-tuning: Dynamic-β Mixup, the losses of router and experts, and the training loop."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
