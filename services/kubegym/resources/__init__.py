"""The environment SDK: base class, tools, verification and the session that runs them."""
