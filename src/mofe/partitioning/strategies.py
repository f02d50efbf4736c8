"""The ways of dividing classes among experts, by name."""

STRATEGIES = ("wordnet-kmeans", "taxonomy", "self-learning", "kmeans++", "random")
"""``wordnet-kmeans``: the paper's. ``taxonomy``: WordNet alone, no features. The others need no WordNet;
``self-learning`` is an unsupervised router."""
