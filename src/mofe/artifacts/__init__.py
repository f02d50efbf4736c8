"""Artifacts, which one stage writes and later stages read: schema, writer and reader of each.

An artifact is a folder (the partition's holds a single JSON file). Tables are Parquet; everything else is JSON,
safetensors or a FAISS index; nothing is pickled. Each artifact has a module here. So a stage runs again only if the
schema of an artifact that it reads or writes has changed.

Axes in names: N images, C classes, D features of the backbone, E experts, K = C + 1 ("others" last).
"""
