"""Words that options choose from."""

from enum import StrEnum


class Engine(StrEnum):
    """A model in this process."""

    embedded = "embedded"
    simulated = "simulated"


class KeptTokens(StrEnum):
    """What a run keeps of token ids."""

    none = "none"
    samples = "samples"
    inline = "inline"


class LogLevel(StrEnum):
    """What is logged."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(StrEnum):
    """How a log line looks."""

    text = "text"
    json = "json"


class Listed(StrEnum):
    """What `list` lists."""

    environments = "environments"
    runs = "runs"


class ServedEngine(StrEnum):
    """What `serve model` serves."""

    simulated = "simulated"
    embedded = "embedded"


class AnswerMode(StrEnum):
    """How a simulated engine answers."""

    fixed = "fixed"
    random = "random"
    mcq = "mcq"
    scripted = "scripted"


class Kind(StrEnum):
    """What `init` writes."""

    single_step = "single-step"
    multi_step = "multi-step"
    stateful = "stateful"
    multi_turn = "multi-turn"
    judge = "judge"
    code = "code"
