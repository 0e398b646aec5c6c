"""The kinds of ``kubegym.dev`` as the operator reads them: the models of ``kubegym.core.spec``, and what a cluster adds.

``conditions`` and ``reasons`` are the words of a status, ``status`` its schema, ``rules`` what the API server refuses,
``crdgen`` writes the CustomResourceDefinitions.
"""
