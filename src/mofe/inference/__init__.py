"""The trained detector, and everything that asks it: the command, the batch, the server, MLflow."""
