"""Models: conversion, clients for endpoints and engines, the embedded and the simulated engine.

``convert`` is pure; ``connection`` and ``http`` are the HTTP client; ``client`` makes both a ``ModelClient``, with the
bounds of ``retry``; ``endpoint`` checks one before a run. ``embedded`` and ``simulated`` are engines.
"""
