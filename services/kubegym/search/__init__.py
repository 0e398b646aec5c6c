"""Places where an environment's tools look things up: pages that are searched and read.

============= =====================================================================
``sources``   which place an environment's ``Config`` names, and opening it
``corpus``    an offline corpus with a full-text index
``web``       the web behind a search API of any shape
``tavily``    the web behind Tavily's API
``passages``  where a long page speaks of something
============= =====================================================================
"""
