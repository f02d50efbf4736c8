"""The parameters of the pipelines: read from a file and the command line, and held against what each may be."""
