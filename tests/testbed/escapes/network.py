"""Network and every other way to talk to somebody."""

from __future__ import annotations

import signal

from testbed.escapes.program import TREE, Escape, one

_SOCKET = "import socket"

ESCAPES = (
    one(
        "tcp_connect",
        "talk to a server of the machine",
        'socket.create_connection(("127.0.0.1", WORLD["port"]), 2)',
        setup=_SOCKET,
    ),
    one("tcp_listen", "let others connect", 'socket.create_server(("127.0.0.1", 0))', setup=_SOCKET),
    one("tcp6", "open a socket of IPv6", "socket.socket(socket.AF_INET6)", setup=_SOCKET),
    one(
        "udp",
        "send a datagram",
        'socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", WORLD["port"]))',
        setup=_SOCKET,
    ),
    one(
        "mptcp",
        "talk over Multipath TCP, which Landlock does not know",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
        setup=_SOCKET,
    ),
    one("sctp", "open a socket of SCTP", "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)", setup=_SOCKET),
    one("raw", "open a raw socket", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", setup=_SOCKET),
    one("packet", "read the network's packets", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", setup=_SOCKET),
    one(
        "netlink",
        "ask the kernel for the network's configuration",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
        setup=_SOCKET,
    ),
    one("vsock", "talk to the machine's host", "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)", setup=_SOCKET),
    one("alg", "use the kernel's cipher sockets", "socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)", setup=_SOCKET),
    one("bluetooth", "open a socket of Bluetooth", "socket.socket(31, socket.SOCK_RAW, 1)", setup=_SOCKET),
    one(
        "dns",
        "send data out in the names that it asks for",
        'socket.getaddrinfo("secret.example.invalid", 80)',
        setup=_SOCKET,
    ),
    one(
        "unix_path",
        "talk to a server behind a path",
        'socket.socket(socket.AF_UNIX).connect(WORLD["unix"])',
        setup=_SOCKET,
    ),
    one(
        "unix_abstract",
        "talk to a server behind an abstract name",
        'socket.socket(socket.AF_UNIX).connect("\\0" + WORLD["abstract"])',
        setup=_SOCKET,
    ),
    one(
        "docker",
        "talk to the container engine",
        'socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")',
        setup=_SOCKET,
    ),
    one(
        "socketpair_inet", "get a socket of another kind in a pair", "socket.socketpair(socket.AF_INET)", setup=_SOCKET
    ),
    Escape(
        "pair_connect",
        "connect a socket of an allowed pair to somebody",
        "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\nattempt(lambda: a.connect(WORLD['unix']))",
    ),
    Escape(
        "pair_send_to",
        "send from a socket of an allowed pair to somebody else",
        (
            "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\n"
            "attempt(lambda: a.sendto(b'x', WORLD['unix_datagram']))"
        ),
    ),
    Escape(
        "pass_descriptor",
        "hide open files in a socket's queue",
        "import socket\na, b = socket.socketpair()\nattempt(lambda: socket.send_fds(a, [b'x'], [0]))",
    ),
    one("socket_by_number", "make a socket past the library", "call(41, 2, 1, 0)"),
    Escape(
        "other_architecture",
        "make a system call of another architecture",
        "call(0x40000000 | 41, 2, 1, 0)\nprint('ESCAPED')",
        lambda done: done.signal == signal.SIGSYS,
    ),
    one("io_uring", "have the kernel open a socket in its own name", "call(425, 8, (ctypes.c_char * 256)())"),
    Escape(
        "other_program",
        "let a shell talk to a server",
        argv=("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/80 && echo ESCAPED || echo CONTAINED"),
        limits=TREE,
    ),
    one("mail", "use a message queue of the machine", 'call(240, b"escaped", 0o102, 0o600, None)'),
)
