"""The sandbox: code that nobody trusts, contained (docs/sandbox.md says what is promised).

``kernel``, ``syscalls``, ``places``, ``proc``, ``scratch``, ``child``, ``warden`` and ``zygote`` run in the fork server:
they import nothing but the standard library, so that little of ours is in the memory that programs inherit. The other
modules run in the caller.
"""
