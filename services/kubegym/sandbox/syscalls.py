"""Which system calls untrusted code may make, and which are refused by name.

What is in no list does not exist for the program (ENOSYS): a kernel's new calls are closed until somebody opens them.
"""

from __future__ import annotations

from typing import Final


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ALLOWED: Final = _names("""
    access alarm arch_prctl brk capget chdir clock_getres clock_gettime clock_nanosleep close close_range
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait
    eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir fdatasync flock
    fstat fstatfs fsync ftruncate futex futex_waitv get_robust_list getcpu getcwd getdents getdents64 getegid geteuid
    getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid kill link linkat lseek lstat madvise
    membarrier mincore mkdir mkdirat mlock mlock2 mmap mprotect mremap msync munlock munmap nanosleep newfstatat open
    openat pause pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll pread64 preadv preadv2 pselect6 pwrite64
    pwritev pwritev2 read readahead readlink readlinkat readv recvfrom rename renameat renameat2 restart_syscall rmdir
    rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_yield select sendfile set_robust_list set_tid_address
    setitimer setpgid setrlimit shutdown sigaltstack splice stat statfs statx symlink symlinkat sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times tkill truncate umask uname unlink unlinkat vmsplice wait4 waitid write writev
""")
"""Harmless, or held by Landlock, rlimits and the user id."""

REFUSED: Final = _names("""
    accept accept4 acct add_key adjtimex bind bpf capset chmod chown chroot clock_adjtime clock_settime connect
    delete_module fanotify_init fanotify_mark fchmod fchmodat fchmodat2 fchown fchownat finit_module fremovexattr
    fsconfig fsetxattr fsmount fsopen fspick futimesat get_mempolicy init_module inotify_add_watch inotify_init
    inotify_init1 io_destroy io_getevents io_pgetevents io_setup io_submit io_uring_enter io_uring_register
    io_uring_setup ioperm iopl ioprio_set kcmp kexec_file_load kexec_load keyctl landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown listen lookup_dcookie lremovexattr lsetxattr mbind
    memfd_create memfd_secret migrate_pages mknod mknodat mlockall mount mount_setattr move_mount move_pages
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd
    name_to_handle_at open_by_handle_at open_tree perf_event_open pidfd_getfd pidfd_open pidfd_send_signal pivot_root
    process_madvise process_mrelease process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot recvmmsg
    recvmsg removexattr request_key sched_setattr sched_setparam sched_setscheduler seccomp semctl semget semop
    semtimedop sendmmsg sendmsg set_mempolicy setdomainname setfsgid setfsuid setgid setgroups sethostname setns
    setpriority setregid setresgid setresuid setreuid setsid setsockopt settimeofday setuid setxattr shmat shmctl shmdt
    shmget socket swapoff swapon sync syncfs syslog umount2 unshare uselib userfaultfd utime utimensat utimes vhangup
""")
"""Each is a way out, a channel to others, or a change to what others see: EPERM, and the warden notes it."""

ABSENT: Final = ("clone3", "openat2", "epoll_ctl_old", "epoll_wait_old")
"""Their arguments lie in memory, where a filter cannot look."""

COUNTED: Final = ("clone", "fork", "vfork")
"""New threads and processes: the warden counts them for this execution alone."""

ALLOWED_WITH: Final = (
    ("socketpair", 0, (1,)),  # AF_UNIX
    ("sendto", 4, (0,)),  # to the other end, never to an address
    # include/uapi/linux/prctl.h: names of threads and of memory; what only asks.
    ("prctl", 0, (2, 3, 15, 16, 21, 23, 27, 39, 46, 48, 0x53564D41)),
    # include/uapi/asm-generic/fcntl.h, linux/fcntl.h: no owners, leases, notifications or larger pipes.
    ("fcntl", 1, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)),
    # include/uapi/asm-generic/ioctls.h: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
    ("ioctl", 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    ("prlimit64", 0, (0,)),  # of itself, never of another process
    ("sched_setaffinity", 0, (0,)),
    ("personality", 0, (0xFFFFFFFF,)),  # asks
)
"""Calls that some values of one argument (its index, counted from 0) make harmless; others are refused."""

ADDRESSES: Final = ("sendto",)
"""Of these the argument that is looked at is an address, of 64 bits."""

# include/uapi/linux/sched.h
CLONE_THREAD: Final = 0x00010000
NEW_NAMESPACES: Final = 0x7E020080

LISTENER_DESCRIPTOR: Final = 512
"""Where the child holds the socket on which it hands over the filter's listener. Above every program's limit of
descriptors, so that ``sendmsg`` on it is nobody's afterwards."""
