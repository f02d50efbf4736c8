"""MLflow: a stage writes events into a journal, and they are carried to the server."""
