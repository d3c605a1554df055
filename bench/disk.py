"""Keeping one measurement's files from slowing the next one's down.

ext4 does not give out the number of a deleted inode again for a minute or more, but looks at each
of them whenever a file is created in that part of the disk: after thousands of deletions a creation
takes ten times as long. So small files stay until the end of the run, and directories whose
files come and go are spread over the disk.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

LARGE = 1 << 20  # bytes


def spread(directory: Path) -> None:
    """Have ext4 place each subdirectory in a part of its own. Does nothing elsewhere."""
    directory.mkdir(parents=True, exist_ok=True)
    command = ["chattr", "+T", str(directory)]
    subprocess.run(command, capture_output=True, check=False)


def remove_large(directory: Path) -> None:
    """Free what matters: the files of a MiB and more below ``directory``, no mount point there."""
    for parent, _directories, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            if os.lstat(path).st_size >= LARGE:
                os.unlink(path)
