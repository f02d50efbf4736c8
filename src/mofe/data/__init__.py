"""Images: reading them from anywhere, bringing them into one form, feeding them to a model."""
