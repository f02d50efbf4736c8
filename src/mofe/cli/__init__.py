"""The commands of the command line, one a module; each imports what it needs when it is called, for start-up counts."""
