"""The graphs. They only wire components; what runs is the YAML compiled from them, beside them."""
