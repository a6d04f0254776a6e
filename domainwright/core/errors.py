"""Every error Domainwright raises on purpose.

DomainwrightError
├── ConfigError      a setting is unknown, missing or out of range   (also ValueError)
├── DataError        an input record or artifact is malformed        (also ValueError)
├── UnknownName      no method / task / strategy of that name        (also LookupError)
├── CapabilityError  this machine or install lacks something needed  (also RuntimeError)
└── RunFailed        a run failed its own checks                     (also RuntimeError)

Each error answers two questions and stops: what happened, what to do next.
Raise the leaf class. Never catch the root class inside the library.
"""


class DomainwrightError(Exception):
    """An error with a cause and a fix.

    Args:
        cause: what was found, with the offending value in it. One sentence.
        fix: the next thing to type or change. One sentence, imperative.
    """

    exit_code = 1

    def __init__(self, cause: str, fix: str) -> None:
        # Both strings go to Exception.args, which keeps the error picklable:
        # worker processes send errors home that way.
        super().__init__(cause, fix)
        self.cause, self.fix = cause, fix

    def __str__(self) -> str:
        return f"{self.cause}\n  fix: {self.fix}"


class ConfigError(DomainwrightError, ValueError):
    exit_code = 2


class DataError(DomainwrightError, ValueError):
    exit_code = 3


class UnknownName(DomainwrightError, LookupError):
    exit_code = 2


class CapabilityError(DomainwrightError, RuntimeError):
    exit_code = 4


class RunFailed(DomainwrightError, RuntimeError):
    """Diverged, learned nothing, or changed nothing. Never reported as success."""

    exit_code = 5
