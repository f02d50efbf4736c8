"""Files that are not Python but belong to the package: the compiled pipeline, and what its images are built from."""
