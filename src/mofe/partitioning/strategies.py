"""Names of the strategies that divide classes among experts."""

STRATEGIES = ("wordnet-kmeans", "taxonomy", "self-learning", "kmeans++", "random")
"""``wordnet-kmeans`` is the paper's. ``taxonomy`` uses WordNet alone, without features. The others do not need WordNet;
``self-learning`` is an unsupervised router."""
BY_WORDNET = ("wordnet-kmeans", "taxonomy")
"""Strategies that need a synset for each class."""
