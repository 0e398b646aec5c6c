"""The API server: a small protocol, its asynchronous client and its in-process twin.

Plain dicts go in and out. Nothing here knows a kind of ours: kinds are named by ``apiVersion`` and ``kind``, and the
server is asked how it calls them.
"""
