"""Makes the chart's generated files: ``python -m charts.generate`` in the repository's root, ``--check`` to compare.

One typed model (``values.py``) gives ``values.yaml``, ``values.schema.json`` and the table in the chart's README;
``dashboards.py`` gives Grafana's dashboards; the CRDs are copied from ``crds/``. ``tests/unit/chart`` holds what is
committed to what this makes.
"""
