"""The trained detector, and everything that uses it: the command, the batch, the server, MLflow."""
