"""The stages as Kubeflow components: each names its image, its inputs and outputs, and calls its stage. No logic."""
