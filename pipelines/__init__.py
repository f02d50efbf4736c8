"""The pipelines. They only connect components. The YAML in ``compiled/`` is compiled from them, and is what runs."""
