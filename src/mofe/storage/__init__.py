"""Where things lie and how they are read and written: local paths and URIs, whole or not at all, with checksums."""
