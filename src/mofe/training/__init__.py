"""Fine-tuning: Dynamic-β Mixup, the losses of router and experts, the loop."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
