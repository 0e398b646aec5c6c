"""Model clients, engines and the conversion between their dialects."""
