"""What one stage hands to the next: one class an artifact, with its schema, its writer and its reader.

An artifact is a folder (or, for the partition, a folder with one JSON file). Tables are Parquet, everything else JSON,
safetensors or a FAISS index; nothing is pickled. Each has a module here, so that a stage runs again where the contract
of something that it reads or writes has changed, and not where another has.

Axes in names: N images, C classes, D features of the backbone, E experts, K = C + 1 ("others" last).
"""
