"""Ends its main thread and goes on in another one: /proc then shows a zombie that is none."""

import ctypes
import platform
import signal
import threading

SYS_EXIT = {"x86_64": 60, "aarch64": 93}[platform.machine()]


def go_on() -> None:
    main.join(0.1)  # a moment for the other one to end; /proc is what the test looks at
    print("ready", flush=True)
    signal.sigwait({signal.SIGUSR1})


main = threading.main_thread()
threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall(SYS_EXIT, 0)
