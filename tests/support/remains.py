"""A process like a killed one of which a thread still waits in the kernel: its first thread has
ended, and it holds no file."""

from __future__ import annotations

REMAIN = """
def remain(marker):
    import ctypes, os, threading, time
    libc = ctypes.CDLL(None)
    alone = threading.Event()
    def wait():
        libc.unshare(0x400)  # CLONE_FILES
        os.closerange(3, 1024)
        alone.set()
        while not os.path.exists(marker):
            time.sleep(0.01)
        os._exit(9)
    threading.Thread(target=wait).start()
    alone.wait()
    libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2), of this thread
"""
"""Source of ``remain(marker)``: the caller becomes such a process until the file exists."""
