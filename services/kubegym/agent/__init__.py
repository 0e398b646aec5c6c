"""Harnesses: the conversation loop as a pure step function, and its driver."""
