"""Reading and writing at local paths and URIs: every file is written completely or not at all, with checksums."""
