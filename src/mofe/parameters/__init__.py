"""The parameters of the pipelines: reads them from a file and the command line, and checks their values."""
