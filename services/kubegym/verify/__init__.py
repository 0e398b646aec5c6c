r"""Verification methods: the parts that an environment's ``verify`` is made of (docs/verification.md).

Pure parts read and compare; the others ask a model, a process or the sandbox. None gives a reward of its own accord:
the environment does, and a part that cannot do its work raises.

================== ===================================================================================
``text``           exact match, normalised text, regular expressions, ``\boxed{}``, code blocks, JSON
``choice``         a letter out of options, by NeMo Gym's rules
``numbers``        numbers, with a tolerance
``sets``           sets and how far they overlap
``schema``         JSON schemas (extra ``verify``)
``symbolic``       mathematical expressions, by math-verify in a process of its own (extra ``verify``)
``programs``       code by tests, in the sandbox
``state``          the state that a rollout left
``judge``          judge models: labels, both orders, several judges and their majority
``equivalence``    judge models: whether two answers are the same
``rubric``         judge models: criteria with weights
``reward_model``   reward models, by the engine's pooling endpoint
``rewards``        named rewards with weights, shaping, one a turn, relative to the group
``headline``       the numbers that graded environments have in common
================== ===================================================================================
"""
