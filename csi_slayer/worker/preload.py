"""What a process loads before it forks workers, so that they start in a moment and share it."""

from __future__ import annotations

import gc


def preload() -> None:
    """Import all of a worker's code, also what it imports only when it needs it, and make what is
    the same in each. The process must have one thread and no event loop."""
    import encodings.ascii
    import encodings.idna  # noqa: F401

    import csi_slayer.store.local.open
    import csi_slayer.store.s3.open
    import csi_slayer.worker.__main__  # noqa: F401
    from csi_slayer.catalog.fresh import image
    from csi_slayer.store.s3.target import system_tls

    image()
    system_tls()
    gc.collect()
    gc.freeze()  # the collector of a worker would write to each object, and so copy its page
