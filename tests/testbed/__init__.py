"""Real servers for tests: built from source where there is no package, started on 127.0.0.1, ended with their test."""
