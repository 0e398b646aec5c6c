"""Datasets in, metrics and merged files out."""
