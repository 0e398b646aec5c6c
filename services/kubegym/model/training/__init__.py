"""How the shipped chat model is made: ``python -m kubegym.model.training OUT`` (needs the ``training`` extra).

``problems`` and ``chat_format`` import the standard library only, so that an environment can pose the same questions
and keep to the same held-out split without torch.
"""
