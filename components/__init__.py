"""The stages as Kubeflow components: each names its image, inputs and outputs, and only calls its stage."""
