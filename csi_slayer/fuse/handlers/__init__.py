"""One coroutine per request: decodes it, calls the file system, encodes the reply.

All have the form of :data:`csi_slayer.fuse.handlers.served.Handler`. What they decode must be
copied before they first wait; the body's buffer is used again then. WRITE alone may keep it.
"""
