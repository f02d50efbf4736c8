"""Tracking in MLflow: a stage writes events into a journal, and the events are sent to the server."""
