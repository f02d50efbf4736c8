"""Reports of results: HTML pages, plots, tables on the terminal, and exports."""
